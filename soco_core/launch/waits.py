"""How long the launcher waits, and for what."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Waits:
    """Times in seconds; the tests take shorter ones."""

    turn: float = 15.0
    """Longest time between two looks at the pods; a change of the job is seen at once."""
    first_retry: float = 1.0
    """Before a request that failed is sent again; each time twice as long."""
    longest_retry: float = 60.0
    unanswered: float = 300.0
    """How long an API that has not answered yet is tried."""
    patience: float = 3600.0
    """How long an API that did answer may be away; the job goes on meanwhile."""
    request: float = 30.0
    """Longest time to wait for an answer."""
    quiet_log: float = 300.0
    """A log that says nothing for so long is opened anew: the connection may be dead."""
    stop: float = 10.0
    """What is tried at the end, after a signal and when the last lines of a log are fetched."""

    def before_retry(self, attempt: int) -> float:
        """Return the time before the next attempt, between half and all of a time that doubles; `attempt` is from 0."""
        longest = min(self.longest_retry, self.first_retry * 2.0 ** min(attempt, 30))
        # Not the generator that training may have seeded; jitter, so that not all launchers come back at once.
        return longest * random.SystemRandom().uniform(0.5, 1.0)
