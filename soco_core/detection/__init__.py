"""Mask R-CNN R50-FPN on a COCO-format data set: the torchvision engine (4.2)."""
