"""`soco`: one command a stage. Each prints where its result lies, and nothing else, on standard output."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer
from typer.exceptions import TyperException

from soco_core import __version__
from soco_core.commands import images, telling, training
from soco_core.console import say
from soco_core.datasets.command import app as datasets
from soco_core.engine.loading import killed_loader
from soco_core.engine.processes import end_with_launcher, leave, stop_on_sigterm
from soco_core.engine.setup import share_cores
from soco_core.errors import InterruptedStageError, SocoError, one_line

STOPPED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pretrain object detectors without labels (SoCo), and prove it. Each command is one stage; "
    "`python pipelines/full_benchmark.py --local` runs them all. Every path may be an s3:// URI.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo-data": images.demo_data,
    "pack": images.pack,
    "propose": images.propose,
    "views": images.views,
    "pretrain": training.pretrain,
    "convert": training.convert,
    "import": training.import_foreign,
    "finetune": training.finetune,
    "predict": training.predict,
    "benchmarks": telling.benchmarks,
    "linear": training.linear,
    "report": telling.report,
    "recipe": telling.recipe,
    "recipes": telling.recipes,
    "doctor": telling.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(datasets, name="datasets")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"soco {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""


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


if __name__ == "__main__":
    main()
