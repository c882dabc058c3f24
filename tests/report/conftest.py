"""Made-up results of other stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from soco_core.artifacts.benchmark import COLUMNS, BenchmarkResult
from soco_core.artifacts.metrics import MetricsWriter
from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.config import Recipe
from soco_core.detection.engines import resolve_engine
from soco_core.recipes import load_recipe


def draw(path: Path, colour: str) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), colour).save(path)


@dataclass
class Results:
    """Writes results into a folder as the stages do."""

    folder: Path

    def finetune(
        self,
        method: str,
        numbers: tuple[float | None, ...],
        recipe: Recipe | None = None,
        train_images: int = 117_266,
        val_images: int = 5_000,
        coco: str = "coco",
        init: str = "",
    ) -> str:
        recipe = recipe or Recipe()
        if recipe.finetune.engine == "auto":
            recipe = resolve_engine(recipe)
        inputs = {"coco": coco, "init": init or method, "method": method}
        result = locate(str(self.folder), "finetune", 1, recipe, ("seed", "model", "finetune"), inputs)
        with writing(result, recipe):
            BenchmarkResult(
                benchmark=recipe.finetune.benchmark,
                method=method,
                metrics=dict(zip(COLUMNS, numbers, strict=False)),
                train_images=train_images,
                val_images=val_images,
                iterations=recipe.finetune.iterations,
                batch_size=recipe.finetune.batch_size,
                seed=recipe.seed,
                initialisation=f"made up for {method}",
            ).write(result.path / "metrics.json")
            with MetricsWriter(result.path / "metrics.jsonl", 0) as metrics:
                for step in range(60):
                    metrics.write(step, {"loss": 3 / (1 + step / 20), "learning_rate": 0.1})
            draw(result.path / "figures" / "detections.png", "green")
            result.finish({})
        return result.uri

    def linear(self, recipe: Recipe, train_images: int) -> str:
        inputs = {
            "images": str(train_images),
            "init": "scratch",
            "method": "Scratch",
            "backbone": recipe.model.backbone,
            "max_pixels": recipe.images.max_pixels,
        }
        result = locate(str(self.folder), "linear", 1, recipe, ("seed", "linear"), inputs)
        with writing(result, recipe):
            BenchmarkResult(
                benchmark="linear",
                method="Scratch",
                metrics={"top1": 50.0, "top5": 75.0, "knn": 40.0},
                train_images=train_images,
                val_images=50_000,
                iterations=500_400,
                batch_size=256,
                seed=0,
                initialisation="scratch",
            ).write(result.path / "metrics.json")
            result.finish({})
        return result.uri

    def proposals(
        self, recipe: Recipe | None = None, contract: int = 2, given: Recipe | None = None
    ) -> ResultDirectory:
        """`recipe` determines the result; `given` is what the user gave, if that names files."""
        recipe = recipe or Recipe()
        result = locate(str(self.folder), "proposals", contract, recipe, ("proposals",), {"images": "abc"})
        with writing(result, given or recipe):
            manifest = {
                "contract": contract,
                "image_set": {
                    "root": "s3://data/coco",
                    "layout": "coco",
                    "splits": ["train2017", "unlabeled2017"],
                    "subset": "",
                    "images": 1_281_167,
                },
                "parameters": recipe.part("proposals")["proposals"],
                "search": {"engine": recipe.proposals.engine, "versions": {"cv2": "4.14.0", "numpy": "2.4.6"}},
                "images": {"good": 1_281_165, "bad": 2},
                "kept_by": {"strict": 1_281_000, "aspect_ratio": 100, "min_side": 60, "whole_image": 5},
                "boxes_per_image": {"total": 20_000_000, "mean": 15.61, "min": 1, "median": 14.0, "max": 99},
                "bad_images": [
                    {"id": "a|b<i>.jpg", "reason": "truncated"},
                    {"id": "c.jpg", "reason": "empty"},
                ],
                "reduced_images": [f"{number}.jpg" for number in range(12_812)],
            }
            (result.path / "manifest.json").write_text(json.dumps(manifest))
            draw(result.path / "figures" / "proposals.png", "red")
            draw(result.path / "figures" / "proposals_histogram.png", "blue")
            result.finish({})
        return result

    def pretrain(self, proposals: ResultDirectory, recipe: Recipe | None = None, images: int = 1_281_165) -> str:
        recipe = recipe or Recipe()
        inputs = {"proposals": proposals.fingerprint}
        result = locate(str(self.folder), "pretrain", 1, recipe, ("seed", "views", "model", "pretrain"), inputs)
        with writing(result, recipe):
            with MetricsWriter(result.path / "metrics.jsonl", 0) as metrics:
                for step in range(60):
                    values = {"loss": -step / 10, "learning_rate": 0.1, "ema": 0.99, "embedding_std": 0.9}
                    metrics.write(step, values)
            draw(result.path / "figures" / "views.png", "yellow")
            result.finish({"steps": 60, "images": images, "final_loss": -5.9})
        return result.uri

    def convert(self, pretrained: str) -> str:
        recipe = Recipe()
        inputs = {"pretrained": Path(pretrained).name}
        result = locate(str(self.folder), "convert", 1, recipe, ("model",), inputs)
        with writing(result, recipe):
            result.finish({})
        return result.fingerprint


SCRATCH = (31.2, 49.6, 33.3, 28.4, 46.7, 30.5)
SUPERVISED = (38.8, 59.5, 42.6, 35.3, 56.4, 38.2)
SOCO = (42.4, 62.6, 46.6, 37.7, 59.2, 40.6)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def numbers() -> dict[str, tuple[float | None, ...]]:
    return {"Scratch": SCRATCH, "Supervised": SUPERVISED, "SoCo": SOCO}


@pytest.fixture
def demo() -> Recipe:
    return load_recipe("demo")


@pytest.fixture
def changed() -> Any:
    """Return a recipe with some fields of its section `finetune` changed."""

    def change(seed: int = 0, **fields: Any) -> Recipe:
        recipe = Recipe()
        return recipe.model_copy(update={"seed": seed, "finetune": recipe.finetune.model_copy(update=fields)})

    return change
