"""What is wrong with a data set: each kind once, with its number and its first example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from soco_core.errors import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From the worst on. An error would make numbers wrong or a run fail; a warning costs a few objects; a note is news."""


@dataclass(frozen=True)
class Rule:
    """A kind of thing that can be wrong."""

    severity: Severity
    what: str
    """The kind, in a few words."""
    remedy: str
    """What to do about it."""
    counted: str = "annotations"
    """What a count of it counts."""


@dataclass
class Finding:
    """A kind that was found."""

    rule: Rule
    file: str
    """Where the first of them is: a file, a folder or a URI."""
    first: str
    """The first of them: the field and its value."""
    count: int = 1

    @property
    def line(self) -> str:
        """Everything in one line."""
        more = f" ({self.count} such {self.rule.counted})" if self.count > 1 else ""
        return f"{self.file}: {self.first}{more}; {self.rule.remedy}"


class Findings:
    """Collects what is wrong with one split, in the order in which it is found."""

    def __init__(self) -> None:
        self._by_rule: dict[Rule, Finding] = {}

    def add(self, rule: Rule, file: str, example: str, count: int = 1) -> None:
        """Count one more of a kind (or `count` more); the first example is kept."""
        known = self._by_rule.get(rule)
        if known is None:
            self._by_rule[rule] = Finding(rule, file, example, count)
        else:
            known.count += count

    def all(self) -> list[Finding]:
        """Return what was found, the worst first."""
        return sorted(self._by_rule.values(), key=lambda item: SEVERITIES.index(item.rule.severity))

    def raise_first_error(self) -> None:
        """Raise the first error that was found.

        Raises:
            InputError: there is an error.
        """
        for finding in self._by_rule.values():
            if finding.rule.severity == "error":
                raise InputError(finding.line)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """Return the worst severity, None where nothing was found."""
    found = {item.rule.severity for item in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
