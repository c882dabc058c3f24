"""Weights for other detectors: canonical names to torchvision's and detectron2's, and back."""
