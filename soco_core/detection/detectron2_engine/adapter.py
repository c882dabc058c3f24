"""detectron2's detectors under the call convention of both engines."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from soco_core.detection.masks import Mask, mask_target

LOSSES = {
    "loss_cls": "loss_classifier",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_loc": "loss_rpn_box_reg",
    "loss_fcos_cls": "loss_classifier",
    "loss_fcos_loc": "loss_box_reg",
    "loss_fcos_ctr": "loss_centerness",
}
"""detectron2's names of the losses -> those of both engines."""


class DrawnMasks:
    """The masks of an image's objects as detectron2's heads ask for them.

    detectron2 has one class for polygons and one for bitmaps; a data set may have both in one image.

    Args:
        masks: one for each object, in the same pixels as its box.
    """

    def __init__(self, masks: list[Mask]) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, chosen: Tensor) -> DrawnMasks:
        """Return the masks at some places: int64 [M], or bool [N]."""
        places = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        return DrawnMasks([self.masks[place] for place in places.tolist()])

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """Return float [N, side, side], 0 or 1, of each mask within its own box, XYXY [N, 4]."""
        corners = boxes.detach().cpu().double().numpy()
        drawn = [mask_target(mask, box, side) for mask, box in zip(self.masks, corners, strict=True)]
        return torch.stack(drawn).to(boxes.device)


class Detectron2Detector:
    """Stands before a detector of detectron2's among a class's bases and gives it the call convention of both engines.

    It is that of :func:`soco_core.detection.model.build_detector`. The names of the weights stay detectron2's.
    """

    training: bool

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training, detections in evaluation."""
        if not self.training:
            return [_detection(found) for found in self.found([{"image": image} for image in images])]
        assert targets is not None
        inputs = [
            {"image": image, "instances": _instances(image, target)}
            for image, target in zip(images, targets, strict=True)
        ]
        # detectron2 writes statistics of its own to a storage that must be there.
        with EventStorage():
            return {LOSSES[name]: value for name, value in self.trained(inputs).items()}

    def trained(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses under detectron2's names."""
        losses: dict[str, Tensor] = super().forward(inputs)  # type: ignore[misc]
        return losses

    def found(self, inputs: list[dict[str, Any]]) -> list[Any]:
        """Return detectron2's instances of each image, in the pixels of the input."""
        return [item["instances"] for item in super().forward(inputs)]  # type: ignore[misc]


class TwoStageDetector(Detectron2Detector, GeneralizedRCNN):
    """Mask R-CNN and Faster R-CNN."""

    def trained(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses; none is a number if a proposal is not finite, at which detectron2 gives up."""
        try:
            return super().trained(inputs)
        except FloatingPointError:
            names = ["loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]
            if not self.roi_heads.mask_on:
                names.remove("loss_mask")
            return dict.fromkeys(names, self.pixel_mean.new_tensor(float("nan")))

    def found(self, inputs: list[dict[str, Any]]) -> list[Any]:
        """Return detectron2's instances of each image; masks lie within their boxes."""
        return list(self.inference(inputs, do_postprocess=False))


def _instances(image: Tensor, target: dict[str, Any]) -> Any:
    instances = Instances(tuple(image.shape[-2:]))
    instances.gt_boxes = Boxes(target["boxes"])
    instances.gt_classes = target["labels"] - 1
    if "masks" in target:
        instances.gt_masks = DrawnMasks(target["masks"])
    return instances


def _detection(found: Any) -> dict[str, Tensor]:
    detection = {"boxes": found.pred_boxes.tensor, "scores": found.scores, "labels": found.pred_classes + 1}
    if found.has("pred_masks"):
        detection["masks"] = found.pred_masks
    return detection
