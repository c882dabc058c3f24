"""The command line: quick help, one-line errors, results on standard output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from soco_core import __version__, doctor
from soco_core.cli import COMMANDS, app
from soco_core.doctor import runs_on
from soco_core.recipes import load_recipe, named_recipes, parse_recipe

SOCO = Path(sys.executable).with_name("soco")


def soco(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SOCO, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_help_names_every_stage() -> None:
    done = soco("--help")
    assert done.returncode == 0
    stages = ["demo-data", "pack", "propose", "views", "pretrain", "convert", "import", "finetune", "report"]
    listed = {line.strip("│ ").split(" ")[0] for line in done.stdout.splitlines()}
    assert {*stages, "recipe", "recipes", "doctor"} <= listed


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "torchvision", "cv2", "mlflow", "kfp", "matplotlib", "pyarrow"]
    code = f"import sys, soco_core.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_lists_each_with_what_it_is() -> None:
    lines = soco("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == named_recipes()
    assert all(len(line.split()) > 3 for line in lines)
    (whole,) = [line for line in lines if line.startswith("ablation-whole-image ")]
    assert "Table 4, row 1" in whole


def test_recipe_prints_what_reads_back() -> None:
    done = soco("recipe", "demo", "--set", "pretrain.epochs=3")
    assert parse_recipe(done.stdout) == load_recipe("demo", ["pretrain.epochs=3"])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["propose", "--images", "nowhere"], ["nowhere"]),
        (["propose", "--images", ".", "--recipe", "demo"], ["image"]),
        (["propose", "--images", ".", "--set", "proposals.scael=3"], ["proposals.scael", "'scale'"]),
        (["propose", "--images", ".", "--shard", "3/2"], ["3/2", "I/N"]),
        (["propose", "--images", ".", "--shard", "1/2", "--merge"], ["--shard", "--merge"]),
        (["propose", "--images", ".", "--shards", "0"], ["--shards"]),
        (["pretrain"], ["--proposals"]),
        (["pretrain", "--proposal", "x"], ["--proposal"]),
        (["pretrian"], ["pretrian"]),
        (["pretrain", "--proposals", "nowhere"], ["nowhere", "done.json"]),
        (["convert", "--pretrained", "nowhere"], ["nowhere", "done.json"]),
        (["import", "nowhere.pth"], ["nowhere.pth", "no such file"]),
        (["finetune", "--coco", "nowhere"], ["nowhere"]),
        (
            ["finetune", "--coco", "nowhere", "--recipe", "soco-c4-100ep", "--set", "finetune.detector=retinanet"],
            ["finetune.detector", "soco-c4-100ep", "FPN"],
        ),
        (["report", "--benchmark", "nowhere"], ["nowhere", "done.json"]),
        (["report"], ["nothing to report on", "--benchmark", "--pretrained", "--proposals"]),
        (["recipe", "."], [".: a directory, not a recipe", "soco recipes"]),
        (["recipe", "soco-fpn-100eq"], ["soco-fpn-100eq", "soco-fpn-100ep"]),
        (["recipe", "missing.yaml"], ["missing.yaml"]),
    ],
)
def test_misuse_is_one_line(arguments: list[str], names: list[str], tmp_path: Path) -> None:
    done = soco(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(name in lines[0] for name in names)
    assert list(tmp_path.iterdir()) == []


def test_every_command_takes_debug() -> None:
    for name in COMMANDS:
        assert "--debug" in CliRunner().invoke(app, [name, "--help"], terminal_width=200).stdout, name


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = soco("convert", "--pretrained", "nowhere", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_doctor_says_that_the_stages_can_run() -> None:
    done = soco("doctor")
    assert done.returncode == 0, done.stdout
    assert "Every stage can run here." in done.stdout
    assert "OpenCV ximgproc" in done.stdout


@pytest.mark.parametrize(
    ("gpu", "built_for", "runs"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),  # a V100 and PyPI's torch 2.11
        ((7, 0), ["sm_70", "sm_80"], True),
        ((8, 9), ["sm_80", "sm_86", "sm_90"], True),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((10, 0), ["sm_90"], False),
        ((12, 0), ["sm_100", "sm_120"], True),
    ],
)
def test_doctor_knows_which_gpus_a_torch_build_runs_on(gpu: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert runs_on(*gpu, built_for) is runs


def test_doctor_tells_whether_torch_has_code_for_an_architecture() -> None:
    import torch

    has = torch._C._cuda_getArchFlags()
    known = has.split()[0] if has else "sm_00"
    done = soco("doctor", "--built-for", known)
    assert (done.returncode, done.stdout) == ((0, f"torch has code for {has}\n") if has else (2, ""))
    refused = soco("doctor", "--built-for", "sm_10")
    assert refused.returncode == 2
    assert "has no code for sm_10" in refused.stderr
    assert "write it as sm_70" in soco("doctor", "--built-for", "V100").stderr


def test_doctor_sees_little_shared_memory_and_a_scratch_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20, free=1 << 40))
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "later" / "still"))
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["shared memory"].ok is not Path("/dev/shm").is_dir()
    assert "--shm-size" in findings["shared memory"].remedy
    assert findings["scratch for s3:// results"].ok
    (tmp_path / "later").write_text("a file in the way")
    assert not {finding.name: finding for finding in doctor.examine()}["scratch for s3:// results"].ok


def test_version() -> None:
    assert soco("--version").stdout == f"soco {__version__}\n"


def test_doctor_names_what_is_missing_and_the_remedy() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from soco_core import doctor\n"
        "findings = doctor.examine()\n"
        "doctor.show(findings)\n"
        "sys.exit(any(f.needed and not f.ok for f in findings))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Cannot run every stage" in done.stdout
    assert "pip uninstall" in done.stdout
