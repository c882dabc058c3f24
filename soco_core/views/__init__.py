"""Views of an image: construction, boxes, batched augmentation (paper 3.2, 4.1)."""
