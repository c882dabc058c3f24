"""Which detector fits what a recipe pretrains; and the settings of the detectors."""

from __future__ import annotations

import pytest

from soco_core.artifacts.benchmark import check_detector
from soco_core.errors import InputError, RecipeError
from soco_core.recipes import parse_recipe

PYRAMID = ["mask-rcnn-fpn", "retinanet", "fcos"]
ON_C4 = ["mask-rcnn-c4", "faster-rcnn-c4"]


@pytest.mark.parametrize("detector", [*PYRAMID, *ON_C4])
def test_an_fpn_s_pretraining_fits_every_detector(detector: str) -> None:
    check_detector(parse_recipe(f"finetune: {{detector: {detector}}}"))


@pytest.mark.parametrize("detector", ON_C4)
def test_soco_c4_fits_the_c4_detectors(detector: str) -> None:
    check_detector(parse_recipe(f"finetune: {{detector: {detector}}}\nmodel: {{architecture: c4}}"))


@pytest.mark.parametrize("detector", PYRAMID)
def test_soco_c4_fits_no_detector_with_a_pyramid(detector: str) -> None:
    with pytest.raises(InputError) as caught:
        check_detector(parse_recipe(f"name: mine\nfinetune: {{detector: {detector}}}\nmodel: {{architecture: c4}}"))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"finetune.detector: {detector} has an FPN, and recipe mine")
    assert text.endswith("set it to mask-rcnn-c4 or faster-rcnn-c4")


@pytest.mark.parametrize("detector", ["mask-rcnn-fpn", "mask-rcnn-c4", "fcos"])
def test_every_detector_needs_the_fifth_block(detector: str) -> None:
    model = "{use_fpn: false, use_head: false, scale_aware: false, backbone_level: C4}"
    with pytest.raises(InputError, match=r"model\.backbone_level: .* set it to C5"):
        check_detector(parse_recipe(f"finetune: {{detector: {detector}}}\nmodel: {model}"))


def test_masks_and_pyramids() -> None:
    settings = {name: parse_recipe(f"finetune: {{detector: {name}}}").finetune for name in (*PYRAMID, *ON_C4)}
    assert {name for name, each in settings.items() if each.has_masks} == {"mask-rcnn-fpn", "mask-rcnn-c4"}
    assert {name for name, each in settings.items() if each.has_pyramid} == set(PYRAMID)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"finetune\.detector.*mask-rcnn-fpn"):
        parse_recipe("finetune: {detector: yolo}")
    with pytest.raises(RecipeError, match=r"fcos_limits \[64, 64, 256, 512\] must increase"):
        parse_recipe("finetune: {fcos_limits: [64, 64, 256, 512]}")
