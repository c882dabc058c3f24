"""The classifiers: by hand, each as if it were alone, and the backbone that stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from soco_core.config import Recipe
from soco_core.datasets.findings import Findings
from soco_core.datasets.labels import read_folder_labels
from soco_core.engine.distributed import Processes
from soco_core.engine.precision import Precision
from soco_core.linear.crops import Files
from soco_core.linear.evaluate import accuracies
from soco_core.linear.networks import Backbone, Heads
from soco_core.linear.train import LinearTraining
from soco_core.models.backbone import PIXEL_MEAN, PIXEL_STD, Encoder

CPU = torch.device("cpu")


def make_backbone(name: str = "resnet18", precision: str = "fp32") -> Backbone:
    torch.manual_seed(0)
    encoder = Encoder(name)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1)
    return Backbone(encoder, Precision(precision, CPU))  # type: ignore[arg-type]


def training(folder: str, recipe: Recipe, backbone: Backbone | None = None) -> LinearTraining:
    files = Files(read_folder_labels(folder, "train", Findings()), recipe.images.max_pixels)
    backbone = backbone or make_backbone()
    heads = Heads(len(recipe.linear.learning_rates), backbone.width, 3, recipe.seed)
    return LinearTraining(backbone, heads, files, np.arange(len(files)), recipe, Processes("cpu"))


def with_linear(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"linear": recipe.linear.model_copy(update=changes)})


def run(task: LinearTraining, steps: int | None = None) -> list[dict[str, float]]:
    entries = []
    for step, batch in enumerate(task.batches(0)):
        if step == steps:
            break
        task.step(step, batch)
        entries += [finished.values for finished in task.measured()]
    return entries


def test_several_learning_rates_are_as_many_trainings(classes_folder: str, tiny: Recipe) -> None:
    rates = (30.0, 3.0, 0.1)
    together = training(classes_folder, with_linear(tiny, learning_rates=rates))
    losses = run(together)
    for number, rate in enumerate(rates):
        alone = training(classes_folder, with_linear(tiny, learning_rates=(rate,)))
        expected = run(alone)
        for mine, its in zip(
            together.heads.each()[number].parameters(), alone.heads.each()[0].parameters(), strict=True
        ):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)
        assert [line[f"loss/{rate:g}"] for line in losses] == pytest.approx([line["loss"] for line in expected])
    weights = [head.weight.detach() for head in together.heads.each()]
    assert min(float((a - b).abs().max()) for a, b in [weights[:2], weights[1:]]) > 1e-3  # they do differ


def test_a_step_by_hand(classes_folder: str, tiny: Recipe) -> None:
    """Softmax regression in NumPy: gradient (p - y) x / N, momentum 0.9, weight decay."""
    recipe = with_linear(tiny, learning_rates=(2.0,), weight_decay=0.01, milestones=(0.5,), epochs=2)
    task = training(classes_folder, recipe)
    batches = list(task.batches(0))
    assert len(batches) == 6
    head = task.heads.each()[0]
    weight, bias = head.weight.detach().numpy().astype(np.float64), head.bias.detach().numpy().astype(np.float64)
    moved = [np.zeros_like(weight), np.zeros_like(bias)]
    for step, (crops, labels) in enumerate(batches):
        x = task.backbone(crops).numpy().astype(np.float64)
        scores = x @ weight.T + bias
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = -np.log(p[np.arange(4), labels]).mean()
        error = (p - np.eye(3)[labels]) / 4
        gradients = [error.T @ x + 0.01 * weight, error.sum(0) + 0.01 * bias]
        moved = [0.9 * before + gradient for before, gradient in zip(moved, gradients, strict=True)]
        rate = 2.0 if step < 3 else 0.2
        weight, bias = weight - rate * moved[0], bias - rate * moved[1]
        task.step(step, (crops, labels))
        (finished,) = task.measured()
        assert finished.values["loss"] == pytest.approx(loss, rel=1e-5)
        assert finished.values["accuracy"] == pytest.approx(100 * (scores.argmax(1) == labels.numpy()).mean())
        assert finished.values["rate_factor"] == pytest.approx(rate / 2)
    np.testing.assert_allclose(head.weight.detach(), weight, atol=1e-5)
    np.testing.assert_allclose(head.bias.detach(), bias, atol=1e-5)


def test_the_backbone_and_its_statistics_stay_to_the_bit(classes_folder: str, tiny: Recipe) -> None:
    backbone = make_backbone()
    before = {key: value.clone() for key, value in backbone.encoder.state_dict().items()}
    task = training(classes_folder, tiny, backbone)
    backbone.train()
    run(task)
    after = backbone.encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    trained = {id(parameter) for group in task.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in task.heads.parameters()}


def test_a_feature_is_the_average_of_c5_in_evaluation_mode() -> None:
    backbone = make_backbone()
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    images = (crops.float() - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]
    expected = backbone.encoder.eval()(images)[3].mean((2, 3))
    torch.testing.assert_close(backbone(crops), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone(crops[:1]), expected[:1], rtol=1e-4, atol=1e-5)  # no batch has a say
    half = make_backbone(precision="bf16")(crops)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0.05)


def test_a_loss_that_is_not_finite_names_its_learning_rate(classes_folder: str, tiny: Recipe) -> None:
    task = training(classes_folder, with_linear(tiny, learning_rates=(1.0, 1e38), epochs=20))
    with pytest.raises(Exception, match=r"learning rate 1e\+38 is not finite at step \d+; take it out of linear\."):
        run(task)


def test_top_1_and_top_5_by_hand() -> None:
    best = np.array([[3, 1, 2, 0, 5], [0, 1, 2, 4, 5], [9, 8, 7, 6, 5], [2, 3, 4, 5, 6]])
    assert accuracies(best, np.array([3, 0, 0, 4])) == (50.0, 75.0)
    assert accuracies(best[:, :1], np.array([3, 0, 9, 2])) == (100.0, 100.0)
