"""Being asked to stop: SIGINT and SIGTERM end a loop at its next safe point, with its work kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from soco_core.errors import InterruptedStageError


class InterruptGuard:
    """Notes SIGINT and SIGTERM instead of letting them tear the work apart.

    A second signal takes effect at once. Outside the main thread (where Python allows no handlers)
    the guard does nothing. Processes forked under the guard ignore SIGINT, which a terminal sends to all
    of them, and end on SIGTERM. An error that follows a signal (a loader's worker was ended by the same
    signal) ends the block as the signal does.

    Args:
        tell: called with a signal's number when it comes.
    """

    def __init__(self, tell: Callable[[int], None] | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._tell = tell
        self._former: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self.signal is not None and isinstance(error, Exception) and not isinstance(error, InterruptedStageError):
            cause = " ".join(str(error).split())[:200]
            raise InterruptedStageError(
                f"stopped by {self.signal.name} ({type(error).__name__}: {cause}); the last checkpoint is kept. "
                "Run the same command to go on"
            ) from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.signal = signal.Signals(number)
        self._restore()
        if self._tell is not None:
            self._tell(number)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop_if_asked(self, kept: str) -> None:
        """Raise InterruptedStageError if a signal came; `kept` says what was saved."""
        if self.signal is not None:
            raise InterruptedStageError(f"stopped by {self.signal.name}; {kept}. Run the same command to go on")
