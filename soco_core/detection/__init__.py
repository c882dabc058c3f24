"""The paper's detectors on COCO, Pascal VOC and LVIS, by the engines torchvision and detectron2 (4.2 to 4.5)."""
