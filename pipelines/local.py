"""Running a pipeline on this machine: kfp.local with a process for each stage."""

from __future__ import annotations

import builtins
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from pipelines.containers import Containers, beating, send
from pipelines.screen import RunEnded, Screen
from soco_core.artifacts.disk import why_not_written
from soco_core.engine.component import EXIT_BUG, EXIT_STOPPED
from soco_core.engine.processes import PIPELINE_PID
from soco_core.errors import InputError, one_line
from soco_core.plan.stage import end_run

# kfp.local replaces this word by the path of the interpreter wherever it stands in a stage's arguments.
REWRITTEN_WORD = "python3"


def refuse_rewritten(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments (and a temporary folder) that kfp.local would silently change.

    Raises:
        InputError: naming the argument.
    """
    for name, given in {**arguments, "TMPDIR": tempfile.gettempdir()}.items():
        value = str(given)
        if REWRITTEN_WORD in value:
            shown = value if "\n" not in value else "its text"
            raise InputError(
                f"{name}: {shown} contains {REWRITTEN_WORD!r}, which kfp.local would rewrite; choose another name"
            )


def run_local(
    pipeline: Any,
    arguments: Mapping[str, Any],
    *,
    log: Path,
    title: str,
    retries: Mapping[str, int] | None = None,
    containers: Containers | None = None,
    debug: bool = False,
) -> str | int:
    """Run a pipeline; what people read goes to standard error.

    Args:
        pipeline: a kfp pipeline that returns a result directory.
        arguments: its parameters.
        log: file that gets every line; its folder is created.
        title: first line shown.
        retries: stages that the pipeline tries again when they fail -> how often.
        containers: how the stages' containers are run; None: each stage is a process of this machine.
        debug: show every line and the tracebacks.

    Returns:
        The pipeline's result directory, or, after a failure that has been shown, the exit status.
    """
    began = time.monotonic()
    with _open_log(log) as file:
        screen = Screen(file, sys.stderr, debug, retries, send if containers else None)
        screen.say(title)
        screen.say(f"log: {log}")
        try:
            with _stoppable(screen), _quiet_kfp(screen), tempfile.TemporaryDirectory(prefix="soco-run-") as folder:
                result = str(_run(pipeline, arguments, folder, containers))
            # A container that ends fast is gone before kfp.local has asked how it ended.
            if screen.failures:
                raise RunEnded(f"failed: {', '.join(screen.failures)}")
        except (Exception, RunEnded) as error:  # kfp.local raises a bare RuntimeError for a failed task
            traceback.print_exc(file=sys.stderr if debug else file)
            return _failed(screen, error, log)
        screen.say(f"finished in {time.monotonic() - began:.0f} s")
        return result


def _open_log(log: Path) -> TextIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--output {log.parent.parent}: cannot be written ({why_not_written(log, error)}); give another --output"
        ) from error


def _run(pipeline: Any, arguments: Mapping[str, Any], folder: str, containers: Containers | None) -> Any:
    from kfp import local

    outputs, workspace = Path(folder, "outputs"), Path(folder, "workspace")
    places = {"pipeline_root": str(outputs), "workspace_root": str(workspace)}
    if containers is not None:
        for mounted in (outputs, workspace):  # else Docker makes them, as root
            mounted.mkdir()
        beat = outputs / ".beat"
        with beating(beat):
            local.init(runner=containers.runner(beat), **places)
            return pipeline(**arguments).output
    # What kfp's shell script leaves behind (a folder for each stage) goes with this folder.
    with _environment({PIPELINE_PID: str(os.getpid()), "TMPDIR": folder}):
        local.init(runner=local.SubprocessRunner(use_venv=False), **places)
        return pipeline(**arguments).output


def _failed(screen: Screen, error: BaseException, log: Path) -> int:
    if screen.stopping:
        screen.say("stopped; run the same command again to go on")
    else:
        silent = dict.fromkeys(screen.running, "ended without a word (killed, perhaps for want of memory)")
        causes = screen.failures | silent
        # A stage that could not even start is named by kfp alone, in colour.
        causes = causes or {"pipeline": re.sub(r"\x1b\[\d+m", "", one_line(error))}
        for label, cause in causes.items():
            screen.say(f"error: {label}: {cause}")
        screen.say(f"log: {log}")
    if "plan" in screen.results:
        end_run(screen.results["plan"], succeeded=False)
    return EXIT_STOPPED if screen.stopping else EXIT_BUG


@contextmanager
def _stoppable(screen: Screen) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the stages, which end at their next safe point, and the run with them."""

    def stop(number: int, frame: object) -> None:
        note = "ending the stages" if screen.stopping else "stopping (what is done is kept); once more to end at once"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{note}\n".encode())
        screen.stop()

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_kfp(screen: Screen) -> Iterator[None]:
    """Send all that kfp.local says through the screen's filter, and undo what it changes in this process.

    Its loops run in threads that each replace, and put back, `print` and the root logger's handlers.
    """
    root = logging.getLogger()
    level, handlers, original_print = root.level, root.handlers[:], builtins.print
    try:
        with redirect_stdout(screen), redirect_stderr(screen), warnings.catch_warnings():
            # A stage's image does not matter to a run without containers.
            warnings.filterwarnings("ignore", "You may be attemp.?ing to run a task", RuntimeWarning)
            yield
    finally:
        builtins.print = original_print
        root.setLevel(level)
        root.handlers[:] = handlers


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
