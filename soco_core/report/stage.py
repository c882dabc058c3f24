"""Stage `report`: what was reached, beside the paper where that is fair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soco_core import storage
from soco_core.artifacts.proposals import CONTRACT as PROPOSALS_CONTRACT
from soco_core.artifacts.result import DONE, ResultDirectory, locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.report.runs import read_runs
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 2
BENCHMARK_STAGES = ("finetune", "linear")


def report(
    recipe: Recipe,
    *,
    benchmarks: list[str],
    output: str,
    pretrained: str | None = None,
    proposals: str | None = None,
    converted: str | None = None,
    tracking: TrackingContext | None = None,
) -> ResultDirectory:
    """Write the tables, curves and pictures of finished runs, each benchmark beside the paper's rows.

    The result holds ``report.md``, ``report.html`` (self-contained), ``results.json``, ``recipe.yaml``
    and ``figures/``.

    Args:
        recipe: only its name is used; what determined the runs is read from their results.
        benchmarks: results of `finetune` or `linear`, directories or S3 URIs; none where a pretraining or
            proposals alone are reported on.
        output: root of all results.
        pretrained: the result of `pretrain` behind the SoCo rows.
        proposals: the result of `propose` behind that pretraining.
        converted: the result of `convert` whose exports are listed, made of that pretraining.
        tracking: where to track, or None.

    Raises:
        InputError: an input is not whole or not of its stage, the inputs do not belong together, or two
            results claim the same row.
    """
    if not (benchmarks or pretrained or proposals):
        raise InputError(
            f"nothing to report on{' but --converted' if converted else ''}; give --benchmark (a result of "
            "`soco finetune` or `soco linear`), --pretrained or --proposals"
        )
    finetuned, pretraining, proposed = _open_inputs(benchmarks, pretrained, proposals)
    exported = open_result(converted, stage="convert") if converted else None
    if exported and pretraining:
        _check_converted(exported, pretraining)
    runs = read_runs(finetuned, pretraining, proposed)
    inputs = {
        "benchmarks": sorted(result.fingerprint for result in finetuned),
        "pretrained": pretraining.fingerprint if pretraining else None,
        "proposals": proposed.fingerprint if proposed else None,
        **({"converted": exported.fingerprint} if exported else {}),
    }
    result = locate(output, "report", CONTRACT, recipe, ("name",), inputs)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        import json

        from soco_core.report.html import to_html
        from soco_core.report.markdown import to_markdown
        from soco_core.report.page import build_page, results_json
        from soco_core.storage import write_text

        page = build_page(recipe.name, runs, pretraining, proposed, result.path, exported)
        for file in page.recipes:
            write_text(result.path / file.file, file.text)
        write_text(result.path / "report.md", to_markdown(page))
        write_text(result.path / "report.html", to_html(page, result.path))
        write_text(result.path / "results.json", json.dumps(results_json(page), indent=2, allow_nan=False) + "\n")
        return {table.benchmark: {table.label(run): run.result.metrics for run in table.runs} for table in page.tables}

    return complete(result, recipe, tracking, compute)


@dataclass(frozen=True)
class Summary:
    """One benchmark for a page that has room for a table, such as a step in the Kubeflow UI."""

    metrics: dict[str, float]
    """``ROW COLUMN`` -> percent, what was measured only."""
    markdown: str
    html: str


def summarise(benchmarks: list[str], pretrained: str | None = None, proposals: str | None = None) -> Summary:
    """Put the rows of one benchmark, or of several, beside the paper's; nothing is stored.

    Args:
        benchmarks: see :func:`report`.
        pretrained: see :func:`report`.
        proposals: see :func:`report`.

    Raises:
        InputError: see :func:`report`.
    """
    from soco_core.report.html import to_html
    from soco_core.report.markdown import to_markdown
    from soco_core.report.page import tables_only

    page = tables_only(read_runs(*_open_inputs(benchmarks, pretrained, proposals)))
    metrics = {
        f"{table.label(run)} {column}": value
        for table in page.tables
        for run in table.runs
        for column, value in run.result.metrics.items()
        if value is not None
    }
    return Summary(metrics, to_markdown(page), to_html(page, Path()))


def _open_inputs(
    benchmarks: list[str], pretrained: str | None, proposals: str | None
) -> tuple[list[ResultDirectory], ResultDirectory | None, ResultDirectory | None]:
    finetuned = [_open_benchmark(uri) for uri in benchmarks]
    pretraining = open_result(pretrained, stage="pretrain") if pretrained else None
    proposed = open_result(proposals, stage="proposals") if proposals else None
    if proposed and proposed.determined_by["contract"] != PROPOSALS_CONTRACT:
        raise InputError(
            f"{proposed.uri}: proposals of contract {proposed.determined_by['contract']}, but this version of soco "
            f"reads contract {PROPOSALS_CONTRACT}; leave --proposals out, or make them and the pretraining again"
        )
    if pretraining:
        _check_belongs(finetuned, pretraining, proposed)
    return finetuned, pretraining, proposed


def _open_benchmark(uri: str) -> ResultDirectory:
    result = open_result(uri)
    if result.stage not in BENCHMARK_STAGES:
        raise InputError(f"{uri}: a result of `{result.stage}`, but one of {' or '.join(BENCHMARK_STAGES)} is needed")
    return result


def _check_converted(exported: ResultDirectory, pretraining: ResultDirectory) -> None:
    origin = exported.determined_by["inputs"]["pretrained"]
    if origin != pretraining.fingerprint:
        raise InputError(f"{exported.uri}: made of {origin}, not of {pretraining.uri}; give that one's `soco convert`")


def _check_belongs(
    finetuned: list[ResultDirectory], pretraining: ResultDirectory, proposed: ResultDirectory | None
) -> None:
    """Refuse to show a pretraining beside rows or proposals that are not its own, as far as the results tell."""
    used = pretraining.determined_by["inputs"]["proposals"]
    if proposed and proposed.fingerprint != used:
        raise InputError(f"{proposed.uri}: not the proposals of {pretraining.uri}; give those named {used}")
    for run in finetuned:
        # The weights' own result lies beside the run's, if both were made under one root.
        root = run.uri.rsplit("/", 2)[0]
        weights = storage.join(root, "convert", run.determined_by["inputs"]["init"])
        if storage.exists(storage.join(weights, DONE)):
            converted = open_result(weights, stage="convert")
            origin = converted.determined_by["inputs"]["pretrained"]
            # Another method's weights, imported and then converted, rest on no pretraining of ours.
            if "method" not in converted.summary and origin != pretraining.fingerprint:
                raise InputError(f"{run.uri}: its weights come from pretraining {origin}, not from {pretraining.uri}")
