"""Others' weights under canonical names: read, told by their keys, checked against the recipe's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.artifacts.initialisation import refuse_bgr
from soco_core.artifacts.unpickle import load_foreign
from soco_core.artifacts.weights import Coverage, load_canonical
from soco_core.config import ModelConfig
from soco_core.convert.export import NOT_DENSE, without_place
from soco_core.convert.layouts import (
    LAYOUTS,
    Layout,
    canonical_name,
    detect,
    detectors_of,
    prefixes,
    reason_to_leave_out,
    unwrap,
    without_module,
)
from soco_core.errors import InputError

if TYPE_CHECKING:
    import torch

SHOWN_PREFIXES = 12


@dataclass(frozen=True)
class Imported:
    """Weights of another method, ready for a detector."""

    tensors: dict[str, torch.Tensor]
    """Under canonical names."""
    coverage: Coverage
    layout: Layout


def import_weights(path: Path, model: ModelConfig, layout_name: str | None = None) -> Imported:
    """Read a checkpoint and give its backbone (and what else the recipe's model has) canonical names.

    Args:
        path: the file; ``.safetensors``, or what :func:`soco_core.artifacts.unpickle.load_foreign` reads.
        model: the backbone's name and the sizes that the weights must have.
        layout_name: one of :data:`soco_core.convert.layouts.LAYOUTS`; by default told from the keys.

    Raises:
        InputError: unreadable; an unknown layout, or another than was named; a key of the backbone is missing, unknown
            or of another shape; numbers that are no finite floats; weights that the recipe's model computes something
            else with. One line.
    """
    content: Mapping[Any, Any] = load_canonical(path) if path.suffix == ".safetensors" else load_foreign(path)
    refuse_bgr(path, content)
    tensors = _tensors(path, unwrap(content))
    plain = without_module(tensors)
    layout = _choose(path, {plain[key]: tuple(value.shape) for key, value in tensors.items()}, layout_name)
    expected = _expected(model)
    coverage = Coverage("canonical")
    taken: dict[str, torch.Tensor] = {}
    detectors = detectors_of(layout, plain.values())
    for key, value in tensors.items():
        name = canonical_name(layout, plain[key], model.head_convs, detectors)
        if name is None:
            reason = reason_to_leave_out(layout, plain[key])
            if reason is None:
                raise InputError(
                    f"{path}: {key} is no key of a ResNet as the layout `{layout.name}` has it; give the weights of "
                    "the recipe's model.backbone, or name another --layout"
                )
            coverage.left_out[key] = reason
        else:
            taken[name] = value
            coverage.loaded[key] = name
    for part in ("neck", "head"):
        _drop_unlike(path, part, layout, taken, coverage, expected)
    _check(path, taken, coverage, expected)
    pyramid = any(name.startswith("neck.") for name in taken)
    for name in expected:
        if name not in taken:
            kept = name.endswith("num_batches_tracked") and name.rpartition(".")[0] + ".weight" in taken
            absent = NOT_DENSE["neck"] if pyramid and name.startswith("neck.") else "not part of the pretraining"
            coverage.newly_initialised[name] = "a counter that the file lacks; starts at 0" if kept else absent
    return Imported({name: _full(value) for name, value in taken.items()}, coverage, layout)


def _tensors(path: Path, content: dict[str, Any]) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    tensors = {key: torch.tensor(value) for key, value in content.items() if isinstance(value, np.ndarray)}
    tensors |= {key: value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(
            f"{path}: holds no state dict; its keys are {', '.join(sorted(content)[:SHOWN_PREFIXES]) or 'none'}; give "
            "a file of weights"
        )
    return tensors


def _full(value: torch.Tensor) -> torch.Tensor:
    """Return numbers as the detectors have them: float32, also of a release in half precision."""
    return value.float() if value.is_floating_point() else value


def _choose(path: Path, shapes: dict[str, tuple[int, ...]], name: str | None) -> Layout:
    listed = prefixes(shapes)
    found = ", ".join(listed[:SHOWN_PREFIXES]) + (
        f" and {len(listed) - SHOWN_PREFIXES} more" * (len(listed) > SHOWN_PREFIXES)
    )
    if name is not None:
        layout = next((layout for layout in LAYOUTS if layout.name == name), None)
        if layout is None:
            raise InputError(f"--layout {name}: no such layout; there are {', '.join(each.name for each in LAYOUTS)}")
        if layout.first_key not in shapes:
            raise InputError(
                f"{path}: not of the layout `{name}`, which has {layout.first_key}; its keys begin with {found}"
            )
        return layout
    layout = detect(shapes)
    if layout is None:
        raise InputError(
            f"{path}: no known layout; its keys begin with {found}; save the backbone's state dict alone, under "
            "torchvision's names"
        )
    return layout


def _expected(model: ModelConfig) -> dict[str, list[int]]:
    """Shapes of backbone, FPN and box head of the recipe's model, by canonical names."""
    import torch

    from soco_core.models.soco import ObjectEncoder

    with torch.device("meta"):
        state = ObjectEncoder(model).state_dict()
    return {key: list(value.shape) for key, value in state.items() if not key.startswith("projector.")}


def _drop_unlike(
    path: Path,
    part: str,
    layout: Layout,
    taken: dict[str, torch.Tensor],
    coverage: Coverage,
    expected: dict[str, list[int]],
) -> None:
    """Leave an FPN or a box head out that is built otherwise than the recipe's; of the authors' refuse it.

    An FPN that lacks P2 alone, that of RetinaNet and FCOS, is taken.
    """
    names = {name for name in taken if name.startswith(f"{part}.")}
    wanted = {name for name in expected if name.startswith(f"{part}.")}
    lowest = {name for name in wanted if part == "neck" and without_place("dense", name)}
    if layout.target and not names & lowest:
        wanted -= lowest
    odd = sorted(name for name in names ^ wanted if not name.endswith("num_batches_tracked"))
    if not names or not odd:
        return
    if layout.style == "soco" and wanted:
        raise InputError(
            f"{path}: {'has no' if odd[0] in wanted else 'the recipe has no'} {odd[0]}; use the recipe whose model the "
            "weights were pretrained as"
        )
    reason = (
        f"its {part} has other parts than the recipe's (such as {odd[0]})" if wanted else f"the recipe has no {part}"
    )
    for key, name in list(coverage.loaded.items()):
        if name in names:
            coverage.left_out[key] = reason
            del coverage.loaded[key], taken[name]


def _check(path: Path, taken: dict[str, torch.Tensor], coverage: Coverage, expected: dict[str, list[int]]) -> None:
    import torch

    keys = {name: key for key, name in coverage.loaded.items()}
    missing = [
        name
        for name in expected
        if name.startswith("encoder.") and name not in taken and not name.endswith("num_batches_tracked")
    ]
    if missing:
        raise InputError(
            f"{path}: has no {missing[0].removeprefix('encoder.')} ({len(missing)} of the backbone's keys are "
            "missing); give the weights of the recipe's model.backbone"
        )
    for name, value in taken.items():
        if name not in expected:
            raise InputError(
                f"{path}: {keys[name]} is not a key of the recipe's model.backbone; give the recipe of these weights"
            )
        if list(value.shape) != expected[name]:
            raise InputError(
                f"{path}: {keys[name]} has shape {list(value.shape)}, the recipe's model needs {expected[name]}; give "
                "the weights of its model.backbone"
            )
        counts = name.endswith("num_batches_tracked")
        if value.layout != torch.strided or value.is_quantized or not (counts or value.is_floating_point()):
            kind = f"{value.dtype}".removeprefix("torch.") + f" numbers, {value.layout}".replace(", torch.strided", "")
            raise InputError(
                f"{path}: {keys[name]} holds {kind}; give the weights as they were trained, dense and of floats"
            )
        if not value.isfinite().all():
            raise InputError(
                f"{path}: {keys[name]} holds NaN or infinity, so its training diverged; give another checkpoint"
            )
