"""What can be said against options before anything is looked at."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from pipelines.benchmarks import read_names
from pipelines.kubernetes_values import (
    check_cpus,
    check_memory,
    check_name,
    check_place,
    check_variable,
    refuse_secret_value,
)
from soco_core.errors import InputError

SUBMISSION = ("host", "context", "namespace", "experiment", "service_account", "token", "cookies", "wait")
PODS = ("gpu_image", "claim", "secret", "env", "pull_secret", "nodes", "gpus_per_node", "defaults")
EVALUATION = ("coco", "supervised", "compare", "benchmarks", "scale", "data", "linear_images")
Value = TypeVar("Value")
LEAST = {"shards": 1, "parallel_shards": 0, "shard_retries": 0, "nodes": 0, "gpus_per_node": 1}


def check_options(name: str, options: argparse.Namespace, evaluates: bool) -> None:
    """Check the values, and read what is written as text into `claims`, `secrets` and `environment`.

    Raises:
        InputError: an option has an impossible value, or does not go with another.
    """
    _check_modes(options)
    if not evaluates:
        for option in EVALUATION:
            if getattr(options, option):
                raise InputError(
                    f"{_written(option)}: {name}.py trains no detector; leave it out, or use full_benchmark.py"
                )
    _check_data(options, evaluates)
    for option, least in LEAST.items():
        value = getattr(options, option)
        if value is not None and value < least:
            raise InputError(f"{_written(option)} {value}: at least {least}")
    if options.gpus_per_node and options.nodes == 0:
        raise InputError("--gpus-per-node is of a PyTorchJob's nodes, and --nodes 0 asks for none; leave one out")
    _check("--shard-cpus", options.shard_cpus, check_cpus)
    _check("--shard-memory", options.shard_memory, check_memory)
    for value in options.pull_secret:
        _check("--pull-secret", value, check_name)
    options.claims = _mapping(options.claim, _claim)
    options.secrets = _mapping(options.secret, _secret)
    options.environment = _mapping(options.env, _environment)


def _check_modes(options: argparse.Namespace) -> None:
    mode = "--local" if options.local else "--submit" if options.submit else "neither --local nor --submit"
    if options.yaml and mode != "neither --local nor --submit":
        raise InputError("--yaml goes with neither --local nor --submit")
    if options.runner != "process" and not options.local:
        raise InputError("--runner goes with --local")
    for option in SUBMISSION:
        if getattr(options, option) and not options.submit:
            raise InputError(f"{_written(option)} goes with --submit")
    for option in PODS:
        if options.local and getattr(options, option) not in (None, []):
            raise InputError(f"{_written(option)} is of pods on a cluster, and --local runs here; leave it out")


def _check_data(options: argparse.Namespace, evaluates: bool) -> None:
    options.benchmarks = read_names(options.benchmarks)
    if not options.benchmarks:
        for option in ("scale", "data", "linear_images"):
            if getattr(options, option):
                raise InputError(f"{_written(option)} goes with --benchmarks")
        if evaluates and bool(options.images) != bool(options.coco):
            raise InputError("--images and --coco belong together: give both, or neither for the rendered demo data")
    elif options.coco and not options.images:
        raise InputError("--coco goes with --images; without both, the demo's data are rendered")


def _written(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _check(option: str, value: str | None, check: Callable[[str], object]) -> None:
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        raise InputError(f"{option} {error}") from error


def _mapping(texts: list[str], read: Callable[[str], tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for text in texts:
        name, value = read(text)
        if name in found:
            raise InputError(f"{text}: {name} is given twice")
        found[name] = value
    return found


def _claim(text: str) -> tuple[str, str]:
    name, colon, place = text.partition(":")
    if not colon:
        raise InputError(f"--claim {text}: write NAME:PATH, the claim and where it is mounted")
    _check(f"--claim {text}:", name, check_name)
    _check(f"--claim {text}:", place, check_place)
    return name, check_place(place)


def _secret(text: str) -> tuple[str, dict[str, str]]:
    name, colon, keys = text.partition(":")
    if not colon or not all(keys.split(",")):
        raise InputError(f"--secret {text}: write NAME:KEY, NAME:KEY=VARIABLE, or several with commas between")
    _check(f"--secret {text}:", name, check_name)
    variables = {key: variable or key for key, _, variable in (part.partition("=") for part in keys.split(","))}
    for variable in variables.values():
        _check(f"--secret {text}:", variable, check_variable)
    return name, variables


def _environment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    # What stands behind the name may be secret, and is not repeated.
    if not sign:
        raise InputError("--env: write NAME=VALUE")
    _check("--env", name, check_variable)
    _check("--env", name, refuse_secret_value)
    return name, value
