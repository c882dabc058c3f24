"""What the report says, before it becomes Markdown, HTML or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import soco_core
from soco_core.artifacts.proposals import MANIFEST
from soco_core.artifacts.result import RECIPE, ResultDirectory
from soco_core.config import ViewsConfig
from soco_core.report.figures import Figure, copy_picture, draw_bars, draw_finetuning, draw_pretraining, slug
from soco_core.report.proposals import proposal_facts
from soco_core.report.runs import Run
from soco_core.report.tables import Table, build_tables
from soco_core.views.selection import Frame, view_frames

PACKAGES = ("torch", "torchvision", "opencv-contrib-python-headless", "faster-coco-eval", "numpy", "pillow")
BAD_IMAGES_SHOWN = 20
COMMANDS = {
    "finetune": "python pipelines/full_benchmark.py --local --recipe {} --images DIR --coco DIR",
    "linear": "soco linear --recipe {} --images DIR --init WEIGHTS",
    "pretrain": "python pipelines/pretrain_only.py --local --recipe {} --images DIR",
    "proposals": "soco propose --recipe {} --images DIR",
}


@dataclass(frozen=True)
class Fact:
    """A named number or word."""

    name: str
    value: str


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that reproduces some of the runs."""

    file: str
    seeds: tuple[int, ...]
    text: str
    command: str
    """What computes them again."""


@dataclass
class Page:
    """The contents of a report."""

    title: str
    tables: list[Table]
    benchmark_figures: dict[str, list[Figure]]
    detections: list[Figure]
    pretraining: list[Fact] = field(default_factory=list)
    pretraining_figures: list[Figure] = field(default_factory=list)
    views: list[Figure] = field(default_factory=list)
    exports: list[Fact] = field(default_factory=list)
    """File of the weights -> what became of the pretraining's keys."""
    proposals: list[Fact] = field(default_factory=list)
    proposal_figures: list[Figure] = field(default_factory=list)
    bad_images: list[Fact] = field(default_factory=list)
    bad_image_count: int = 0
    recipes: list[RecipeFile] = field(default_factory=list)
    inputs: list[ResultDirectory] = field(default_factory=list)
    versions: list[Fact] = field(default_factory=list)


def build_page(
    title: str,
    runs: list[Run],
    pretrained: ResultDirectory | None,
    proposals: ResultDirectory | None,
    folder: Path,
    exported: ResultDirectory | None = None,
) -> Page:
    """Collect what the report says, and write its figures and recipes below `folder`."""
    tables = build_tables(runs)
    page = Page(
        title=title,
        tables=tables,
        benchmark_figures={t.benchmark: draw_bars(t, folder) + draw_finetuning(t, folder) for t in tables},
        detections=[picture for table in tables for run in table.runs for picture in _detections(table, run, folder)],
        inputs=[
            *(result for result in (proposals, pretrained, exported) if result is not None),
            *(run.directory for run in runs),
        ],
        versions=_versions(),
    )
    if exported is not None:
        page.exports = _exports(exported)
    if pretrained is not None:
        page.pretraining = _pretraining_facts(pretrained)
        page.pretraining_figures = draw_pretraining(pretrained.path, folder, -4 * len(_other_views(pretrained)))
        page.views = copy_picture(
            pretrained.path / "figures" / "views.png",
            folder,
            "views",
            "The views of some images as the network sees them, with the proposals that it has to match between them.",
        )
    if proposals is not None:
        _add_proposals(page, proposals, folder)
    page.recipes = _recipes(title, runs, pretrained, proposals)
    return page


def tables_only(runs: list[Run]) -> Page:
    """Return a page of the tables, with no figure and nothing on how to reproduce them."""
    tables = build_tables(runs)
    title = ", ".join(table.benchmark for table in tables)
    return Page(title, tables, {table.benchmark: [] for table in tables}, [])


def results_json(page: Page) -> dict[str, Any]:
    """Return every number of the report as plain JSON."""
    return {
        "contract": 2,
        "benchmarks": [
            {
                "benchmark": table.benchmark,
                "columns": list(table.columns),
                "comparable_with_paper": table.comparable,
                "runs": [
                    {
                        **asdict(run.result),
                        "fingerprint": run.directory.fingerprint,
                        "shortened": run.shortened,
                        "differences_from_paper": [asdict(difference) for difference in run.differences],
                    }
                    for run in table.runs
                ],
                "gains": [asdict(gain) for gain in table.gains],
                "paper": [asdict(row) for row in table.paper_rows],
                "notes": list(table.notes),
            }
            for table in page.tables
        ],
        "pretraining": {fact.name: fact.value for fact in page.pretraining},
        **({"exports": {fact.name: fact.value for fact in page.exports}} if page.exports else {}),
        "proposals": {fact.name: fact.value for fact in page.proposals},
        "inputs": [
            {
                "stage": result.stage,
                "fingerprint": result.fingerprint,
                "determined_by": result.determined_by,
                "soco_version": result.done["soco_version"] if result.done else None,
                "summary": result.summary,
            }
            for result in page.inputs
        ],
        "versions": {fact.name: fact.value for fact in page.versions},
    }


