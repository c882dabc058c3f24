"""The coverage of all exports as one page for people."""

from __future__ import annotations

from soco_core.artifacts.weights import Coverage


def coverage_page(coverages: list[Coverage]) -> str:
    """Return the coverage of all exports as one Markdown page: which key becomes which, and what does not.

    Args:
        coverages: of the same weights, in the order of the columns.
    """
    targets = [coverage.target for coverage in coverages]
    lines = ["# What became of every key", ""]
    lines += ["| | " + " | ".join(targets) + " |", "|---|" + "---:|" * len(targets)]
    for label, field in (
        ("loaded", "loaded"),
        ("left out, with the reason", "left_out"),
        ("parts of the detector that start from scratch", "newly_initialised"),
    ):
        lines.append(f"| {label} | " + " | ".join(str(len(getattr(each, field))) for each in coverages) + " |")
    for coverage in coverages:
        lines += ["", f"## Starting from scratch in {coverage.target}", ""]
        lines += [f"- `{key}`: {reason}" for key, reason in coverage.newly_initialised.items()] or ["Nothing."]
    lines += ["", "## Left out", ""]
    lines += _left_out(coverages) or ["Nothing."]
    lines += ["", "## Loaded", "", "| key | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    for key in dict.fromkeys(key for coverage in coverages for key in coverage.loaded):
        names = (coverage.loaded.get(key) for coverage in coverages)
        lines.append(f"| `{key}` | " + " | ".join(f"`{name}`" if name else "" for name in names) + " |")
    return "\n".join(lines) + "\n"


def _left_out(coverages: list[Coverage]) -> list[str]:
    """A line for each key and reason, with the exports' names where others take the key over."""
    where: dict[tuple[str, str], list[str]] = {}
    for coverage in coverages:
        for item in coverage.left_out.items():
            where.setdefault(item, []).append(coverage.target)
    return [
        f"- `{key}`: {reason}" + (f" ({', '.join(targets)})" if len(targets) < len(coverages) else "")
        for (key, reason), targets in where.items()
    ]
