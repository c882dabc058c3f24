"""The demo with several seeds: what scratch and SoCo reach, and how long a run takes.

    python benchmarks/demo_seeds.py --seeds 0 1 2 --output runs/seeds

Prints a Markdown table for benchmarks/RESULTS.md. Every seed that is tried is a row.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

from soco_core.artifacts.benchmark import COLUMNS, BenchmarkResult
from soco_core.engine.setup import usable_cores

PIPELINE = Path(__file__).resolve().parents[1] / "pipelines" / "full_benchmark.py"


def run(seed: int, output: Path, overrides: list[str]) -> tuple[float, list[BenchmarkResult]]:
    """Run the pipeline in a new directory; return its seconds and the benchmark results."""
    if output.exists():
        sys.exit(f"error: {output} exists; a run that finds results there takes no time. Remove it, or give --output")
    sets = [part for item in [f"seed={seed}", *overrides] for part in ("--set", item)]
    began = time.monotonic()
    command = [sys.executable, str(PIPELINE), "--local", "--recipe", "demo", "--output", str(output), *sets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    results = [BenchmarkResult.read(path) for path in output.glob("finetune/*/metrics.json")]
    return seconds, sorted(results, key=lambda r: r.method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()

    rows = []
    for seed in options.seeds:
        seconds, results = run(seed, options.output / f"seed-{seed}", options.overrides)
        for result in results:
            numbers = ["-" if result.metrics[c] is None else f"{result.metrics[c]:.1f}" for c in COLUMNS]
            rows.append([str(seed), result.method, *numbers, f"{seconds:.0f}"])

    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {usable_cores()} cores\n")
    header = ["seed", "method", *COLUMNS, "seconds of the whole run"]
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
