"""Commands that tell something: benchmarks, report, recipe, recipes, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from soco_core.commands.options import (
    DEFAULT_OUTPUT,
    DEFAULT_RECIPE,
    DebugOption,
    OutputOption,
    RecipeOption,
    SetOption,
    tracking_here,
)
from soco_core.recipes import describe_recipes, load_recipe


def benchmarks(debug: DebugOption = False) -> None:
    """List the paper's transfer experiments: table, data set, schedule and the paper's numbers."""
    from soco_core.benchmarks.listing import listing

    print(listing())


def report(
    benchmarks: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            help="Result of `soco finetune` or `soco linear`; repeatable. Not needed with --pretrained or --proposals.",
        ),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Result of `soco pretrain`.")] = None,
    proposals: Annotated[str | None, typer.Option(help="Result of `soco propose`.")] = None,
    converted: Annotated[
        str | None, typer.Option(help="Result of `soco convert`: its files of weights are listed.")
    ] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Set the numbers beside the paper's: tables, curves and pictures, as Markdown and HTML."""
    from soco_core.report.stage import report

    chosen = load_recipe(recipe, overrides or ())
    result = report(
        chosen,
        benchmarks=benchmarks or [],
        pretrained=pretrained,
        proposals=proposals,
        converted=converted,
        output=output,
        tracking=tracking_here(),
    )
    print(result.uri)


def recipe(
    name: Annotated[str, typer.Argument(help="A YAML file or the name of a recipe.")] = DEFAULT_RECIPE,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Print a recipe with every field resolved."""
    print(load_recipe(name, overrides or ()).to_yaml(), end="")


def recipes(debug: DebugOption = False) -> None:
    """List the named recipes: the paper's, those of its ablations, the authors', and the demo's."""
    described = describe_recipes()
    width = max(map(len, described))
    for name, summary in described.items():
        print(f"{name:{width}}  {summary}")


def doctor(
    built_for: Annotated[
        str, typer.Option(metavar="sm_NN", help="Only check that PyTorch has code for this GPU architecture.")
    ] = "",
    debug: DebugOption = False,
) -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    from soco_core.doctor import check_built_for, examine, show

    if built_for:
        print(f"torch has code for {check_built_for(built_for)}")
        return
    findings = examine()
    show(findings)
    raise typer.Exit(1 if any(f.needed and not f.ok for f in findings) else 0)
