"""The log of the job's first pod, line by line into the launching step's own: none lost, none twice.

A connection that is cut is opened again from the time of the last line; what was there already is left out. The
container may begin a new life in the same pod, and the operator may put another pod in its place.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from soco_core.console import say
from soco_core.errors import SocoError
from soco_core.launch.cluster import Cluster, whole_lines
from soco_core.launch.pods import has_begun, restarts

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)
LAST_LINES = 20
LAST_ATTEMPTS = 3


class LogStream:
    """Follows the log of one pod, and of its successors of the same name, in a thread of its own.

    Args:
        cluster: where the pod is.
        prefix: stands before each line.
    """

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        """The last lines."""
        self._cluster = cluster
        self._prefix = prefix
        self._pod = ""
        self._uid = ""
        self._restarts = 0
        self._position = _Position()
        self._stopping = threading.Event()
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, name="pod-log", daemon=True)

    def follow(self, pod: str) -> None:
        """Follow the log of the pod of this name from now on; nothing happens if it is followed already."""
        if not self._pod:
            self._pod = pod
            self._thread.start()

    def finish(self) -> None:
        """Say what the container said until its end, and stop."""
        self._stopping.set()
        if not self._pod:
            return
        if (response := self._response) is not None:
            with suppress(Exception):  # it may be ending by itself
                response.shutdown()
        self._thread.join(self._cluster.waits.stop)
        if not self._thread.is_alive():
            with suppress(SocoError):  # the API is away: the job's end is known, and matters more
                self._begin_life()
                self._read_to_end()

    def _run(self) -> None:
        waits = self._cluster.waits
        attempt = 0
        with suppress(SocoError):  # the API is away for good, which the watch says
            while not self._stopping.is_set():
                before = self._position
                if self._begin_life():
                    self._read(follow=True)
                attempt = 0 if self._position != before else attempt + 1
                self._stopping.wait(min(waits.turn, waits.before_retry(attempt)))

    def _begin_life(self) -> bool:
        """Look which life of the container this is, and read the one before to its end; tell whether it has a log."""
        pod = self._cluster.pod(self._pod)
        if pod is None or not has_begun(pod):
            return False
        uid, count = pod["metadata"]["uid"], restarts(pod)
        if uid != self._uid:
            self._position = _Position()  # another node's clock
        elif count != self._restarts:
            self._read_to_end(previous=True)
        self._uid, self._restarts = uid, count
        return True

    def _read_to_end(self, previous: bool = False) -> None:
        for attempt in range(LAST_ATTEMPTS):
            if self._read(follow=False, previous=previous):
                return
            time.sleep(self._cluster.waits.before_retry(attempt))

    def _read(self, *, follow: bool, previous: bool = False) -> bool:
        """Read on from the last line; tell whether that came to an end of the log, and not to a cut."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        again = self._position.times
        response: Any = None
        try:
            response = self._cluster.open_log(self._pod, follow=follow, since=self._position.since, previous=previous)
            self._response = response
            for line in whole_lines(response):
                found = LINE.fullmatch(line)
                if found is None:  # a word of the kubelet's about the log
                    continue
                time_of_line = _comparable(found)
                known = self._position.time
                if known is not None and time_of_line < known:
                    continue
                same = time_of_line == known
                if same and again > 0:
                    again -= 1
                    continue
                again = 0
                self._position = _Position(time_of_line, self._position.times + 1 if same else 1, found[1] + found[3])
                self._say(found[4])
        except ApiException as error:
            # Not there: a pod that is gone, with its log.
            return 400 <= int(error.status or 0) < 500 and error.status != 429
        except (HTTPError, OSError):
            return False
        finally:
            self._response = None
            if response is not None:
                response.close()
        return True

    def _say(self, text: str) -> None:
        text = text.rstrip()
        if text:
            self.last.append(text)
            say(f"{self._prefix}{text}")


class _Position(NamedTuple):
    """The last line that was read."""

    time: tuple[datetime, int] | None = None
    """Its second, and the nanoseconds."""
    times: int = 0
    """How many lines of exactly that time were read."""
    since: str = ""
    """Its second, for Kubernetes."""


def last_lines(cluster: Cluster, pod: str) -> list[str]:
    """Return the last lines of a pod's log; none if it is gone."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        response = cluster.open_log(pod, follow=False, tail=LAST_LINES)
        lines = [LINE.fullmatch(line) for line in whole_lines(response)]
    except (ApiException, HTTPError, OSError):
        return []
    return [line[4].rstrip() for line in lines if line is not None and line[4].strip()]


def _comparable(line: re.Match[str]) -> tuple[datetime, int]:
    return datetime.fromisoformat(line[1] + line[3]).astimezone(UTC), int((line[2] or "").ljust(9, "0"))
