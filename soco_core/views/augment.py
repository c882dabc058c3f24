"""Batched augmentation on the device: flip, colour, grayscale, blur, solarise, normalise (paper 4.1).

The order and the operations are BYOL's; each is defined as torchvision's function of the same name for one
image, applied here to the images of a batch that drew it, each with its own factor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from soco_core.models.backbone import PIXEL_MEAN, PIXEL_STD
from soco_core.views.random_parameters import Augmentation

BLUR_SIGMAS = 3.0
"""The blur's kernel reaches this many of its own standard deviations, rounded up to whole pixels."""
SOLARISE_THRESHOLD = 128 / 255

Operation = Callable[[Tensor, Tensor], Tensor]
"""Maps the chosen images [M, 3, H, W] and their indices in the batch [M] to new images."""


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment one view of a batch.

    Args:
        images: RGB, uint8 [N, 3, S, S], on any device.
        augmentation: fields with a batch dimension in front, on the CPU: what is drawn decides how many images
            an operation gets, and to ask the device for it would wait for all the device has still to do.

    Returns:
        Normalised float32 [N, 3, S, S].
    """
    drawn = Augmentation(*(_send(field, images) for field in augmentation))
    x = images.float() / 255
    x = torch.where(_per_image(drawn.flip), x.flip(-1), x)
    x = distort_colour(x, augmentation)
    x = torch.where(_per_image(drawn.grayscale), to_gray(x).expand_as(x), x)
    sigma = augmentation.sigma[augmentation.blur]
    x = _where_drawn(x, augmentation.blur, lambda chosen, _: blur(chosen, sigma))
    x = torch.where(_per_image(drawn.solarise) & (x >= SOLARISE_THRESHOLD), 1 - x, x)
    return normalise(x)


def cut_out(images: Tensor, squares: Tensor) -> Tensor:
    """Set the pixels whose centres lie in an image's squares to 0, which after normalisation is the mean colour.

    Args:
        images: float [N, C, H, W].
        squares: XYXY pixels, float [N, K, 4]; one without area cuts nothing.
    """
    columns = torch.arange(images.shape[-1], device=images.device) + 0.5
    rows = torch.arange(images.shape[-2], device=images.device) + 0.5
    x1, y1, x2, y2 = _send(squares, images)[..., None].unbind(-2)
    across, down = (x1 <= columns) & (columns < x2), (y1 <= rows) & (rows < y2)
    cut = (down[..., :, None] & across[..., None, :]).any(1, keepdim=True)
    return images.masked_fill(cut, 0.0)


def normalise(images: Tensor) -> Tensor:
    """Subtract the pixel mean and divide by the deviation; RGB in [0, 1], float [N, 3, H, W]."""
    return (images - _channels(PIXEL_MEAN, images)) / _channels(PIXEL_STD, images)


def denormalise(images: Tensor) -> Tensor:
    """Undo :func:`normalise`, for pictures."""
    return (images * _channels(PIXEL_STD, images) + _channels(PIXEL_MEAN, images)).clamp(0, 1)


def distort_colour(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply brightness, contrast, saturation and hue in each image's own order; RGB in [0, 1].

    The augmentation is on the CPU, as for :func:`augment`.
    """
    a = Augmentation(*(_send(field, images) for field in augmentation))
    operations: tuple[Operation, ...] = (
        lambda x, i: (x * _per_image(a.brightness[i])).clamp(0, 1),
        lambda x, i: _blend(x, to_gray(x).mean((-3, -2, -1), keepdim=True), a.contrast[i]),
        lambda x, i: _blend(x, to_gray(x), a.saturation[i]),
        lambda x, i: shift_hue(x, a.hue[i]),
    )
    for position in range(4):
        for number, operation in enumerate(operations):
            drawn = augmentation.colour & (augmentation.order[:, position] == number)
            images = _where_drawn(images, drawn, operation)
    return images


def to_gray(images: Tensor) -> Tensor:
    """ITU-R 601 luma of RGB float [N, 3, H, W]: [N, 1, H, W]."""
    r, g, b = images.unbind(-3)
    return (0.2989 * r + 0.587 * g + 0.114 * b).unsqueeze(-3)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of RGB float [N, 3, H, W] in [0, 1] by `turns` [N]."""
    r, g, b = images.unbind(-3)
    value, low = images.amax(-3), images.amin(-3)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    saturation = torch.where(value > 0, chroma / torch.where(value > 0, value, torch.ones_like(value)), value)
    sixth = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = ((sixth / 6 + turns[:, None, None]) % 1.0) * 6
    # Each channel of HSV -> RGB is one trapezoid over the hue: value * (1 - saturation * clamp(...)).
    offsets = torch.arange(5.0, 0.0, -2.0, device=images.device)[:, None, None]
    k = (offsets + hue.unsqueeze(-3)) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value.unsqueeze(-3) * (1 - saturation.unsqueeze(-3) * ramp)).clamp(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur float [N, C, H, W] with a Gaussian of its own `sigma` [N] (pixels, on the CPU) for each image.

    The kernel is separable, truncated at `BLUR_SIGMAS` of the image's sigma, and the border is reflected.
    """
    count, channels, height, width = images.shape
    reach = (BLUR_SIGMAS * sigma).ceil().clamp(min=1)
    radius = min(int(reach.max()), height - 1, width - 1)
    taps = torch.arange(-radius, radius + 1, dtype=images.dtype)
    # Truncated at its own reach, not at the batch's: an image looks the same whichever ones share its pass.
    kernels = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2) * (taps.abs() <= reach[:, None])
    kernels = _send((kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0), images)
    x = images.reshape(1, count * channels, height, width)
    x = F.pad(x, (radius, radius, radius, radius), mode="reflect")
    x = F.conv2d(x, kernels[:, None, None, :], groups=count * channels)
    x = F.conv2d(x, kernels[:, None, :, None], groups=count * channels)
    return x.reshape(count, channels, height, width)


def _where_drawn(images: Tensor, drawn: Tensor, operation: Operation) -> Tensor:
    """Apply `operation(chosen images, their indices)` to the images for which `drawn` (on the CPU) is set."""
    chosen = _send(torch.nonzero(drawn).squeeze(1), images)
    if len(chosen) == 0:
        return images
    return images.index_copy(0, chosen, operation(images[chosen], chosen))


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = _per_image(factor)
    return (weight * images + (1 - weight) * other).clamp(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return _send(torch.tensor(values, dtype=like.dtype), like)[:, None, None] / 255


def _send(values: Tensor, like: Tensor) -> Tensor:
    """Bring a small tensor to where `like` is, without waiting for what runs there."""
    return values.to(like.device, non_blocking=True)
