"""The paper's transfer experiments as data (4.2 to 4.5, B, C): detector, data set and schedule of each.

A benchmark's settings are the fields of :class:`soco_core.config.FinetuneConfig` that differ from its defaults, which
are those of Mask R-CNN with FPN on COCO's 1x schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from soco_core.errors import InputError

BOX_COLUMNS = ("APbb", "APbb50", "APbb75")
MASK_COLUMNS = ("APmk", "APmk50", "APmk75")
ACCURACY_COLUMNS = ("top1", "top5")

COCO_TRAIN = 118_287
COCO_VAL = 5_000
MMDETECTION = "MMDetection"

C4 = {
    "anchors_train": 12_000,
    "anchors_test": 6_000,
    "proposals_train": 2_000,
}
"""detectron2's and the authors' settings of a C4 region proposal network: one map, so more anchors of it."""

DENSE: dict[str, Any] = {
    "iterations": 87_960,
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "warmup_iterations": 500,
    "train_sizes": (800,),
    "milestones": (2 / 3, 11 / 12),
    "decay_norms": True,
}
"""MMDetection's default 1x schedule: 12 epochs of 7,330 steps, drops after 8 and 11, one scale."""


@dataclass(frozen=True)
class Benchmark:
    """One transfer experiment."""

    name: str
    table: str
    """Where the paper has its numbers."""
    title: str
    data: str
    """Name of the data set (``soco datasets list``)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe's section `finetune` that differ from its defaults."""
    columns: tuple[str, ...] = (*BOX_COLUMNS, *MASK_COLUMNS)
    train_images: int = COCO_TRAIN
    """As published; detectors leave out the images without a box, fewer than one in a hundred."""
    val_images: int = COCO_VAL
    code_base: str = "detectron2"
    """What the paper's numbers were reached with."""

    @property
    def linear(self) -> bool:
        """Whether it trains a classifier on fixed features (B), not a detector."""
        return self.data == "imagenet"


def _fpn(schedule: int) -> dict[str, Any]:
    return {"iterations": 90_000 * schedule}


def _c4(schedule: int) -> dict[str, Any]:
    return {"detector": "mask-rcnn-c4", "iterations": 90_000 * schedule, **C4}


def _lvis(schedule: int) -> dict[str, Any]:
    # detectron2's LVIS v1 configurations: the "standard 1x" of LVIS is 180,000 iterations.
    return {
        "iterations": 180_000 * schedule,
        "score_threshold": 1e-4,
        "detections_per_image": 300,
        "repeat_threshold": 1e-3,
    }


BENCHMARKS = (
    Benchmark("coco-fpn-1x", "Table 1", "Mask R-CNN R50-FPN, COCO 1× schedule", "coco2017", _fpn(1)),
    Benchmark("coco-fpn-2x", "Table 1", "Mask R-CNN R50-FPN, COCO 2× schedule", "coco2017", _fpn(2)),
    Benchmark("coco-fpn-4x", "Table 10", "Mask R-CNN R50-FPN, COCO 4× schedule", "coco2017", _fpn(4)),
    Benchmark("coco-c4-1x", "Table 2", "Mask R-CNN R50-C4, COCO 1× schedule", "coco2017", _c4(1)),
    Benchmark("coco-c4-2x", "Table 2", "Mask R-CNN R50-C4, COCO 2× schedule", "coco2017", _c4(2)),
    Benchmark(
        "voc-c4",
        "Table 3",
        "Faster R-CNN R50-C4, Pascal VOC trainval07+12, 24,000 iterations",
        "voc0712",
        {
            "detector": "faster-rcnn-c4",
            "iterations": 24_000,
            "weight_decay": 1e-4,
            "milestones": (3 / 4, 11 / 12),
            # The paper states the warm-up for COCO only and follows MoCo on VOC, whose configuration has these.
            "warmup_iterations": 100,
            "train_sizes": tuple(range(480, 801, 32)),
            **C4,
        },
        BOX_COLUMNS,
        train_images=16_551,
        val_images=4_952,
    ),
    Benchmark(
        "lvis-fpn-1x",
        "Table 6",
        "Mask R-CNN R50-FPN, LVIS v1 1× schedule",
        "lvis-v1",
        _lvis(1),
        train_images=100_170,
        val_images=19_809,
    ),
    Benchmark(
        "lvis-fpn-2x",
        "Table 6",
        "Mask R-CNN R50-FPN, LVIS v1 2× schedule",
        "lvis-v1",
        _lvis(2),
        train_images=100_170,
        val_images=19_809,
    ),
    Benchmark(
        "retinanet-1x",
        "Table 7a",
        "RetinaNet R50-FPN, COCO 1× schedule",
        "coco2017",
        {"detector": "retinanet", **DENSE},
        BOX_COLUMNS,
        code_base=MMDETECTION,
    ),
    Benchmark(
        "fcos-1x",
        "Table 7b",
        "FCOS R50-FPN, COCO 1× schedule",
        "coco2017",
        {
            "detector": "fcos",
            **DENSE,
            "warmup": "constant",
            "warmup_start_factor": 1 / 3,
            "gradient_clip": 35.0,
            "bias_rate_factor": 2.0,
            "decay_biases": False,
        },
        BOX_COLUMNS,
        code_base=MMDETECTION,
    ),
    Benchmark(
        "mini-coco-5",
        "Table 8",
        "Mask R-CNN R50-FPN, 5 % of COCO, 1× schedule",
        "mini-coco-5",
        _fpn(1),
        train_images=5_914,
    ),
    Benchmark(
        "mini-coco-10",
        "Table 8",
        "Mask R-CNN R50-FPN, 10 % of COCO, 1× schedule",
        "mini-coco-10",
        _fpn(1),
        train_images=11_829,
    ),
    Benchmark(
        "coco-50pct",
        "Table 12",
        "Mask R-CNN R50-FPN, half of COCO, 1× schedule",
        "coco-50pct",
        _fpn(1),
        train_images=59_144,
    ),
    Benchmark(
        "linear",
        "Table 11",
        "Linear evaluation on ImageNet, ResNet-50",
        "imagenet",
        columns=ACCURACY_COLUMNS,
        train_images=1_281_167,
        val_images=50_000,
    ),
)


def named_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
        InputError: there is none of that name.
    """
    found = find_benchmark(name)
    if found is None:
        names = ", ".join(item.name for item in BENCHMARKS)
        raise InputError(f"{name}: no such benchmark; `soco benchmarks` lists them: {names}")
    return found


def find_benchmark(name: str) -> Benchmark | None:
    """Return a benchmark by its name, or None: a recipe may name one of its own."""
    return next((item for item in BENCHMARKS if item.name == name), None)
