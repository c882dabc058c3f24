"""The engine `detectron2`: its detectors, trained and evaluated by the code that serves both engines."""
