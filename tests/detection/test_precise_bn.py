from __future__ import annotations

import torch
from torch import nn

from soco_core.detection.precise_bn import estimate_batch_norms
from soco_core.engine.distributed import Processes


def test_statistics_are_those_of_all_inputs_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    batches = [torch.randn(size, 3, 5, 6) * 2 + 1 for size in (4, 2, 7)]
    before = {key: value.clone() for key, value in model.named_parameters()}
    model.eval()
    estimate_batch_norms(model, [(batch,) for batch in batches], Processes("cpu"))
    every = torch.cat(batches)
    first = model[0]
    torch.testing.assert_close(first.running_mean, every.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, every.var((0, 2, 3), unbiased=False))
    # The second layer sees the first one's output as normalised by each batch's own statistics.
    with torch.no_grad():
        hidden = torch.cat([model[1](model[0](batch)) for batch in batches])
    torch.testing.assert_close(model[2].running_mean, hidden.mean((0, 2, 3)))
    torch.testing.assert_close(model[2].running_var, hidden.var((0, 2, 3), unbiased=False))
    for key, value in model.named_parameters():
        torch.testing.assert_close(value, before[key])
    model.train()
    assert not model[0]._forward_pre_hooks


def test_a_layer_that_saw_nothing_keeps_its_statistics():
    model = nn.Sequential(nn.BatchNorm2d(2))
    estimate_batch_norms(model, [], Processes("cpu"))
    assert model[0].running_mean.tolist() == [0, 0]
    assert model[0].running_var.tolist() == [1, 1]
