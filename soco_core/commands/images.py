"""Commands about images: demo-data, pack, propose, views."""

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
from soco_core.errors import SocoError
from soco_core.recipes import load_recipe


def demo_data(
    recipe: RecipeOption = "demo",
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Render a small labelled COCO-format data set, so that the demo needs no download."""
    from soco_core.demo_data.stage import demo_data

    print(demo_data(load_recipe(recipe, overrides or ()), output=output, tracking=tracking_here()).uri)


def pack(
    images: Annotated[str, typer.Option(help="Images: a folder, a COCO or VOC data set, an s3:// URI, or a pack.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The pack itself: a folder or an s3:// URI.")],
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest size of a tar.")] = "1GB",
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Pack images into tar files with an index, which any WebDataset tool reads."""
    from soco_core.images.packing import pack, parse_size

    config = load_recipe(recipe, overrides or ()).images
    print(pack(config, images=images, output=output, shard_size=parse_size(shard_size)))


def propose(
    images: Annotated[
        str, typer.Option(help="Folder of images, of any depth, COCO or VOC data set, or pack; a path or an s3:// URI.")
    ],
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; by default runtime.search_workers, or one a core.")
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Compute only shard I of N (I from 1); merge when all are done.")
    ] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list the images once for all --shards, and print where the list lies.")
    ] = False,
    plan_from: Annotated[
        str | None, typer.Option(help="What --plan printed; --shard and --merge then list and hash nothing.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Only merge the finished --shards.")] = False,
    debug: DebugOption = False,
) -> None:
    """Find object proposals by selective search (paper 3.2, A)."""
    from soco_core.proposals import stage

    if workers is not None:
        overrides = [*(overrides or ()), f"runtime.search_workers={workers}"]
    chosen = load_recipe(recipe, overrides or ())
    if shard and (merge or plan or shards > 1):
        raise SocoError(
            "--shard I/N stands alone: it names one shard and their number; leave --shards, --plan and --merge out"
        )
    if plan and (merge or plan_from):
        raise SocoError("--plan comes before the shards and --merge; leave --merge and --plan-from out")
    if plan_from and not (shard or merge):
        raise SocoError("--plan-from is for --shard I/N and --merge; give one of them")
    if plan:
        print(stage.plan_shards(chosen, images=images, output=output, count=shards))
    elif shard:
        index, count = _parse_shard(shard)
        print(stage.propose_shard(chosen, images=images, output=output, index=index, count=count, plan=plan_from))
    elif merge:
        merged = stage.merge_shards(
            chosen, images=images, output=output, count=shards, plan=plan_from, tracking=tracking_here()
        )
        print(merged.uri)
    else:
        print(stage.propose(chosen, images=images, output=output, shards=shards, tracking=tracking_here()).uri)


def views(
    image: Annotated[str, typer.Argument(help="An image file; with --proposals also the id of one of their images.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of every random choice; by default the recipe's.")
    ] = None,
    epoch: Annotated[int, typer.Option(min=0, help="The epoch whose views are drawn.")] = 0,
    proposals: Annotated[
        str | None, typer.Option(help="Result of `soco propose`: draw what its pretraining sees of the image.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="The images of --proposals, if they moved since.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.png", help="The picture.")] = "views.png",
    debug: DebugOption = False,
) -> None:
    """Draw the views of an image with their boxes, levels and matches (paper 3.2, Figure 1)."""
    from soco_core.view_command import draw_image

    chosen = load_recipe(recipe, [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])])
    draw_image(chosen, image=image, output=output, epoch=epoch, proposals=proposals, images=images)
    print(output)


def _parse_shard(text: str) -> tuple[int, int]:
    """Read ``I/N`` with I from 1 to N; return the index from 0, and N."""
    index, separator, count = text.partition("/")
    if separator and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count):
        return int(index) - 1, int(count)
    raise SocoError(f"--shard {text!r}: write it as I/N with I from 1 to N, for example 1/4")
