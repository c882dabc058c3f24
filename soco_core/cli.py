"""`soco`: one command a stage. Each prints where its result lies, and nothing else, on standard output."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from soco_core import __version__
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.datasets.command import app as datasets
from soco_core.engine.loading import killed_loader
from soco_core.engine.processes import end_with_launcher, leave, stop_on_sigterm
from soco_core.engine.setup import share_cores
from soco_core.errors import InterruptedStageError, SocoError, one_line
from soco_core.recipes import describe_recipes, load_recipe
from soco_core.tracking import TrackingContext

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pretrain object detectors without labels (SoCo), and prove it. Each command is one stage; "
    "`python pipelines/full_benchmark.py --local` runs them all. Every path may be an s3:// URI.",
)
app.add_typer(datasets, name="datasets")

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A named recipe (`soco recipes` lists them) or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Override a field of the recipe; repeatable."),
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="Root of all results: a directory or an s3:// URI.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"soco {__version__}")
        raise typer.Exit


DEFAULT_RECIPE = "soco-fpn-100ep"
DEFAULT_OUTPUT = "runs"
STOPPED = 130


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""


@app.command("demo-data")
def demo_data(
    recipe: RecipeOption = "demo",
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Render a small labelled COCO-format data set, so that the demo needs no download."""
    from soco_core.demo_data.stage import demo_data

    print(demo_data(_recipe(recipe, overrides), output=output, tracking=_tracking()).uri)


@app.command()
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

    config = _recipe(recipe, overrides).images
    print(pack(config, images=images, output=output, shard_size=parse_size(shard_size)))


@app.command()
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
    chosen = _recipe(recipe, overrides)
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
            chosen, images=images, output=output, count=shards, plan=plan_from, tracking=_tracking()
        )
        print(merged.uri)
    else:
        print(stage.propose(chosen, images=images, output=output, shards=shards, tracking=_tracking()).uri)


@app.command()
def views(
    image: Annotated[str, typer.Argument(help="An image file; with --proposals also the id of one of their images.")],
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice; by default the recipe's.")] = None,
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

    chosen = _recipe(recipe, [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])])
    draw_image(chosen, image=image, output=output, epoch=epoch, proposals=proposals, images=images)
    print(output)


@app.command()
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

    chosen = _recipe(recipe, overrides)
    print(pretrain(chosen, proposals=proposals, images=images, output=output, tracking=_tracking()).uri)


@app.command()
def convert(
    pretrained: Annotated[str, typer.Option(help="Result of `soco pretrain`, or of `soco import`.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Export pretrained weights for torchvision, detectron2 and mmdetection, with what became of every key."""
    from soco_core.convert.stage import convert

    print(convert(_recipe(recipe, overrides), pretrained=pretrained, output=output, tracking=_tracking()).uri)


@app.command("import")
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

    chosen = _recipe(recipe, overrides)
    result = import_foreign(chosen, weights=weights, output=output, layout=layout, name=name, tracking=_tracking())
    print(result.uri)


@app.command()
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
        chosen = _recipe(recipe, overrides)
    if not benchmark and (scale or batch_size is not None):
        raise SocoError("--scale and --batch-size change one of the paper's benchmarks; name it by --benchmark")
    if not (benchmark or coco or data):
        raise SocoError("nothing to finetune on; give --benchmark NAME (`soco benchmarks` lists them) or --coco DIR")
    print(finetune(chosen, coco=coco, data=data, init=init, method=method, output=output, tracking=_tracking()).uri)


@app.command()
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


@app.command()
def benchmarks() -> None:
    """List the paper's transfer experiments: table, data set, schedule and the paper's numbers."""
    from soco_core.benchmarks.listing import listing

    print(listing())


@app.command()
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
    print(linear(chosen, images=images, data=data, init=init, method=method, output=output, tracking=_tracking()).uri)


@app.command()
def report(
    benchmarks: Annotated[list[str], typer.Option("--benchmark", help="Result of `soco finetune`; repeatable.")],
    pretrained: Annotated[str | None, typer.Option(help="Result of `soco pretrain`.")] = None,
    proposals: Annotated[str | None, typer.Option(help="Result of `soco propose`.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: SetOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    debug: DebugOption = False,
) -> None:
    """Set the numbers beside the paper's: tables, curves and pictures, as Markdown and HTML."""
    from soco_core.report.stage import report

    chosen = _recipe(recipe, overrides)
    result = report(
        chosen,
        benchmarks=benchmarks,
        pretrained=pretrained,
        proposals=proposals,
        output=output,
        tracking=_tracking(),
    )
    print(result.uri)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="A YAML file or the name of a recipe.")] = DEFAULT_RECIPE,
    overrides: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Print a recipe with every field resolved."""
    print(_recipe(name, overrides).to_yaml(), end="")


@app.command()
def recipes(debug: DebugOption = False) -> None:
    """List the named recipes: the paper's, those of its ablations, the authors', and the demo's."""
    described = describe_recipes()
    width = max(map(len, described))
    for name, summary in described.items():
        print(f"{name:{width}}  {summary}")


@app.command()
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


def main() -> None:
    """Run the command line; an error is one line (a traceback with ``--debug``) and a non-zero status."""
    end_with_launcher()
    share_cores()
    stop_on_sigterm()
    try:
        status = app(standalone_mode=False)
    except KeyboardInterrupt:
        status = STOPPED
    except InterruptedStageError as error:
        say(one_line(error))
        leave(STOPPED)
    except SystemExit as end:  # a process that follows another one, with that one's status
        leave(end.code if isinstance(end.code, int) else 1)
    except TyperException as error:
        if error.format_message():  # `soco` alone has none: its help is shown
            say(f"error: {error.format_message()} (--help lists what there is)")
        sys.exit(2)
    except Exception as caught:
        if "--debug" in sys.argv:
            traceback.print_exc()
        known = killed_loader(caught) or caught
        expected = isinstance(known, SocoError)
        say(f"error: {one_line(known)}{'' if expected else ' (--debug shows the traceback)'}")
        leave(2 if expected else 1)
    if status == STOPPED:  # typer's answer to KeyboardInterrupt
        say("stopped; run the same command to go on")
        leave(STOPPED)
    sys.exit(status or 0)


def _recipe(name: str, overrides: list[str] | None) -> Recipe:
    return load_recipe(name, overrides or ())


def _tracking() -> TrackingContext | None:
    return TrackingContext.from_environment()


def _parse_shard(text: str) -> tuple[int, int]:
    """Read ``I/N`` with I from 1 to N; return the index from 0, and N."""
    index, separator, count = text.partition("/")
    if separator and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count):
        return int(index) - 1, int(count)
    raise SocoError(f"--shard {text!r}: write it as I/N with I from 1 to N, for example 1/4")


if __name__ == "__main__":
    main()
