"""The recipe's section `finetune`: the detector and its training (4.2 to 4.5)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from soco_core.config_fields import PositiveFloat, PositiveInt, Probability, Section

Detector = Literal["mask-rcnn-fpn", "mask-rcnn-c4", "faster-rcnn-c4", "retinanet", "fcos"]


class FinetuneConfig(Section):
    """A detector and its training on a labelled data set.

    The defaults are those of Mask R-CNN R50-FPN on COCO's 1x schedule (4.2, detectron2's settings).
    """

    detector: Detector = "mask-rcnn-fpn"
    """`mask-rcnn-fpn` (4.2), `mask-rcnn-c4` (4.3), `faster-rcnn-c4` (4.3, VOC: no masks), `retinanet` or `fcos`
    (Table 7: no masks either)."""
    engine: Literal["auto", "torchvision", "detectron2"] = "auto"
    """Whose detector it is: `torchvision`, or `detectron2`, the paper's; `auto` is detectron2 where it is installed."""

    benchmark: str = "coco-fpn-1x"
    """Name of the benchmark; the report shows the paper's rows for those of the paper."""
    scale: str = ""
    """How `--scale` shortened the benchmark, for people; empty: it did not."""
    iterations: PositiveInt = 90_000
    """Training steps (1x: 90,000)."""
    batch_size: PositiveInt = 16
    """Images in a step (4.2)."""
    learning_rate: PositiveFloat = 0.02
    """Base learning rate (4.2)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 2.5e-5
    """Weight decay of SGD (4.2)."""
    decay_norms: bool = False
    """Weight decay of the norms' parameters too (MMDetection); detectron2 has none."""
    decay_biases: bool = True
    """Weight decay of the biases of convolutions and linear layers too (detectron2); none in MMDetection's FCOS."""
    bias_rate_factor: PositiveFloat = 1.0
    """Those biases' learning rate by the others' (MMDetection's FCOS: 2)."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 1000
    """Steps over which the learning rate rises linearly (4.2)."""
    warmup: Literal["linear", "constant"] = "linear"
    """`linear`: the rate rises from `warmup_start_factor` of its base (4.2); `constant`: it stays there (MMDetection's
    FCOS)."""
    warmup_start_factor: Annotated[float, Field(gt=0, le=1)] = 0.001
    """The warm-up begins at this share of the learning rate (detectron2)."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (2 / 3, 8 / 9)
    """Shares of the iterations after which the learning rate drops by a factor of 10 (4.2)."""
    repeat_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Images with a category that fewer than this share of the images have are repeated (LVIS: 0.001); 0: off."""
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest gradient norm; 0 turns clipping off (detectron2's default)."""
    train_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (640, 672, 704, 736, 768, 800)
    """Short sides in pixels, one drawn for each training image."""
    test_size: PositiveInt = 800
    """Short side in pixels of an evaluated image."""
    max_size: PositiveInt = 1333
    """Largest long side in pixels."""
    anchor_sizes: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (
        32,
        64,
        128,
        256,
        512,
    )
    """Anchor sizes in pixels: one for each of P2..P6; C4: all five on its one map; RetinaNet: for P3..P7, each with two
    more a third of an octave apart."""
    canonical_box_size: PositiveInt = 224
    """A box of this side in pixels is pooled from P4, one of half of it from P3 (FPN, equation 1)."""
    c4_roi_size: PositiveInt = 14
    """Side of the RoIAlign grid of the C4 detectors; the fifth block halves it (detectron2)."""
    fcos_variant: Literal["mmdetection", "detectron2"] = "mmdetection"
    """`mmdetection`: the defaults of its 1x schedule, which the paper used: every point in a box is positive, IoU loss
    weighted by centerness. `detectron2`: centre sampling, distances in strides, GIoU loss."""
    fcos_limits: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    """FCOS: largest distance in pixels from a point on P3, P4, P5, P6 to a side of its object; P7 has the rest."""
    rpn_batch_per_image: PositiveInt = 256
    """Anchors sampled for an image's RPN loss."""
    anchors_train: PositiveInt = 2000
    """Best anchors of each level that go into the RPN's NMS in training (detectron2; C4: 12,000)."""
    anchors_test: PositiveInt = 1000
    """Best anchors of each level that go into the RPN's NMS in evaluation (detectron2; C4: 6,000)."""
    proposals_train: PositiveInt = 1000
    """Proposals kept after NMS in training (C4: 2,000)."""
    proposals_test: PositiveInt = 1000
    """Proposals kept after NMS in evaluation."""
    roi_batch_per_image: PositiveInt = 512
    """Proposals sampled for an image's RoI losses."""
    mask_convs: PositiveInt = 4
    """3x3 convolutions of the mask head; that of C4 has none."""
    mask_channels: PositiveInt = 256
    """Channels of the mask head."""
    score_threshold: Probability = 0.05
    """Detections below this score are dropped."""
    detections_per_image: PositiveInt = 100
    """Most detections of an image."""
    precise_bn_images: Annotated[int, Field(ge=0)] = 3200
    """Training images over which the batch-norm statistics are re-estimated before evaluation; 0: off."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations ({self.warmup_iterations}) must be below iterations ({self.iterations})"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must increase")
        largest = max(*self.train_sizes, self.test_size)
        if largest > self.max_size:
            raise ValueError(f"max_size ({self.max_size}) is below a short side ({largest})")
        if list(self.fcos_limits) != sorted(set(self.fcos_limits)):
            raise ValueError(f"fcos_limits {list(self.fcos_limits)} must increase")
        return self

    @property
    def has_masks(self) -> bool:
        """Whether the detector is trained on masks and finds them."""
        return self.detector in {"mask-rcnn-fpn", "mask-rcnn-c4"}

    @property
    def has_pyramid(self) -> bool:
        """Whether the detector has an FPN."""
        return self.detector not in {"mask-rcnn-c4", "faster-rcnn-c4"}
