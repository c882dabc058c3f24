"""Being asked to stop: SIGINT and SIGTERM end a loop at its next safe point, with its work kept."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from soco_core.errors import InterruptedStageError


class InterruptGuard:
    """Notes SIGINT and SIGTERM instead of letting them tear the work apart.

    A second signal takes effect at once. Outside the main thread (where Python allows no handlers)
    the guard does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._former[self.signal])

    def stop_if_asked(self, kept: str) -> None:
        """Raise InterruptedStageError if a signal came; `kept` says what was saved."""
        if self.signal is not None:
            raise InterruptedStageError(f"stopped by {self.signal.name}; {kept}. Run the same command to go on")
