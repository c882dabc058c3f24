"""The report as Markdown; pictures are linked by relative paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from soco_core.report.figures import Figure
from soco_core.report.page import Fact, Page
from soco_core.report.tables import Table, shown


def to_markdown(page: Page) -> str:
    """Return the page as Markdown text."""
    parts = [f"# SoCo report: {page.title}", *(f"**{table.benchmark}.** {table.headline}" for table in page.tables)]
    for table in page.tables:
        parts += _benchmark(table, page.benchmark_figures[table.benchmark])
    if page.pretraining:
        parts += ["## Pretraining", _facts(page.pretraining), *_figures(page.pretraining_figures)]
    if page.exports:
        parts += ["## Weights", _facts(page.exports, ("file", "weights"))]
    if page.proposals:
        parts += ["## Proposals", _facts(page.proposals)]
        if page.bad_images:
            parts.append(f"Unreadable files (the first {len(page.bad_images)} of {page.bad_image_count}):")
            parts.append(_facts(page.bad_images, ("file", "reason")))
        parts += _figures(page.proposal_figures)
    if page.views:
        parts += ["## Views", *_figures(page.views)]
    if page.detections:
        parts += ["## Detections", *_figures(page.detections)]
    return "\n\n".join([*parts, *_reproduction(page)]) + "\n"


def _benchmark(table: Table, figures: list[Figure]) -> list[str]:
    title = f"## {table.benchmark}" + (f": {table.paper.title}" if table.paper else "")
    rows = [
        [table.label(run) + (" (shortened)" if run.shortened else ""), "", *_numbers(table, run.result.metrics)]
        for run in table.runs
    ]
    rows += [[f"*{gain.label}*", "", *_numbers(table, gain.metrics, signed=True)] for gain in table.gains]
    rows += [
        [f"paper: {row.method}", "" if row.epochs is None else str(row.epochs), *_numbers(table, row.metrics)]
        for row in table.paper_rows
    ]
    parts = [
        title,
        f"{table.legend} Epochs are those of the paper's pretraining.",
        _table(["", "epochs", *table.columns], rows),
        "\n".join(f"- {_escaped(note)}" for note in table.notes),
        "What each run was trained and evaluated on:",
        _table(
            ["run", "training images", "evaluated images", "iterations", "batch", "seed", "initial weights", "result"],
            [
                [
                    table.label(run),
                    f"{run.result.train_images:,}",
                    f"{run.result.val_images:,}",
                    f"{run.result.iterations:,}",
                    str(run.result.batch_size),
                    str(run.result.seed),
                    run.result.initialisation,
                    f"{run.directory.stage}/{run.directory.fingerprint}",
                ]
                for run in table.runs
            ],
        ),
    ]
    for group in table.difference_groups:
        parts.append(f"Not as in the paper ({group.runs}):")
        parts.append(
            _table(
                ["", "here", "paper"], [[item.what, item.ours, item.paper] for item in group.differences], "|---" * 3
            )
        )
    return [*(part for part in parts if part), *_figures(figures)]


def _reproduction(page: Page) -> list[str]:
    if not page.recipes:
        return []
    parts = [
        "## How to reproduce",
        "Each file holds all that determined the runs; the folders of images are yours to name. Without --images "
        "and --coco the rendered demo data are used.",
    ]
    for recipe in page.recipes:
        parts.append(f"`{recipe.file}`, seeds {', '.join(map(str, recipe.seeds))}:")
        parts.append(f"```\n{recipe.command}\n```")
    parts.append(
        _table(
            ["stage", "fingerprint", "soco"],
            [[r.stage, r.fingerprint, r.done["soco_version"] if r.done else ""] for r in page.inputs],
            "|---" * 3,
        )
    )
    parts.append("Versions where this report was written:")
    parts.append(_facts(page.versions))
    return parts


def _numbers(table: Table, metrics: dict[str, float | None], *, signed: bool = False) -> list[str]:
    return [shown(metrics.get(name), signed=signed) for name in table.columns]


def _facts(facts: Iterable[Fact], heads: tuple[str, str] = ("", "")) -> str:
    return _table(list(heads), [[fact.name, fact.value] for fact in facts], "|---" * 2)


def _figures(figures: list[Figure]) -> list[str]:
    return [f"![{_escaped(figure.caption)}]({figure.file})\n\n{_escaped(figure.caption)}" for figure in figures]


def _table(heads: list[str], rows: Sequence[Sequence[str]], rule: str = "") -> str:
    rule = rule or "|---" + "|---:" * (len(heads) - 1)
    lines = [heads, *rows]
    body = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
    return "\n".join([body[0], f"{rule}|", *body[1:]])


def _escaped(text: str) -> str:
    """Keep a cell or a caption in its place: file names may hold anything."""
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[").replace("]", "\\]").replace("<", "&lt;")
