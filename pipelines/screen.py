"""What a local run shows: the stages' own lines on the screen, everything in the log.

kfp.local copies the output of a stage to standard output, between notes of its own, from one thread for
each stage that runs. A stage's lines are told apart by their label (soco_core/engine/component.py).
"""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, TextIO

STAGE_LINE = re.compile(r"\s*\[(?P<label>[^\]]+)\] (?P<text>.*)")
STARTED = re.compile(r"started \(process (?P<id>\d+)(?: in container (?P<container>\w+))?\)")
DONE = re.compile(r"done in [\d.]+ s: (.*)")
FAILED = re.compile(r"(?:error|stopped): (.*)")
NEXT_TASK = re.compile(r"[\d:.]+ - INFO - (?:Executing task |Task .* failed \(attempt .*\. Retrying in )")
"""What kfp.local says before it starts a task, or waits to start it again."""
ANOTHER_NAME = dict.fromkeys(("plan_proposals", "propose", "merge_proposals"), "proposals")
"""Stages that speak of themselves by another name than the first word of their label."""


class StageProcess(NamedTuple):
    """Where a stage runs."""

    id: int
    container: str
    """The beginning of its container's id; empty: none. The process id is then one of the container's own."""


class RunEnded(BaseException):
    """Leaves kfp.local before it starts a task in vain. Not an Exception: logging and its loops survive one."""


class Screen(io.TextIOBase):
    """Stands in for standard output (and error) while kfp.local runs a pipeline.

    Args:
        log: every line goes here, with the time of day.
        terminal: where users read; standard error.
        echo: show every line, not the stages' own only.
        retries: first word of a label -> how often a stage of this kind is tried again when it fails.
        send: asks a stage to stop, or (True) ends it at once.
    """

    def __init__(
        self,
        log: TextIO,
        terminal: TextIO,
        echo: bool = False,
        retries: Mapping[str, int] | None = None,
        send: Callable[[StageProcess, bool], None] | None = None,
    ) -> None:
        self.results: dict[str, str] = {}
        """Label of a finished stage -> its result directory."""
        self.failures: dict[str, str] = {}
        """Label of a stage that failed, and is not tried again -> the cause it gave."""
        self.running: dict[str, StageProcess] = {}
        """Label of a stage that runs, or ended without a word -> its process."""
        self.stopping = False
        self._log = log
        self._terminal = terminal
        self._echo = echo
        self._retries = retries or {}
        self._send = send or _send
        self._starts: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        self._lock = threading.Lock()
        self._parts: dict[int, str] = {}

    def writable(self) -> bool:
        """Tell that text can be written."""
        return True

    def write(self, text: str) -> int:
        """Take text from any thread; lines are put together for each thread by itself."""
        thread = threading.get_ident()
        *lines, rest = (self._parts.pop(thread, "") + text).split("\n")
        if rest:
            self._parts[thread] = rest
        with self._lock:
            for line in lines:
                self._take(line.rstrip())
        return len(text)

    def say(self, text: str) -> None:
        """Show a line of the command itself, and log it."""
        with self._lock:
            self._note(text)
            self._show(text)

    def stop(self) -> None:
        """Ask the stages to stop and keep their work; asked a second time, end them at once.

        Called by a signal handler, so it takes no lock.
        """
        again, self.stopping = self.stopping, True
        for process in list(self.running.values()):
            self._send(process, again)

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        self._note(line)
        match = STAGE_LINE.match(line)
        label = match["label"] if match else ""
        started = STARTED.fullmatch(match["text"]) if match else None
        if match is None or not (started or label in self._starts):
            if self._echo:
                self._show(line)
            if (self.stopping or self.failures) and NEXT_TASK.match(line):
                # kfp.local goes on with tasks that do not depend on the one that failed.
                raise RunEnded(line)
            return
        text = self._started(label, _process(started)) if started else self._told(label, match["text"])
        if label not in self._unwanted:
            self._show(f"[{label}] {text}")

    def _started(self, label: str, process: StageProcess) -> str:
        self._starts[label] += 1
        self.running[label] = process
        if self.stopping or self.failures:
            # Its announcement got lost: kfp.local's threads take the log's handlers from each other.
            self._unwanted.add(label)
            self._send(process, False)
        again = self._starts[label] - 1
        return f"started again ({again} of {self._allowed(label)} retries)" if again else "started"

    def _told(self, label: str, text: str) -> str:
        if done := DONE.fullmatch(text):
            self.running.pop(label, None)
            self.results[label] = done[1]
        elif failed := FAILED.fullmatch(text):
            self.running.pop(label, None)
            if self._starts[label] <= self._allowed(label) and not self.stopping:
                return f"{text} (to be tried again)"
            if label not in self._unwanted:
                self.failures[label] = failed[1]
        # A stage's progress begins with its name, whose words the label gives already.
        known = {*label.split(), ANOTHER_NAME.get(label.partition(" ")[0], "")}
        name, colon, rest = text.partition(": ")
        return rest if colon and set(name.split()) <= known else text

    def _allowed(self, label: str) -> int:
        return self._retries.get(label.partition(" ")[0], 0)

    # Not by print(), which kfp.local replaces by one that writes to standard output: to this object.
    def _show(self, line: str) -> None:
        self._terminal.write(f"{line}\n")
        self._terminal.flush()

    def _note(self, line: str) -> None:
        self._log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._log.flush()


def _process(started: re.Match[str]) -> StageProcess:
    return StageProcess(int(started["id"]), started["container"] or "")


def _send(process: StageProcess, at_once: bool) -> None:
    """Signal a stage; it is the leader of its process group, so that its workers can go with it."""
    with suppress(ProcessLookupError):
        if at_once:
            os.killpg(process.id, signal.SIGKILL)
        else:
            os.kill(process.id, signal.SIGTERM)
