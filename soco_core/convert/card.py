"""The model card beside each export: where the weights come from, and the lines that load them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import soco_core
from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, find_result
from soco_core.artifacts.weights import Coverage
from soco_core.config import Recipe
from soco_core.convert.export import Export
from soco_core.convert.files import file_names
from soco_core.convert.loading import loading_lines
from soco_core.errors import InputError

IMPORTED = "import"
PROPOSALS, MANIFEST = "proposals", "manifest.json"
PARTS = {"encoder": "backbone", "neck": "FPN", "head": "box head"}
ABOUT = {
    "fpn": "a two-stage detector with an FPN (Mask R-CNN, Faster R-CNN)",
    "c4": "a two-stage detector on C4",
    "dense": "a dense detector whose pyramid begins at C3 (RetinaNet, FCOS)",
}


def model_card(export: Export, coverage: Coverage, recipe: Recipe, source: ResultDirectory) -> str:
    """Return the card of an export as Markdown.

    Args:
        export: target and kind of detector.
        coverage: what became of every key.
        recipe: its section `model` is that of the pretraining.
        source: result of `pretrain` or `import`; what it stores of its recipe is what counts here.
    """
    build, load = loading_lines(export, recipe.model, file_names(export)[0])
    imported = source.stage == IMPORTED
    facts = _imported_facts(recipe, source) if imported else _pretraining_facts(recipe, source)
    lines = [
        f"# {', '.join(f'`{name}`' for name in file_names(export))}",
        "",
        f"{_whose(coverage, source)}, under {export.target}'s names, for {ABOUT[export.detector]}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in {**facts, **_made(coverage)}.items() if value is not None),
        "",
        f"What became of every key: `{export.name}.coverage.json` and `coverage.md`.",
        "",
        "## Metrics",
        "",
        *_metrics(source.summary),
        "",
        "## How to load it",
        "",
        "The detector, with the settings that the weights were trained with:",
        "",
        "```python",
        build,
        "```",
        "",
        "The weights:",
        "",
        "```python",
        load,
        "```",
        "",
        "Images are RGB, less the mean (123.675, 116.28, 103.53), divided by the standard deviation (58.395, 57.12, "
        "57.375). All batch norms are trained on (none is frozen), and their statistics belong to the weights."
        + " No key of the release says what it was trained with."
        * imported,
        "",
        "## Licence",
        "",
        *_licence(source),
    ]
    return "\n".join(lines) + "\n"


def source_commit() -> str | None:
    """Return the commit of soco's own checkout; None where it is installed without one."""
    root = Path(soco_core.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _whose(coverage: Coverage, source: ResultDirectory) -> str:
    if source.stage != IMPORTED:
        return "Weights pretrained without labels by SoCo (NeurIPS 2021)"
    parts = {key.partition(".")[0] for key in coverage.loaded}
    named = [name for part, name in PARTS.items() if part in parts]
    return f"{source.summary['method']}: {', '.join(named)} of its release"


def _pretraining_facts(recipe: Recipe, source: ResultDirectory) -> dict[str, Any]:
    summary, trained = source.summary, source.determined_by
    pretrain = trained["recipe"].get("pretrain", {})
    return {
        **_model_facts(recipe),
        "data": f"{summary['images']:,} images without labels" if "images" in summary else None,
        "images": _images(source),
        "proposals": _code(trained["inputs"].get("proposals")),
        "epochs": pretrain.get("epochs"),
        "steps": f"{summary['steps']:,}" if "steps" in summary else None,
        "batch size": summary.get("batch_size"),
        "seed": trained["recipe"].get("seed"),
        "pretraining": f"`{source.fingerprint}`, by soco {source.done['soco_version'] if source.done else 'unknown'}",
    }


def _images(source: ResultDirectory) -> str | None:
    """Name the images by the proposals that were made for them; None where those do not lie beside the pretraining."""
    root = source.uri.rstrip("/").rsplit("/", 2)[0]
    fingerprint = source.determined_by["inputs"].get("proposals", "")
    try:
        made = find_result(storage.join(root, PROPOSALS, fingerprint), PROPOSALS)
        images = json.loads(storage.read_text(storage.join(made.uri, MANIFEST)))["image_set"]
        parts = [images["layout"], *images["splits"], *filter(None, [images["subset"]])]
        # Where they lay says more of the machine than of the images: the folder's name alone.
        name = images["root"].rstrip("/").rpartition("/")[2]
        return f"`{name}` ({', '.join(parts)}); `{images['fingerprint']}` by their {images['fingerprint_mode']}"
    except (InputError, ValueError, KeyError):
        return None


def _imported_facts(recipe: Recipe, source: ResultDirectory) -> dict[str, Any]:
    summary = source.summary
    return {
        **_model_facts(recipe),
        "method": summary["method"],
        "release": f"`{summary['file']}`, SHA-256 `{source.determined_by['inputs']['weights']}`",
        "layout": _code(summary["layout"]),
        "import": f"`{source.fingerprint}`; what it left out of the release stands in its `coverage.md`",
    }


def _model_facts(recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": _code(recipe.name or None),
        "architecture": recipe.model.architecture,
        "backbone": recipe.model.backbone,
    }


def _made(coverage: Coverage) -> dict[str, Any]:
    return {
        "converted by": f"soco {soco_core.__version__}, commit {_code(source_commit()) or 'unknown'}",
        "keys": f"{len(coverage.loaded)} loaded, {len(coverage.left_out)} left out, "
        f"{len(coverage.newly_initialised)} parts of the detector start from scratch",
    }


def _metrics(summary: dict[str, Any]) -> list[str]:
    lines = []
    if "final_loss" in summary:
        lines.append(
            f"Pretraining loss: {summary['first_loss']:.4f} at the first step, {summary['final_loss']:.4f} at the last."
        )
    return [
        *lines,
        "Detection metrics are no part of the weights: `soco finetune` measures them, `soco report` sets them out.",
    ]


def _licence(source: ResultDirectory) -> list[str]:
    images = (
        "Weights are made of the images that they were trained on: the terms of those images hold for them too "
        "(ImageNet's allow non-commercial research and education only)."
    )
    if source.stage == IMPORTED:
        return [
            f"The weights are those of {source.summary['method']}'s release: its licence holds for them here too. "
            f"{images} Who publishes them names the release and cites its paper."
        ]
    return [
        f"soco is under the Apache License 2.0. {images} Who publishes them names the images, and cites the paper: Wei "
        "et al., Aligning Pretraining for Detection via Object-Level Contrastive Learning, NeurIPS 2021."
    ]


def _code(value: object) -> str | None:
    return None if value is None else f"`{value}`"
