"""The pair of networks: what is shared, what learns, what follows; and equations 1 to 6 written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from soco_core.config import ModelConfig
from soco_core.models.soco import SoCo, ViewBatch
from soco_core.pretrain.loss import soco_loss

SMALL = ModelConfig(
    backbone="resnet18",
    fpn_channels=16,
    head_convs=2,
    head_fc_size=24,
    hidden_size=32,
    embedding_size=8,
    level_limits=(20, 40, 80),
)


@pytest.fixture
def networks() -> SoCo:
    torch.manual_seed(0)
    return SoCo(SMALL)


def views(dtype: torch.dtype = torch.float32) -> list[ViewBatch]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for side in (96, 96, 48):
        corner = torch.rand(3, 2, 2, generator=generator) * side * 0.3
        size = side * (0.15 + 0.5 * torch.rand(3, 2, 2, generator=generator))
        boxes = torch.cat([corner, corner + size], -1)
        batches.append(ViewBatch(torch.randn(3, 3, side, side, generator=generator).to(dtype), boxes.to(dtype)))
    return batches


def test_target_starts_as_a_copy_and_has_no_predictor(networks: SoCo) -> None:
    online, target = networks.online.state_dict(), networks.target.state_dict()
    assert set(online) - set(target) == {key for key in online if key.startswith("predictor.")}
    assert all(torch.equal(online[key], value) for key, value in target.items())


def test_only_the_online_network_learns(networks: SoCo) -> None:
    soco_loss(*networks(views()))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in networks.online.parameters())
    assert all(p.grad is None for p in networks.target.parameters())


def test_target_moves_by_the_coefficient_parameters_only(networks: SoCo) -> None:
    with torch.no_grad():
        for p in networks.online.parameters():
            p.add_(1.0)
    networks.online(views()[0].images)  # moves the online network's running statistics
    before = {key: value.clone() for key, value in networks.target.state_dict().items()}
    networks.update_target(0.9)
    online = networks.online.state_dict()
    parameters = dict(networks.target.named_parameters())
    for key, value in networks.target.state_dict().items():
        expected = 0.9 * before[key] + 0.1 * online[key] if key in parameters else before[key]
        torch.testing.assert_close(value, expected)


def test_embeddings_and_loss_equal_the_equations_written_out(networks: SoCo) -> None:
    """Equations 1 to 6 in float64, one box at a time, with batch norm in evaluation mode."""
    networks = networks.double().eval()
    batches = views(torch.float64)
    online, target = networks(batches)
    total = torch.zeros((), dtype=torch.float64)

    def h(network, view: ViewBatch, image: int, k: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
        x0, y0, x1, y1 = view.boxes[image, k].tolist()
        root = ((x1 - x0) * (y1 - y0)) ** 0.5
        level = 0 if root <= 20 else 1 if root <= 40 else 2 if root <= 80 else 3
        features = network.neck(network.encoder(view.images[image : image + 1]))[level]
        box = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float64)
        region = roi_align(features, [box], 7, 1 / (4 * 2**level), 0, True)
        return network.projector(network.head(region))[0]

    for image in range(3):
        for k in range(2):
            v = [networks.online.predictor(h(networks.online, view, image, k)[None])[0] for view in batches]
            t = [h(networks.target, view, image, k) for view in batches]
            for j in range(3):
                torch.testing.assert_close(online[j, image, k], v[j], atol=1e-9, rtol=0)
                torch.testing.assert_close(target[j, image, k], t[j], atol=1e-9, rtol=0)
            for j in (1, 2):
                total -= 2 * F.cosine_similarity(v[0], t[j], dim=0) + 2 * F.cosine_similarity(v[j], t[0], dim=0)
    torch.testing.assert_close(soco_loss(online, target)["loss"], total / 6, atol=1e-9, rtol=0)
