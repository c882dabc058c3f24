"""For each framework, the lines that build a detector with the pretraining's settings and load an export into it."""

from __future__ import annotations

from collections.abc import Callable

from soco_core.artifacts.weight_names import Target
from soco_core.config import ModelConfig
from soco_core.convert.export import Export

RESNETS = {
    "resnet18": (18, 1, 64),
    "resnet34": (34, 1, 64),
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnet152": (152, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "resnext101_64x4d": (101, 64, 4),
    "wide_resnet50_2": (50, 1, 128),
    "wide_resnet101_2": (101, 1, 128),
}
"""Depth, groups and width of a group, as detectron2 and mmdetection take them."""
BASIC_BLOCKS = (18, 34)
"""Depths whose residual blocks do not widen their output fourfold."""


def loading_lines(export: Export, model: ModelConfig, file: str) -> tuple[str, str]:
    """Return the code that builds the detector, and the three lines that load `file` into it."""
    makers: dict[Target, Callable[[Export, ModelConfig, str], tuple[str, str]]] = {
        "torchvision": _torchvision,
        "detectron2": _detectron2,
        "mmdetection": _mmdetection,
    }
    return makers[export.target](export, model, file)


def _widths(model: ModelConfig) -> list[int]:
    """Channels of C2 to C5."""
    return [64 * 2**i * (1 if RESNETS[model.backbone][0] in BASIC_BLOCKS else 4) for i in range(4)]


def _torchvision(export: Export, model: ModelConfig, file: str) -> tuple[str, str]:
    read = f'weights = torch.load("{file}", weights_only=True)\n'
    load = read + "result = model.load_state_dict(weights, strict=False)\nassert not result.unexpected_keys"
    if export.detector == "c4":
        build = f"import torch\nfrom torchvision.models import {model.backbone}\n\nmodel = {model.backbone}()"
        plain = '{key.removeprefix("backbone.body."): value for key, value in weights.items()}'
        return build, f"{read}result = model.load_state_dict({plain}, strict=False)\nassert not result.unexpected_keys"
    head = (
        "import torch\nfrom torch import nn\n"
        f"from torchvision.models import {model.backbone}\n"
        "from torchvision.models.detection.backbone_utils import BackboneWithFPN\n"
    )
    c, widths = model.fpn_channels, _widths(model)
    if export.detector == "dense":
        return (
            head + "from torchvision.models.detection import RetinaNet\n"
            "from torchvision.ops.feature_pyramid_network import LastLevelP6P7\n\n"
            'layers = {"layer2": "0", "layer3": "1", "layer4": "2"}\n'
            f"top = LastLevelP6P7({c}, {c})\n"
            f"backbone = BackboneWithFPN({model.backbone}(), layers, {widths[1:]}, {c}, top, nn.BatchNorm2d)\n"
            "model = RetinaNet(backbone, num_classes=91)"
        ), load
    size = model.roi_size
    return (
        head + "from torchvision.models.detection import MaskRCNN\n"
        "from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead\n"
        "from torchvision.ops import MultiScaleRoIAlign\n\n"
        'layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}\n'
        f"backbone = BackboneWithFPN({model.backbone}(), layers, {widths}, {c}, norm_layer=nn.BatchNorm2d)\n"
        f"convolutions, linear = [{c}] * {model.head_convs}, [{model.head_fc_size}]\n"
        f"head = FastRCNNConvFCHead(({c}, {size}, {size}), convolutions, linear, norm_layer=nn.BatchNorm2d)\n"
        f'pool = MultiScaleRoIAlign(["0", "1", "2", "3"], {size}, 2)\n'
        "model = MaskRCNN(backbone, num_classes=91, box_head=head, box_roi_pool=pool)"
    ), load


