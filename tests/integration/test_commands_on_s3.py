"""Every command of `soco` with everything that it reads and writes on S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18
from typer.testing import CliRunner

from soco_core.cli import app
from soco_core.recipes import load_recipe
from soco_core.storage import (
    list_objects,
    read_bytes,
    read_text,
    s3_client,
    scratch_root,
    split_s3,
    upload,
    write_text,
)
from tests.integration.test_pipeline import TINY
from tests.linear.conftest import write_classes

FEWER = [
    "pretrain.epochs=1",
    "pretrain.warmup_epochs=0.0",
    "linear.epochs=2",
    "linear.batch_size=4",
    "linear.image_size=32",
    "linear.resize=40",
    "runtime.checkpoint_steps=100",
    "runtime.workers=0",
]
WITHOUT_PATHS = {"recipes", "benchmarks", "doctor"}


@dataclass
class Soco:
    """Runs commands of `soco`."""

    bucket: str
    ran: set[str] = field(default_factory=set)

    @property
    def recipe(self) -> str:
        return f"{self.bucket}/recipes/tiny.yaml"

    @property
    def output(self) -> str:
        return f"{self.bucket}/results"

    def run(self, *arguments: str) -> str:
        """Run a command; return its standard output."""
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, f"{arguments}: {done.exception} {done.output}"
        self.ran.add(arguments[0])
        return done.stdout.strip()

    def stage(self, *arguments: str) -> str:
        """Run a stage; return its result."""
        uri = self.run(*arguments, "--recipe", self.recipe, "--output", self.output)
        assert uri.startswith(f"{self.output}/")
        return uri


@pytest.fixture
def soco(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Soco]:
    monkeypatch.chdir(tmp_path)
    for name in ("SOCO_DATA", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield Soco(s3)
    # Copies of objects are all that this machine has got, and they lie where they should.
    assert [path for path in tmp_path.rglob("*") if path != scratch_root() and scratch_root() not in path.parents] == []
    assert list(scratch_root().rglob("*.tmp")) == []
    assert "Uploads" not in s3_client().list_multipart_uploads(Bucket=split_s3(s3)[0])


@pytest.mark.timeout(1800)
def test_every_command(soco: Soco, tmp_path_factory: pytest.TempPathFactory) -> None:
    s3 = soco.bucket
    write_text(soco.recipe, load_recipe("demo", [*TINY, *FEWER]).to_yaml())
    data = soco.stage("demo-data")
    packed, proposals = propose(soco, f"{data}/unlabelled")
    draw(soco, f"{data}/unlabelled", packed, proposals)

    pretrained = soco.stage("pretrain", "--proposals", proposals, "--images", packed)
    converted = soco.stage("convert", "--pretrained", pretrained)
    local = tmp_path_factory.mktemp("local")
    torch.save(resnet18().state_dict(), local / "resnet18.pth")
    weights = f"{s3}/weights/resnet18.pth"
    upload(local / "resnet18.pth", weights)
    imported = soco.stage("import", weights, "--name", "Mine")

    ids = [image["id"] for image in json.loads(read_text(f"{data}/annotations/instances_train.json"))["images"]]
    write_text(f"{s3}/lists/ids.txt", "".join(f"{number}\n" for number in ids[:6]))
    part = ("--set", f"datasets.coco={data}", "--set", f"datasets.image_ids={s3}/lists/ids.txt")
    detectors = [
        soco.stage("finetune", "--coco", data, "--init", converted),
        soco.stage("finetune", "--coco", "mini-coco-5", "--init", imported, *part),
    ]
    assert (json.loads(read_text(f"{detectors[1]}/metrics.json")))["train_images"] == 6
    labelled = f"{s3}/imagenet"
    for path in Path(write_classes(local / "classes")).rglob("*.png"):
        upload(path, f"{labelled}/{path.relative_to(local / 'classes').as_posix()}")
    pack = soco.run("pack", "--images", labelled, "--output", f"{s3}/labelled")
    evaluations = [
        soco.stage("linear", "--images", pack, "--init", converted),
        soco.stage("linear", "--data", s3, "--init", weights),
    ]

    image = f"{data}/unlabelled/{next(list_objects(f'{data}/unlabelled'))[0]}"
    found = soco.run("predict", detectors[0], image, "--output", f"{s3}/predictions")
    assert isinstance(json.loads(read_text(found)), list)
    assert [name for name, _ in list_objects(f"{s3}/predictions/drawings")] == ["00001-000001.png"]

    rows = ("--benchmark", detectors[0], "--benchmark", evaluations[0])
    report = soco.stage("report", *rows, "--pretrained", pretrained, "--proposals", proposals)
    assert "<table" in read_text(f"{report}/report.html")

    assert soco.run("recipe", f"{converted}/config.yaml").startswith("name: ")
    for place in (data, labelled, packed, pack):
        assert ", fingerprint " in soco.run("datasets", "check", place, "--fingerprint", "contents")
    assert s3 in soco.run("datasets", "list", "--data", s3)
    for uri in (data, proposals, pretrained, converted, imported, *detectors, *evaluations, report):
        files = json.loads(read_text(f"{uri}/done.json"))["files"]
        assert {name for name, _ in list_objects(uri) if not name.startswith("shards/")} >= {*files, "done.json"}
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert commands | {group.name for group in app.registered_groups} == soco.ran | WITHOUT_PATHS


def propose(soco: Soco, images: str) -> tuple[str, str]:
    """Pack a part of the images and search it, also in shards, and with boxes of a file; return pack and proposals."""
    names = [name for name, _ in list_objects(images)]
    write_text(f"{soco.bucket}/lists/subset.txt", "".join(f"{name}\n" for name in names[:10]))
    subset = ("--set", f"images.subset={soco.bucket}/lists/subset.txt")
    packed = soco.run(
        *("pack", "--images", images, "--output", f"{soco.bucket}/pack", "--recipe", soco.recipe),
        *subset,
    )
    proposals = soco.stage("propose", "--images", packed)
    plan = soco.stage("propose", "--images", images, "--shards", "2", "--plan", *subset)
    for shard in ("1/2", "2/2"):
        soco.stage("propose", "--images", images, "--shard", shard, "--plan-from", plan, *subset)
    merged = soco.stage("propose", "--images", images, "--shards", "2", "--merge", "--plan-from", plan, *subset)
    assert merged == proposals
    boxes = f"{soco.bucket}/lists/boxes.json"
    write_text(boxes, json.dumps({name: [[5, 5, 40, 40]] for name in names}))
    given = ("--set", "proposals.engine=import", "--set", f"proposals.boxes_file={boxes}")
    assert soco.stage("propose", "--images", images, *given) != proposals
    return packed, proposals


def draw(soco: Soco, images: str, packed: str, proposals: str) -> None:
    """Draw the views of an image by its URI, and by its id among proposals."""
    picture = f"{soco.bucket}/pictures/views.png"
    first = next(list_objects(images))[0]
    among = ("--proposals", proposals, "--images", packed)
    for image, more in ((f"{images}/{first}", ()), (first, among)):
        assert soco.run("views", image, *more, "--recipe", soco.recipe, "--output", picture) == picture
        assert read_bytes(picture).startswith(b"\x89PNG")
