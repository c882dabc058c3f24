"""The settings of every benchmark as numbers, apart from the table in code."""

from __future__ import annotations

import pytest

from soco_core.benchmarks.choose import choose_benchmark
from soco_core.benchmarks.table import BENCHMARKS
from soco_core.config import Recipe

COCO = {
    # 4.2, and detectron2's COCO configurations.
    "detector": "mask-rcnn-fpn",
    "iterations": 90_000,
    "batch_size": 16,
    "learning_rate": 0.02,
    "momentum": 0.9,
    "weight_decay": 2.5e-5,
    "decay_norms": False,
    "decay_biases": True,
    "bias_rate_factor": 1.0,
    "warmup_iterations": 1_000,
    "warmup": "linear",
    "warmup_start_factor": 0.001,
    "milestones": (60_000 / 90_000, 80_000 / 90_000),
    "repeat_threshold": 0.0,
    "gradient_clip": 0.0,
    "train_sizes": (640, 672, 704, 736, 768, 800),
    "test_size": 800,
    "max_size": 1_333,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "canonical_box_size": 224,
    "c4_roi_size": 14,
    "fcos_variant": "mmdetection",
    "fcos_limits": (64, 128, 256, 512),
    "rpn_batch_per_image": 256,
    "anchors_train": 2_000,
    "anchors_test": 1_000,
    "proposals_train": 1_000,
    "proposals_test": 1_000,
    "roi_batch_per_image": 512,
    "mask_convs": 4,
    "mask_channels": 256,
    "score_threshold": 0.05,
    "detections_per_image": 100,
    "precise_bn_images": 3_200,
}
C4 = COCO | {
    "detector": "mask-rcnn-c4",
    "anchors_train": 12_000,
    "anchors_test": 6_000,
    "proposals_train": 2_000,
}
# MoCo's configuration.
VOC = C4 | {
    "detector": "faster-rcnn-c4",
    "iterations": 24_000,
    "weight_decay": 1e-4,
    "warmup_iterations": 100,
    "milestones": (18_000 / 24_000, 22_000 / 24_000),
    "train_sizes": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
}
# detectron2's configurations of LVIS v1.
LVIS = COCO | {
    "iterations": 180_000,
    "repeat_threshold": 0.001,
    "score_threshold": 0.0001,
    "detections_per_image": 300,
}
# MMDetection's configurations: 12 epochs of 7,330 steps, drops after 8 and 11.
RETINANET = COCO | {
    "detector": "retinanet",
    "iterations": 87_960,
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "decay_norms": True,
    "warmup_iterations": 500,
    "milestones": (8 / 12, 11 / 12),
    "train_sizes": (800,),
}
FCOS = RETINANET | {
    "detector": "fcos",
    "warmup": "constant",
    "warmup_start_factor": 1 / 3,
    "gradient_clip": 35.0,
    "bias_rate_factor": 2.0,
    "decay_biases": False,
}
SETTINGS = {
    "coco-fpn-1x": COCO,
    "coco-fpn-2x": COCO | {"iterations": 180_000},
    "coco-fpn-4x": COCO | {"iterations": 360_000},
    "coco-c4-1x": C4,
    "coco-c4-2x": C4 | {"iterations": 180_000},
    "voc-c4": VOC,
    "lvis-fpn-1x": LVIS,
    "lvis-fpn-2x": LVIS | {"iterations": 360_000},
    "retinanet-1x": RETINANET,
    "fcos-1x": FCOS,
    "mini-coco-5": COCO,
    "mini-coco-10": COCO,
    "coco-50pct": COCO,
}
"""Every setting of every benchmark, in numbers."""


@pytest.mark.parametrize("name", [item.name for item in BENCHMARKS if not item.linear])
def test_every_setting_of_every_benchmark(name: str) -> None:
    settings = choose_benchmark(Recipe(), name).finetune
    assert settings.benchmark == name
    assert settings.model_dump(exclude={"benchmark", "engine", "scale"}) == SETTINGS[name]
