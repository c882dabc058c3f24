"""The recipe's section `linear`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from soco_core.config_fields import PositiveFloat, PositiveInt, Section


class LinearConfig(Section):
    """Linear evaluation on labelled images (B): a classifier on the pooled C5; backbone and batch-norm statistics are
    fixed."""

    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (30.0,)
    """Initial learning rate (B: 30), for batches of `batch_size`; not scaled. Several train a classifier each on the
    same forward passes: all are reported, and the best top-1 counts."""
    scale: str = ""
    """How `--scale` shortened the evaluation, for people; empty: it did not."""
    epochs: PositiveInt = 100
    """Passes over the training images (B)."""
    batch_size: PositiveInt = 256
    """Images in a step (B)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD (B)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of SGD (B)."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.6, 0.8)
    """Shares of the steps after which the learning rate drops by a factor of 10 (the paper is silent; MoCo: after 60
    and 80 of 100 epochs)."""
    image_size: PositiveInt = 224
    """Side in pixels of the crops that are trained on and evaluated (B)."""
    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Least area of a training crop, as a share of the image's (B: random crops; 0.08 is common practice)."""
    resize: PositiveInt = 256
    """Side in pixels that an evaluated image is resized to before its centre is cropped (B)."""
    resize_mode: Literal["square", "short-side"] = "square"
    """`square`: both sides become `resize` (B: 256x256); `short-side`: the short one does, and the shape is kept (MoCo
    and most others)."""
    knn_neighbours: PositiveInt = 20
    """Nearest training images that vote in the k-NN accuracy (not in the paper; DINO: 20)."""
    knn_temperature: PositiveFloat = 0.07
    """A neighbour's vote is exp(cosine similarity / temperature) (Wu et al. 2018, DINO)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates {list(self.learning_rates)} has one twice")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must increase")
        if self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) is below image_size ({self.image_size}), which is cropped of it")
        return self
