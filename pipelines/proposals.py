"""The part of a pipeline that computes proposals: plan, the shards side by side, merge."""
# No `from __future__ import annotations`: kfp reads the annotations of a pipeline as objects.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, List  # noqa: UP035

from kfp import dsl

from components.merge_proposals.component import merge_proposals
from components.plan_proposals.component import plan_proposals
from components.propose.component import propose
from pipelines.tasks import Tasks

DEFAULT_SHARDS = 2
RETRIED = ("plan_proposals", "propose", "merge_proposals")
"""Stages that are tried again; the first words of their labels."""
WHOLE_SET_MEMORY = "4Gi"
"""What the pods that plan and merge request, as both hold something of every image: merging ImageNet takes 2.1 GB.
No limit: a larger set takes more."""


@dataclass(frozen=True)
class ShardTasks:
    """How the shards of the proposals run; settled when a pipeline is compiled."""

    parallel: int = 0
    """Shards that may run side by side; 0 for no limit."""
    cpus: str = "4"
    """CPU cores that a shard's pod asks for, and may use."""
    memory: str = "8Gi"
    """Memory that a shard's pod asks for, and may use."""
    retries: int = 3
    """How often a shard, or the plan or merge of the shards, that failed is tried again."""
    backoff_seconds: int = 60
    """Before the first of these retries; twice as long before each later one. By default as long as the lock that a
    dead pod leaves on S3."""


def proposals_part(tasks: Tasks, how: ShardTasks) -> Callable[..., Any]:
    """Prepare the tasks that compute proposals, for a pipeline that is to be built.

    Args:
        tasks: adds them.
        how: limits, resources and retries.

    Returns:
        A function to call in the pipeline, with the pipeline's parameters or outputs of its tasks: shards
        (an int), recipe, images, output and tracking. It returns the output that holds the proposals'
        result directory.
    """

    def run(component: Any, **arguments: Any) -> Any:
        task = tasks.add(component, kind="shards", **arguments)
        return task.set_retry(how.retries, backoff_duration=f"{how.backoff_seconds}s") if how.retries else task

    # A pipeline of its own: in a loop, kfp.local replaces every output of a task outside the loop by the
    # loop's item, without a word; a parameter of the pipeline it leaves alone. For the same reason the
    # loop is over one flat list of strings.
    @dsl.pipeline(name="propose-all")
    def propose_all(shards: List[str], plan: str, recipe: str, images: str, output: str, tracking: str) -> str:  # noqa: UP006
        with dsl.ParallelFor(shards, parallelism=how.parallel) as shard:
            task = run(propose, shard=shard, plan=plan, recipe=recipe, images=images, output=output)
            task.set_cpu_request(how.cpus).set_cpu_limit(how.cpus)
            task.set_memory_request(how.memory).set_memory_limit(how.memory)
        merged = run(
            merge_proposals,
            shards=dsl.Collected(task.output),
            plan=plan,
            recipe=recipe,
            images=images,
            output=output,
            tracking=tracking,
        )
        return merged.set_memory_request(WHOLE_SET_MEMORY).output

    def add(*, shards: Any, recipe: Any, images: Any, output: Any, tracking: Any) -> Any:
        planned = run(plan_proposals, count=shards, recipe=recipe, images=images, output=output)
        planned.set_memory_request(WHOLE_SET_MEMORY)
        return propose_all(
            shards=planned.outputs["shards"],
            plan=planned.outputs["plan"],
            recipe=recipe,
            images=images,
            output=output,
            tracking=tracking,
        ).output

    return add
