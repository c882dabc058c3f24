"""Commands that train, or handle what was trained: pretrain, convert, import, finetune, predict, linear."""

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


def pretrain(
    proposals: Annotated[str, typer.Option(help="Result of `soco propose`.")],
    images: Annotated[str | None, typer.Option(help="The images, if they moved since.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Pretrain backbone, FPN and box head by object-level contrastive learning (paper 3.3, 4.1)."""
    from soco_core.pretrain.stage import pretrain

    chosen = load_recipe(recipe, overrides or ())
    print(pretrain(chosen, proposals=proposals, images=images, output=output, tracking=tracking_here()).uri)


def convert(
    pretrained: Annotated[str, typer.Option(help="Result of `soco pretrain`, or of `soco import`.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Export pretrained weights for torchvision, detectron2 and mmdetection, with what became of every key."""
    from soco_core.convert.stage import convert

    chosen = load_recipe(recipe, overrides or ())
    print(convert(chosen, pretrained=pretrained, output=output, tracking=tracking_here()).uri)


def import_foreign(
    weights: Annotated[str, typer.Argument(help="Another method's checkpoint: a file or an s3:// URI.")],
    layout: Annotated[
        str | None, typer.Option(help="Its layout (docs/weights.md); by default told by its keys.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Row of the table; by default the layout's method.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Take over another method's backbone, so that `soco finetune --init` puts it through the same benchmark."""
    from soco_core.convert.import_stage import import_foreign

    chosen = load_recipe(recipe, overrides or ())
    result = import_foreign(chosen, weights=weights, output=output, layout=layout, name=name, tracking=tracking_here())
    print(result.uri)


def finetune(
    benchmark: Annotated[
        str, typer.Option(help="One of the paper's (`soco benchmarks`), instead of the recipe's section `finetune`.")
    ] = "",
    coco: Annotated[
        str, typer.Option(help="Folder of a data set, or a name such as mini-coco-5; by default the benchmark's.")
    ] = "",
    data: Annotated[
        str | None, typer.Option(help="Where data sets lie by name: a folder of them, or the benchmark's own folder.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="`scratch`, a file of weights, or a result of `soco convert` or `soco import`.")
    ] = "scratch",
    scale: Annotated[
        str, typer.Option(metavar="cpu|NAME=FACTOR,...", help="Shorten the benchmark: iterations, batch, size, width.")
    ] = "",
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a step; the benchmark's schedule follows by the linear rule.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Row of the table; by default told from --init.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Finetune and evaluate a detector (paper 4.2 to 4.5)."""
    from soco_core.benchmarks.choose import load_benchmark
    from soco_core.detection.stage import finetune

    if benchmark:
        chosen = load_benchmark(recipe, overrides or (), benchmark, scale, batch_size)
    else:
        chosen = load_recipe(recipe, overrides or ())
    if not benchmark and (scale or batch_size is not None):
        raise SocoError("--scale and --batch-size change one of the paper's benchmarks; name it by --benchmark")
    if not (benchmark or coco or data):
        raise SocoError("nothing to finetune on; give --benchmark NAME (`soco benchmarks` lists them) or --coco DIR")
    print(finetune(chosen, coco=coco, data=data, init=init, method=method, output=output, tracking=tracking_here()).uri)


def predict(
    weights: Annotated[str, typer.Argument(help="Result of `soco finetune`, or its model.safetensors.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files, and folders of them.")],
    score: Annotated[float, typer.Option(help="Least score of the detections that are drawn.")] = 0.5,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the results.")] = "predictions",
    debug: DebugOption = False,
) -> None:
    """Find objects in images by a finetuned detector: COCO results and drawings."""
    from soco_core.detection.predict_command import predict_images

    print(predict_images(weights, images, output=output, score=score))


def linear(
    images: Annotated[
        str, typer.Option(help="Folder, s3:// URI or pack with train/CLASS/ and val/CLASS/, or `imagenet`.")
    ] = "imagenet",
    data: Annotated[
        str | None, typer.Option(help="Where `imagenet` lies: its folder, or one that holds imagenet/.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="`scratch`, a file of weights, or a result of `soco convert` or `soco import`.")
    ] = "scratch",
    scale: Annotated[
        str, typer.Option(metavar="cpu|NAME=FACTOR,...", help="Shorten it: iterations, batch, size.")
    ] = "",
    method: Annotated[str | None, typer.Option(help="Row of the table; by default told from --init.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Evaluate a backbone by a linear classifier and by nearest neighbours (paper B)."""
    from soco_core.benchmarks.choose import load_linear
    from soco_core.linear.stage import linear

    chosen = load_linear(recipe, overrides or (), scale)
    print(
        linear(chosen, images=images, data=data, init=init, method=method, output=output, tracking=tracking_here()).uri
    )
