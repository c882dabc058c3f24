"""Stages that only write their result, for tests of what runs them; Python imports this by itself.

FAKE_FAIL: a stage that raises an error of the user's; FAKE_CRASH: one with a bug; FAKE_KILLED: one that
is killed. FAKE_ONCE: a folder, in which a stage that did so is noted; from then on it works. FAKE_SLOW: a
stage that works, with a worker process, until it is stopped; FAKE_STUBBORN: its worker does not end with
it. FAKE_UNTRACKED: MLflow is left out, which costs seconds a stage.
"""

import os
import sys
import types


def _result(recipe, stage, output, inputs, tracking=None, files=None):
    from soco_core.artifacts.result import locate
    from soco_core.artifacts.stage import complete

    def compute(result, tracker):
        _behave(stage, result.path)
        for name, text in (files or {}).items():
            (result.path / name).write_text(text)
        return {}

    return complete(locate(output, stage, 1, recipe, ("seed",), inputs), recipe, tracking, compute)


def _untracked(*arguments):
    return None


def _behave(stage, folder):
    import signal
    import time

    from soco_core.console import say
    from soco_core.errors import InputError

    say(f"{stage}: 1/2 it, 1.0/s")
    print("a library speaks")
    if _asked("FAKE_FAIL", stage):
        raise InputError("weights.pth: damaged;\n  download it again")
    if _asked("FAKE_CRASH", stage):
        raise ZeroDivisionError("division by zero")
    if _asked("FAKE_KILLED", stage):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAKE_SLOW") == stage:
        stage, worker = os.getpid(), os.fork()
        path = folder / f"beat-{os.getpid() if worker else 'worker'}"
        while os.getpid() == stage or os.getppid() == stage or "FAKE_STUBBORN" in os.environ:
            path.write_text(str(time.time()))
            time.sleep(0.05)
        os._exit(0)


def _asked(how, stage):
    if os.environ.get(how) != stage:
        return False
    if "FAKE_ONCE" in os.environ:
        note = os.path.join(os.environ["FAKE_ONCE"], os.environ["SOCO_STAGE_LABEL"].replace("/", "-"))
        if os.path.exists(note):
            return False
        open(note, "x").close()
    return True


def demo_data(recipe, *, output, tracking=None):
    result = _result(recipe, "demo_data", output, {})
    for name in (
        "unlabelled/a.jpg",
        "images/b.jpg",
        "annotations/instances_train.json",
        "annotations/instances_val.json",
    ):
        path = result.path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return result


def plan_shards(recipe, *, images, output, count):
    _behave("plan_proposals", None)
    return f"{output}/plan of {count}"


def propose_shard(recipe, *, images, output, index, count, plan):
    from pathlib import Path

    assert plan == f"{output}/plan of {count}"
    folder = Path(output, "shards", str(index))
    folder.mkdir(parents=True, exist_ok=True)
    _behave("propose", folder)
    return output


def merge_shards(recipe, *, images, output, count, plan, tracking=None):
    assert plan == f"{output}/plan of {count}"
    return _result(recipe, "proposals", output, {"images": images, "count": count}, tracking)


def pretrain(recipe, *, proposals, output, images=None, tracking=None, job=None):
    return _result(recipe, "pretrain", output, {"proposals": proposals}, tracking)


def convert(recipe, *, pretrained, output, tracking=None):
    return _result(recipe, "convert", output, {"pretrained": pretrained}, tracking)


def import_foreign(recipe, *, weights, output, layout, name, tracking=None):
    return _result(recipe, "import", output, {"weights": weights, "layout": layout, "method": name}, tracking)


def finetune(recipe, *, coco, init, output, tracking=None, method=None):
    return _row(
        recipe, "finetune", recipe.finetune.benchmark, {"APbb": 12.5, "APmk": None}, method, init, output, tracking
    )


def linear(recipe, *, images, init, output, tracking=None, method=None):
    return _row(recipe, "linear", "linear", {"top1": 50.5}, method, init, output, tracking)


def _row(recipe, stage, benchmark, metrics, method, init, output, tracking):
    import json

    counts = dict.fromkeys(("train_images", "val_images", "iterations", "batch_size"), 1)
    text = {"benchmark": benchmark, "method": method, "metrics": metrics, "seed": 0, "initialisation": "", **counts}
    inputs = {"init": init, "benchmark": benchmark, "method": method}
    return _result(recipe, stage, output, inputs, tracking, {"metrics.json": json.dumps(text)})


def summarise(benchmarks, pretrained=None, proposals=None):
    rows = [path.split("/")[-2] for path in benchmarks]
    _behave("benchmark", None)
    return types.SimpleNamespace(metrics={"rows": len(rows)}, markdown="| table |", html="<p>table</p>")


def report(recipe, *, benchmarks, output, pretrained=None, proposals=None, converted=None, tracking=None):
    from pathlib import Path

    from soco_core.artifacts.benchmark import BenchmarkResult

    rows = [BenchmarkResult.read(Path(path, "metrics.json")) for path in benchmarks]
    table = "".join(f"| {row.method} | {row.metrics['APbb']} |\n" for row in rows if "APbb" in row.metrics)
    files = {
        "report.md": f"# Report\n\n| method | APbb |\n|---|---|\n{table}\n| other |\n|---|\n",
        "report.html": "<p>report</p>",
    }
    return _result(recipe, "report", output, {"benchmarks": benchmarks}, tracking, files)


def _install():
    stages = {
        "demo_data": [demo_data],
        "proposals": [plan_shards, propose_shard, merge_shards],
        "pretrain": [pretrain],
        "convert": [convert],
        "detection": [finetune],
        "linear": [linear],
        "report": [report, summarise],
    }
    for stage, functions in stages.items():
        for name in (f"soco_core.{stage}", f"soco_core.{stage}.stage"):
            sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[f"soco_core.{stage}.stage"]).update({function.__name__: function for function in functions})
    for stage in ("pretrain", "detection", "linear"):
        name = f"soco_core.{stage}.launched"
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update({function.__name__: function for function in stages[stage]})
    sys.modules["soco_core.linear.data"] = types.ModuleType("data")
    sys.modules["soco_core.linear.data"].open_labelled_images = lambda images, datasets: None
    sys.modules["soco_core.convert.import_stage"] = types.ModuleType("import_stage")
    sys.modules["soco_core.convert.import_stage"].import_foreign = import_foreign
    if "FAKE_UNTRACKED" in os.environ:
        import soco_core.plan.stage

        soco_core.plan.stage._parent_run = _untracked
    sys.modules["soco_core.detection.coco"] = types.ModuleType("coco")
    sys.modules["soco_core.detection.coco"].open_finetuning_data = lambda coco, recipe: None


# The pipeline command itself keeps the real modules; its stages run in kfp's executor.
if "SOCO_PIPELINE_PID" in os.environ:
    _install()
