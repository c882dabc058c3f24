"""What the commands have in common: their options, and where they are tracked."""

from __future__ import annotations

from typing import Annotated

import typer

from soco_core.tracking import TrackingContext

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A named recipe (`soco recipes` lists them) or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Override a field of the recipe; repeatable."),
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="Root of all results: a directory or an s3:// URI.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DEFAULT_RECIPE = "soco-fpn-100ep"
DEFAULT_OUTPUT = "runs"


def tracking_here() -> TrackingContext | None:
    """Where the environment says that this command is tracked; None: nowhere."""
    return TrackingContext.from_environment()
