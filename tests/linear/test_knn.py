"""Nearest neighbours beside a loop over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from soco_core.linear import knn
from soco_core.linear.knn import Neighbours


def by_loops(queries: np.ndarray, bank: np.ndarray, labels: list[int], k: int, temperature: float) -> list[int]:
    """Wu et al. 2018, written out."""
    chosen = []
    for query in queries:
        cosines = [float(query @ row) / math.sqrt(float(query @ query) * float(row @ row)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda row: -cosines[row])[:k]
        votes: dict[int, float] = {}
        for row in nearest:
            votes[labels[row]] = votes.get(labels[row], 0.0) + math.exp(cosines[row] / temperature)
        chosen.append(max(votes, key=votes.__getitem__))
    return chosen


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0)])
def test_as_a_loop_over_all_pairs_does(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(knn, "VOTERS_AT_ONCE", 5)
    generator = np.random.default_rng(3)
    queries, bank = generator.normal(size=(40, 6)), generator.normal(size=(90, 6)) * generator.uniform(0.1, 9, (90, 1))
    labels = generator.integers(0, 4, 90).tolist()
    nearest = Neighbours(torch.tensor(queries, dtype=torch.float32), k)
    for first in range(0, 90, 16):
        part = slice(first, first + 16)
        nearest.see(torch.tensor(bank[part], dtype=torch.float32), torch.tensor(labels[part]))
    expected = by_loops(queries, bank, labels, k, temperature)
    assert nearest.vote(4, temperature).tolist() == expected
    assert len(set(expected)) == 4


def test_shares_of_the_training_images_give_the_same_when_merged() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(12, 5, generator=generator), torch.randn(33, 5, generator=generator)
    labels = torch.arange(33) % 3
    whole, first, second = (Neighbours(queries, 4) for _ in range(3))
    whole.see(bank, labels)
    first.see(bank[::2], labels[::2])
    second.see(bank[1::2], labels[1::2])
    first.merge([(second.similarities, second.labels)])
    assert torch.equal(first.labels, whole.labels)
    torch.testing.assert_close(first.similarities, whole.similarities)


def test_fewer_training_images_than_neighbours_vote_alone() -> None:
    nearest = Neighbours(torch.tensor([[1.0, 0.0]]), 20)
    nearest.see(torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([2, 1, 1]))
    # exp(0.995 / 0.07) against exp(0) + exp(0.0995 / 0.07); places never filled, labelled 0, have no vote.
    assert nearest.vote(3, 0.07).tolist() == [2]
    assert nearest.vote(3, 10.0).tolist() == [1]