def _detectron2(export: Export, model: ModelConfig, file: str) -> tuple[str, str]:
    depth, groups, width = RESNETS[model.backbone]
    settings: dict[str, object] = {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _widths(model)[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": "BN",
    }
    if export.detector == "c4":
        settings |= {
            "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
            "MODEL.MASK_ON": True,
            "MODEL.BACKBONE.NAME": "build_resnet_backbone",
            "MODEL.RESNETS.OUT_FEATURES": ["res4"],
            "MODEL.RPN.IN_FEATURES": ["res4"],
            "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": model.roi_size,
            "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        }
    else:
        levels = ["res2", "res3", "res4", "res5"][1 if export.detector == "dense" else 0 :]
        settings |= {
            "MODEL.RESNETS.OUT_FEATURES": levels,
            "MODEL.FPN.IN_FEATURES": levels,
            "MODEL.FPN.OUT_CHANNELS": model.fpn_channels,
            "MODEL.FPN.NORM": "BN",
        }
    if export.detector == "dense":
        settings |= {
            "MODEL.META_ARCHITECTURE": "RetinaNet",
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
        }
    elif export.detector == "fpn":
        settings |= {
            "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
            "MODEL.MASK_ON": True,
            "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
            "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_CONV": model.head_convs,
            "MODEL.ROI_BOX_HEAD.CONV_DIM": model.fpn_channels,
            "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
            "MODEL.ROI_BOX_HEAD.FC_DIM": model.head_fc_size,
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": model.roi_size,
            "MODEL.ROI_BOX_HEAD.NORM": "BN",
            "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
            "MODEL.ROI_MASK_HEAD.NORM": "BN",
        }
    build = (
        "import torch\n"
        "from detectron2.checkpoint import DetectionCheckpointer\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import build_model\n\n"
        "cfg = get_cfg()\n"
        'cfg.MODEL.DEVICE = "cpu"  # with "cuda" and several GPUs, SyncBN in place of BN\n'
        + "\n".join(f"cfg.{name} = {_quoted(value)}" for name, value in settings.items())
    )
    return build, (
        f'model = build_model(cfg)\nDetectionCheckpointer(model).load("{file}")\n'
        f'assert torch.load("{file}", weights_only=True)["model"].keys() <= model.state_dict().keys()'
    )


def _mmdetection(export: Export, model: ModelConfig, file: str) -> tuple[str, str]:
    depth, groups, width = RESNETS[model.backbone]
    config = {
        "fpn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "c4": "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
        "dense": "retinanet/retinanet_r50_fpn_1x_coco.py",
    }[export.detector]
    resnext = f', groups={groups}, base_width={width}, type="ResNeXt"' if (groups, width) != (1, 64) else ""
    kept = 'norm_cfg=norm, norm_eval=False, style="pytorch", init_cfg=None'
    lines = [
        "import mmdet",
        "from mmdet.registry import MODELS",
        "from mmdet.utils import register_all_modules",
        "from mmengine.config import Config",
        "from mmengine.runner import load_checkpoint",
        "",
        "register_all_modules()",
        f'cfg = Config.fromfile(f"{{mmdet.__path__[0]}}/.mim/configs/{config}").model',
        'norm = dict(type="BN", requires_grad=True)  # SyncBN with several GPUs',
        "mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]",
        "cfg.data_preprocessor.update(mean=mean, std=std, bgr_to_rgb=True)",
        f"cfg.backbone.update(depth={depth}, frozen_stages=-1, {kept}{resnext})",
    ]
    if export.detector == "c4":
        (c4, c5), size = _widths(model)[2:], model.roi_size
        lines += [
            f"cfg.roi_head.shared_head.update(depth={depth}, {kept})",
            f"cfg.rpn_head.update(in_channels={c4}, feat_channels={c4})",
            f"cfg.roi_head.bbox_roi_extractor.update(out_channels={c4})",
            f"cfg.roi_head.bbox_roi_extractor.roi_layer.update(output_size={size})",
            f"cfg.roi_head.bbox_head.update(in_channels={c5}, roi_feat_size={(size + 1) // 2})",
            f"cfg.roi_head.mask_head.update(in_channels={c5})",
        ]
    else:
        lines += [f"cfg.neck.update(in_channels={_widths(model)}, out_channels={model.fpn_channels}, norm_cfg=norm)"]
    if export.detector == "fpn":
        c, size = model.fpn_channels, model.roi_size
        lines += [
            f'box = dict(type="ConvFCBBoxHead", num_shared_convs={model.head_convs}, num_shared_fcs=1, norm_cfg=norm)',
            f"box.update(in_channels={c}, conv_out_channels={c}, fc_out_channels={model.head_fc_size}, "
            f"roi_feat_size={size})",
            "cfg.roi_head.bbox_head.update(box)",
            f"cfg.roi_head.bbox_roi_extractor.update(out_channels={c})",
            f"cfg.roi_head.bbox_roi_extractor.roi_layer.update(output_size={size})",
            f"cfg.roi_head.mask_roi_extractor.update(out_channels={c})",
            f"cfg.roi_head.mask_head.update(in_channels={c}, norm_cfg=norm)",
            f"cfg.rpn_head.update(in_channels={c})",
        ]
    elif export.detector == "dense":
        lines += [f"cfg.bbox_head.update(in_channels={model.fpn_channels})"]
    return "\n".join(lines), (
        "model = MODELS.build(cfg)\n"
        f'result = load_checkpoint(model, "{file}", map_location="cpu")\n'
        'assert set(result["state_dict"]) <= set(model.state_dict())'
    )


def _quoted(value: object) -> str:
    return repr(value).replace("'", '"')
