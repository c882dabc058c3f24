"""`soco datasets`: which data sets there are, and whether one is what it says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from soco_core.errors import InputError

if TYPE_CHECKING:
    from soco_core.datasets.looked import Report
    from soco_core.images.sources import Mode

app = typer.Typer(no_args_is_help=True, help="List the labelled data sets, and check one before hours are spent on it.")
STATUS = {None: 0, "note": 0, "warning": 1, "error": 2}
DEFAULT_SAMPLE = 500

DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where it lies: its folder, or one that holds coco/, voc/, lvis/, imagenet/; a path or an s3:// URI.",
    ),
]
RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="Its section `datasets` says where they lie.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Override a field of the recipe; repeatable."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command("list")
def list_datasets(
    data: DataOption = None,
    recipe: RecipeOption = "soco-fpn-100ep",
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """List the data sets by name, with the published number of images, and where each lies."""
    from soco_core.datasets.open_set import locate
    from soco_core.datasets.published import NAMED
    from soco_core.recipes import load_recipe

    config = load_recipe(recipe, overrides or ()).datasets
    for item in NAMED:
        counts = ", ".join(f"{name} {count.images:,}" for name, count in item.splits.items())
        try:
            place = locate(item.root, config, data)
        except InputError:
            place = f"(nowhere: give --data, datasets.{item.root} or SOCO_DATA)"
        print(f"{item.name:21} {item.about}\n{'':21} images: {counts}\n{'':21} {place}")


@app.command("check")
def check_dataset(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR", help="A name of `soco datasets list`, or a folder or pack; a path or an s3:// URI."
        ),
    ],
    data: DataOption = None,
    sample: Annotated[int, typer.Option(min=0, help="Images to read and decode in each split.")] = DEFAULT_SAMPLE,
    everything: Annotated[bool, typer.Option("--all", help="Read and decode every image.")] = False,
    fingerprint: Annotated[
        str,
        typer.Option(
            metavar="sizes|contents",
            help="Also name the images of each split by their names and sizes, or contents; a copy has the same.",
        ),
    ] = "",
    recipe: RecipeOption = "soco-fpn-100ep",
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check files, counts, boxes, categories and masks, and print what is wrong.

    Exit status 0: nothing, or only notes; 1: warnings; 2: errors.
    """
    from soco_core.datasets.check import check
    from soco_core.datasets.findings import worst
    from soco_core.recipes import load_recipe

    config = load_recipe(recipe, overrides or ())
    depth = None if everything else sample
    report = check(name, config.datasets, data, depth, _mode(fingerprint), max_pixels=config.images.max_pixels)
    _show(report)
    raise typer.Exit(STATUS[worst(finding for _, finding in report.all())])


def _mode(text: str) -> Mode | None:
    if text == "sizes":
        return "sizes"
    if text == "contents":
        return "contents"
    if text:
        raise InputError(f"--fingerprint {text}: give sizes or contents")
    return None


def _show(report: Report) -> None:
    print(report.place if report.name == report.place else f"{report.name}: {report.place}")
    for split in report.splits:
        parts = [f"{split.images:,} images ({split.decoded:,} decoded)"]
        if split.annotations is not None:
            parts.append(f"{split.annotations:,} annotations")
        if split.categories is not None:
            parts.append(f"{split.categories:,} categories")
        if split.fingerprint:
            parts.append(f"fingerprint {split.fingerprint}")
        print(f"  {split.name}: {', '.join(parts)}")
    found = report.all()
    if not found:
        print("nothing wrong")
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table("", "split", "what", "count", Column("first", overflow="fold"), "remedy")
        colours = {"error": "red", "warning": "yellow", "note": "dim"}
        for split_name, item in found:
            rule = item.rule
            first = f"{item.file}: {item.first}".removeprefix(f"{report.place}/")
            cells = (split_name, rule.what, f"{item.count:,}", first, rule.remedy)
            table.add_row(f"[{colours[rule.severity]}]{rule.severity}[/]", *map(escape, cells))
        Console().print(table)
        return
    for split_name, item in found:
        rule = item.rule
        print(f"{rule.severity:8}{split_name:8}{item.count:>9,}  {rule.what}: {item.file}: {item.first}; {rule.remedy}")
