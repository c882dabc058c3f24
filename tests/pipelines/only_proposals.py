"""A pipeline of the proposals alone, run here: only_proposals.py OUTPUT IMAGES RECIPE SHARDS PARALLEL RETRIES."""

import sys
from pathlib import Path

from kfp import dsl

from pipelines.local import run_local
from pipelines.proposals import RETRIED, ShardTasks, proposals_part
from pipelines.tasks import Tasks

if __name__ == "__main__":
    output, images, recipe = sys.argv[1:4]
    count, parallel, retries = map(int, sys.argv[4:])
    shards = ShardTasks(parallel=parallel, retries=retries, backoff_seconds=1)
    propose_all = proposals_part(Tasks("soco:latest"), shards)

    @dsl.pipeline(name="only-proposals")
    def only_proposals(recipe: str, images: str, output: str, shards: int) -> str:
        return propose_all(recipe=recipe, images=images, output=output, tracking="", shards=shards)

    outcome = run_local(
        only_proposals,
        {"recipe": Path(recipe).read_text(), "images": images, "output": output, "shards": count},
        log=Path("run.log"),
        title="only proposals",
        retries=dict.fromkeys(RETRIED, retries),
    )
    print(outcome)
    sys.exit(outcome if isinstance(outcome, int) else 0)
