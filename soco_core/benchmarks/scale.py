"""Shortening a benchmark, so that a laptop runs the same code in minutes, and the linear rule for another batch.

What is shortened is no longer the paper's experiment: the result says how, and the report never sets the paper's number
beside it as if it were the same.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from fractions import Fraction

from soco_core.config import FinetuneConfig, ModelConfig
from soco_core.errors import InputError
from soco_core.linear_config import LinearConfig

CPU = "cpu"
LEAST_SIDE = 32
"""No image gets a smaller short side, in pixels: the coarsest map of FPN would have no cell."""
LEAST_SIZE = Fraction(LEAST_SIDE, 800)
LEAST_CHANNELS = 8
LEAST_PROPOSALS = 32
PROPOSALS = (
    "rpn_batch_per_image",
    "anchors_train",
    "anchors_test",
    "proposals_train",
    "proposals_test",
    "roi_batch_per_image",
)
"""Fields that count anchors or proposals: a smaller image has fewer."""


@dataclass(frozen=True)
class Scale:
    """How much of a benchmark is left, each in (0, 1]; all 1: the whole."""

    iterations: Fraction = Fraction(1)
    """Of the training steps, their warm-up and the images of PreciseBN."""
    batch: Fraction = Fraction(1)
    """Of the images in a step; the learning rate shrinks with it (the linear rule)."""
    size: Fraction = Fraction(1)
    """Of the sides of images and anchors, and of the number of proposals."""
    width: Fraction = Fraction(1)
    """Of the channels of neck and heads; the backbone is the recipe's."""

    @property
    def whole(self) -> bool:
        """Whether nothing is shortened."""
        return all(value == 1 for value in astuple(self))

    def __str__(self) -> str:
        return self.text()

    def text(self, without: str = "") -> str:
        """Write what is left as :func:`parse_scale` reads it, but for the part named `without`."""
        return ",".join(f"{item.name}={getattr(self, item.name)}" for item in fields(self) if item.name != without)


NAMED = {CPU: Scale(Fraction(1, 3000), Fraction(1, 8), Fraction(1, 8), Fraction(1, 4))}
"""`cpu`: half a minute to a few minutes on two cores."""


def parse_scale(text: str) -> Scale:
    """Read ``cpu`` or ``iterations=1/3000,size=0.125``; what is not named stays whole, an empty text is the whole.

    Raises:
        InputError: an unknown part, or a factor that is no number in (0, 1].
    """
    if text in NAMED:
        return NAMED[text]
    known = [item.name for item in fields(Scale)]
    factors: dict[str, Fraction] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in known or name in factors:
            problem = "given twice" if name in factors else "unknown"
            raise InputError(
                f"--scale {text}: {name!r} is {problem}; write {CPU}, or NAME=FACTOR of {', '.join(known)}"
            )
        try:
            factors[name] = Fraction(number)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"--scale {text}: {number!r} is no number; write such as {name}=0.1 or 1/10") from error
        if not 0 < factors[name] <= 1:
            raise InputError(f"--scale {text}: {name} is {number}, but a factor lies above 0 and is at most 1")
    if factors.get("size", 1) < LEAST_SIZE:
        raise InputError(
            f"--scale {text}: size is at least {float(LEAST_SIZE)}, {LEAST_SIDE} pixels of the paper's 800"
        )
    return Scale(**factors)


def parse_linear_scale(text: str) -> Scale:
    """Read how a linear evaluation is shortened; it has no width: ``cpu`` leaves that whole.

    Raises:
        InputError: see :func:`parse_scale`; a width.
    """
    scale = parse_scale(text)
    if text in NAMED:
        return replace(scale, width=Fraction(1))
    if scale.width != 1:
        raise InputError(
            f"--scale {text}: width is {scale.width}, but a linear evaluation has neither neck nor heads; leave it out"
        )
    return scale


def shorten(settings: FinetuneConfig, scale: Scale) -> FinetuneConfig:
    """Return a benchmark's settings made smaller; the milestones are shares and stay where they are."""
    if scale.whole:
        return settings
    iterations = _times(settings.iterations, scale.iterations)
    batch = _times(settings.batch_size, scale.batch)

    def side(pixels: int) -> int:
        return _times(pixels, scale.size, LEAST_SIDE)

    values = settings.model_dump() | {
        "iterations": iterations,
        "warmup_iterations": min(_times(settings.warmup_iterations, scale.iterations, 0), iterations - 1),
        "precise_bn_images": _times(settings.precise_bn_images, scale.iterations, 0),
        "batch_size": batch,
        "learning_rate": settings.learning_rate * batch / settings.batch_size,
        "train_sizes": tuple(sorted({side(pixels) for pixels in settings.train_sizes})),
        "test_size": side(settings.test_size),
        "max_size": max(side(settings.max_size), side(max(settings.train_sizes)), side(settings.test_size)),
        "anchor_sizes": tuple(_times(pixels, scale.size) for pixels in settings.anchor_sizes),
        "fcos_limits": tuple(_times(pixels, scale.size) for pixels in settings.fcos_limits),
        "canonical_box_size": _times(settings.canonical_box_size, scale.size),
        **{name: _times(getattr(settings, name), scale.size, LEAST_PROPOSALS) for name in PROPOSALS},
        "mask_channels": _times(settings.mask_channels, scale.width, LEAST_CHANNELS),
        "scale": str(scale),
    }
    return FinetuneConfig.model_validate(values)


def shorten_linear(settings: LinearConfig, scale: Scale) -> LinearConfig:
    """Return a linear evaluation made smaller: fewer epochs, a smaller batch (and rate), smaller images."""
    if scale.whole:
        return settings
    batch = _times(settings.batch_size, scale.batch)
    rates = tuple(rate * batch / settings.batch_size for rate in settings.learning_rates)
    values = settings.model_dump() | {
        "epochs": _times(settings.epochs, scale.iterations),
        "batch_size": batch,
        "learning_rates": rates,
        "image_size": _times(settings.image_size, scale.size, LEAST_SIDE),
        "resize": _times(settings.resize, scale.size, LEAST_SIDE),
        "scale": scale.text(without="width"),
    }
    return LinearConfig.model_validate(values)


def narrow(model: ModelConfig, scale: Scale) -> ModelConfig:
    """Return a model whose neck and box head have fewer channels."""
    if scale.width == 1:
        return model
    changed = {
        "fpn_channels": _times(model.fpn_channels, scale.width, LEAST_CHANNELS),
        "head_fc_size": _times(model.head_fc_size, scale.width, LEAST_CHANNELS),
    }
    return ModelConfig.model_validate(model.model_dump() | changed)


def with_batch(settings: FinetuneConfig, batch_size: int) -> FinetuneConfig:
    """Return the settings for another batch by the linear rule: as many images in all, a rate in proportion.

    Raises:
        InputError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: at least 1")
    factor = Fraction(batch_size, settings.batch_size)
    values = settings.model_dump() | {
        "batch_size": batch_size,
        "learning_rate": settings.learning_rate * float(factor),
        "iterations": max(1, round(settings.iterations / factor)),
        "warmup_iterations": round(settings.warmup_iterations / factor),
    }
    return FinetuneConfig.model_validate(values)


def _times(number: int, factor: Fraction, least: int = 1) -> int:
    return min(number, max(least, round(number * factor)))
