"""Labelled data sets: COCO, Pascal VOC and LVIS as one model, ImageNet's labels, and the check of them all."""