def _detections(table: Table, run: Run, folder: Path) -> list[Figure]:
    label = table.label(run)
    return copy_picture(
        run.path / "figures" / "detections.png",
        folder,
        f"detections-{slug(table.benchmark)}-{slug(label)}",
        f"{table.benchmark}, {label}: evaluated images, annotated (above) and as detected (below).",
    )


def _pretraining_facts(pretrained: ResultDirectory) -> list[Fact]:
    recipe = pretrained.determined_by["recipe"]
    summary = pretrained.summary
    sizes = [recipe["views"]["size"], *(view.size for view in _other_views(pretrained))]
    return [
        Fact("images", f"{summary['images']:,}"),
        Fact("epochs", f"{recipe['pretrain']['epochs']:,}"),
        Fact("steps", f"{summary['steps']:,}"),
        Fact("batch size", f"{min(recipe['pretrain']['batch_size'], summary['images']):,}"),
        Fact("backbone", recipe["model"]["backbone"]),
        Fact("view sizes", f"{', '.join(map(str, sizes))} px"),
        Fact("proposals per image and step", str(recipe["views"]["proposals_per_image"])),
        Fact("final loss", f"{summary['final_loss']:.3f}".replace("-", "−")),
        Fact("seed", str(recipe["seed"])),
    ]


def _other_views(pretrained: ResultDirectory) -> list[Frame]:
    """Return the views beside V1 of a pretraining; a version of soco with other fields may have made it."""
    return view_frames(ViewsConfig.model_construct(**pretrained.determined_by["recipe"]["views"]))


def _exports(exported: ResultDirectory) -> list[Fact]:
    """Say of each file of weights how many keys it has, and how many have no place in its framework."""
    facts = []
    for name, counts in exported.summary.items():
        if isinstance(counts, dict):
            text = f"{counts['loaded']:,} keys; {counts['left_out']:,} left out, each for a reason"
            facts += [Fact(file.name, text) for file in sorted(exported.path.glob(f"{name}.p*"))]
    return facts


def _add_proposals(page: Page, proposals: ResultDirectory, folder: Path) -> None:
    manifest = json.loads((proposals.path / MANIFEST).read_text(encoding="utf-8"))
    page.proposals = [Fact(name, value) for name, value in proposal_facts(manifest)]
    page.bad_image_count = manifest["images"]["bad"]
    page.bad_images = [Fact(entry["id"], entry["reason"]) for entry in manifest["bad_images"][:BAD_IMAGES_SHOWN]]
    figures = proposals.path / "figures"
    page.proposal_figures = copy_picture(
        figures / "proposals.png",
        folder,
        "proposals",
        "Some of the boxes that the filter kept, on images spread evenly over the set (as the paper's Figure 2).",
    ) + copy_picture(
        figures / "proposals_histogram.png",
        folder,
        "proposals_histogram",
        "How many boxes images have, and their sizes √(hw) in pixels (as the paper's Figure 3).",
    )


def _recipes(
    name: str, runs: list[Run], pretrained: ResultDirectory | None, proposals: ResultDirectory | None
) -> list[RecipeFile]:
    """Put together what determined each run; runs that differ in nothing but their seed share a recipe.

    Which images there were, and where boxes were imported from, determined the proposals by fingerprints only:
    that is taken from the recipe that lies with them.
    """
    import yaml

    seeds: dict[tuple[str, str], set[int]] = {}
    last = [run.directory for run in runs] or [each for each in (pretrained, proposals) if each is not None][:1]
    for directory in last:
        recipe: dict[str, Any] = {"name": name}
        for result in (proposals, pretrained, directory):
            if result is not None:
                recipe |= result.determined_by["recipe"]
        if proposals is not None:
            given = yaml.safe_load((proposals.path / RECIPE).read_text(encoding="utf-8"))
            recipe |= {"images": given["images"], "proposals": given["proposals"]}
            recipe.setdefault("seed", given["seed"])  # proposals alone, which it need not determine
        stage = directory.stage
        if stage == "linear":
            inputs = directory.determined_by["inputs"]
            recipe["model"] = recipe.get("model", {}) | {"backbone": inputs["backbone"]}
            recipe["images"] = recipe.get("images", {}) | {"max_pixels": inputs["max_pixels"]}
        seed = int(recipe.pop("seed"))
        seeds.setdefault((stage, yaml.safe_dump(recipe, sort_keys=False)), set()).add(seed)
    files = ["recipe.yaml"] if len(seeds) == 1 else [f"recipe-{number}.yaml" for number in range(1, len(seeds) + 1)]
    return [
        RecipeFile(file, tuple(sorted(used)), f"seed: {min(used)}\n{text}", COMMANDS[stage].format(file))
        for file, ((stage, text), used) in zip(files, seeds.items(), strict=True)
    ]


def _versions() -> list[Fact]:
    found = [Fact("soco", soco_core.__version__)]
    for package in PACKAGES:
        try:
            found.append(Fact(package, version(package)))
        except PackageNotFoundError:
            found.append(Fact(package, "not installed"))
    return found
