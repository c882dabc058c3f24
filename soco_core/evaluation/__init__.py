"""The one evaluator of all detectors: COCO's, LVIS's and VOC07's average precision (paper 4.2-4.5)."""

from soco_core.evaluation.evaluator import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
