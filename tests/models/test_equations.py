"""Equations 1 to 6 written out in plain Python, one image, one box, one pair at a time, in float64.

Nothing of soco's own modules runs here but its convolutions and linear layers, and those on one image or
box each; batch norm (in evaluation mode), RoIAlign, levels, the FPN's sums and the cosine are restated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from soco_core.config import ModelConfig
from soco_core.models.soco import ObjectEncoder, SoCo, ViewBatch
from soco_core.pretrain.loss import soco_loss

Array = npt.NDArray[np.float64]


def apply(layer: nn.Module, x: Array) -> Array:
    """A convolution or linear layer on a single image or vector."""
    return layer(torch.from_numpy(x)[None])[0].numpy()


def normalise(bn: Any, x: Array) -> Array:
    shape = (-1, *[1] * (x.ndim - 1))
    tensors = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    mean, var, gamma, beta = (tensor.detach().numpy().reshape(shape) for tensor in tensors)
    return (x - mean) / np.sqrt(var + bn.eps) * gamma + beta


def max_pool(x: Array) -> Array:
    """3x3, stride 2, padding 1."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    return np.array(
        [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)] for i in range(rows)]
    ).transpose(2, 0, 1)


def block(module: Any, x: Array) -> Array:
    """A residual block of two convolutions."""
    y = np.maximum(normalise(module.bn1, apply(module.conv1, x)), 0)
    y = normalise(module.bn2, apply(module.conv2, y))
    if module.downsample is not None:
        x = normalise(module.downsample[1], apply(module.downsample[0], x))
    return np.maximum(x + y, 0)


def stage(layer: Any, x: Array) -> Array:
    for module in layer:
        x = block(module, x)
    return x


def backbone(encoder: Any, image: Array) -> list[Array]:
    x = max_pool(np.maximum(normalise(encoder.bn1, apply(encoder.conv1, image)), 0))
    maps = []
    for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        x = stage(layer, x)
        maps.append(x)
    return maps


def pyramid(neck: Any, maps: list[Array]) -> list[Array]:
    def convolve(modules: Any, i: int, x: Array) -> Array:
        return normalise(modules[str(i)].bn, apply(modules[str(i)].conv, x))

    merged = [convolve(neck.lateral_convs, i, maps[i]) for i in range(4)]
    for i in (2, 1, 0):
        merged[i] = merged[i] + merged[i + 1].repeat(2, axis=1).repeat(2, axis=2)
    return [convolve(neck.fpn_convs, i, merged[i]) for i in range(4)]


def bilinear(features: Array, y: float, x: float) -> Array:
    """Features at a point, in units of cells whose centres lie at whole numbers."""
    _, height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(features))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return (
        (1 - dy) * (1 - dx) * features[:, top, left]
        + (1 - dy) * dx * features[:, top, right]
        + dy * (1 - dx) * features[:, bottom, left]
        + dy * dx * features[:, bottom, right]
    )


def align(features: Array, box: list[float], stride: int, size: int) -> Array:
    """RoIAlign of one box: the mean of evenly spaced points of each cell, about one a feature cell."""
    x0, y0, x1, y1 = (value / stride for value in box)
    height, width = (y1 - y0) / size, (x1 - x0) / size
    rows, columns = max(math.ceil(height), 1), max(math.ceil(width), 1)
    out = np.zeros((len(features), size, size))
    for i in range(size):
        for j in range(size):
            for a in range(rows):
                for b in range(columns):
                    # A pixel is a unit square: its centre lies half a cell from its corner.
                    y = y0 + height * (i + (a + 0.5) / rows) - 0.5
                    x = x0 + width * (j + (b + 0.5) / columns) - 0.5
                    out[:, i, j] += bilinear(features, y, x) / (rows * columns)
    return out


def mlp(module: Any, x: Array) -> Array:
    return apply(module[3], np.maximum(normalise(module[1], apply(module[0], x)), 0))


def embed(network: ObjectEncoder, config: ModelConfig, image: Array, boxes: list[list[float]]) -> list[Array]:
    """g(h) of each box of one image, h by equation 1."""
    maps = backbone(network.encoder, image)
    levels = [] if config.architecture == "c4" else pyramid(network.neck, maps)
    embedded = []
    for box in boxes:
        if config.architecture == "c4":
            region = stage(network.encoder.layer4, align(maps[2], box, 16, 14))
            h = region.mean((1, 2))
        else:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = sum(side > limit for limit in config.level_limits)
            region = align(levels[level], box, 4 * 2**level, 7)
            for i in range(1, config.head_convs + 1):
                conv, bn = network.head.get_submodule(f"conv{i}"), network.head.get_submodule(f"bn{i}")
                region = np.maximum(normalise(bn, apply(conv, region)), 0)
            h = np.maximum(apply(network.head.fc1, region.reshape(-1)), 0)
        embedded.append(mlp(network.projector, h))
    return embedded


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)))


@pytest.mark.parametrize("architecture", ["fpn", "c4"])
@pytest.mark.parametrize("draw", ["shared", "per-pair"])
@torch.no_grad()
def test_embeddings_and_loss_equal_the_equations_written_out(
    architecture: str,
    draw: str,
    pair: Callable[..., SoCo],
    small_model: Callable[..., ModelConfig],
    make_views: Callable[..., list[ViewBatch]],
) -> None:
    config = small_model(
        architecture=architecture,
        roi_size=14 if architecture == "c4" else 7,
        fpn_channels=8,
        head_fc_size=12,
        head_levels="all" if architecture == "fpn" and draw == "per-pair" else "own",
    )
    networks = pair(config).double().eval()
    sides = (64, 64) if architecture == "c4" else (64, 64, 32)
    views = make_views(sides, images=2, boxes=3, blocks=1 if draw == "shared" else len(sides) - 1, dtype=torch.float64)
    # One proposal stands twice in each view, at different places: four of its pairs count.
    ids = torch.tensor([7, 2, 2])
    views = [view._replace(ids=ids.repeat(view.ids.shape[1] // 3).expand_as(view.ids)) for view in views]
    assert all(view.boxes.amax() < side for view, side in zip(views, sides, strict=True))

    online, target = networks(views)
    expected_online, expected_target = [], []
    for number, view in enumerate(views):
        for image in range(2):
            pixels, boxes = view.images[image].numpy(), view.boxes[image].tolist()
            v = [mlp(networks.online.predictor, g) for g in embed(networks.online, config, pixels, boxes)]
            t = embed(networks.target, config, pixels, boxes)
            expected_online.append(v)
            expected_target.append(t)
            np.testing.assert_allclose(online[number][image].numpy(), v, rtol=0, atol=1e-9)
            np.testing.assert_allclose(target[number][image].numpy(), t, rtol=0, atol=1e-9)

    total = 0.0
    for j in range(1, len(views)):
        for image in range(2):
            v_1, t_1 = expected_online[image], expected_target[image]
            v_j, t_j = expected_online[2 * j + image], expected_target[2 * j + image]
            cosines = []
            for a in range(3):
                for b in range(3):
                    own = a if draw == "shared" else 3 * (j - 1) + a
                    if views[0].ids[image, own] == views[j].ids[image, b]:
                        cosines.append(cosine(v_1[own], t_j[b]) + cosine(v_j[b], t_1[own]))
            assert len(cosines) == 5
            total += -2 * sum(cosines) / len(cosines) / 2
    loss = soco_loss(online, target, [view.ids for view in views])["loss"]
    assert abs(float(loss) - total) < 1e-9
    assert abs(total) > 0.1
