"""The labelled pool: reproducible, resumable, whole files only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.solver import MaxSeconds, Progress
from ncogym.training.data import Labelled, stream
from ncogym.training.labels import LabelledPool


class Identity:
    """Visits the nodes in their order; counts its calls."""

    name = "identity"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, env, instances, budget, rng):
        self.calls += 1
        progress = Progress(env, instances, budget)
        progress.offer(env.first_actions(instances)[:, None])
        return progress.solutions(self.name)


def pool(folder: Path, labeller: Identity, chunks: int = 3) -> LabelledPool:
    """A pool of three chunks of four instances of 5 to 9 nodes."""
    return LabelledPool(make("tsp"), 5, 9, chunks, 4, 7, folder, labeller, MaxSeconds(1.0))


def test_fill_labels_what_is_missing(tmp_path: Path) -> None:
    """A second fill does nothing, and a lost chunk alone is labelled again, to the same numbers."""
    labeller = Identity()
    first = pool(tmp_path, labeller)
    assert list(first.fill()) == [0, 1, 2]
    before = first.load(1)
    first.path(1).unlink()
    again = pool(tmp_path, labeller)
    assert list(again.fill()) == [1]
    assert labeller.calls == 4
    after = again.load(1)
    assert torch.equal(before[0]["locs"], after[0]["locs"])
    assert torch.equal(before[1], after[1])
    assert after[1].shape == (4, 1, again.sizes[1])


def test_more_chunks_extend_a_pool(tmp_path: Path) -> None:
    """A longer pool has the sizes, and so the files, of a shorter one."""
    labeller = Identity()
    list(pool(tmp_path, labeller).fill())
    assert pool(tmp_path, labeller, chunks=5).missing() == [3, 4]


def test_sizes_cover_the_range(tmp_path: Path) -> None:
    """Sizes are drawn from the whole range and not beyond it."""
    sizes = pool(tmp_path, Identity(), chunks=300).sizes
    assert set(sizes) == {5, 6, 7, 8, 9}


def test_labelled_draw_is_a_function_of_the_step(tmp_path: Path) -> None:
    """The same step draws the same batch, another step another, and labels fit their instances."""
    whole = pool(tmp_path, Identity())
    list(whole.fill())
    source = Labelled(whole, nodes_per_batch=20)

    def draw(step: int):
        return source.draw(stream(1, step, 0, 1, "cpu"))

    one, same = draw(3), draw(3)
    assert torch.equal(one.instances["locs"], same.instances["locs"])
    assert any(draw(3).instances["locs"].shape != draw(s).instances["locs"].shape for s in range(4, 12))
    assert not one.env.violations(one.instances, one.labels)


def test_streams_share_a_chunk(tmp_path: Path) -> None:
    """The streams of a step draw their parts from one chunk, and different rows of it as long as it has enough."""
    whole = pool(tmp_path, Identity())
    list(whole.fill())
    parts = [
        Labelled(whole, nodes_per_batch=20, rotations=0).draw(stream(1, 3, number, 4, "cpu")) for number in range(4)
    ]
    assert len({part.instances["locs"].shape for part in parts}) == 1
    sizes = [torch.cdist(part.instances["locs"], part.instances["locs"]).sum().item() for part in parts]
    assert len({round(size, 3) for size in sizes}) == 4  # images keep distances


def test_refusal(tmp_path: Path) -> None:
    """Sizes must be a range."""
    with pytest.raises(ArgumentError, match="sizes: 9 to 5"):
        LabelledPool(make("tsp"), 9, 5, 1, 1, 0, tmp_path, Identity(), MaxSeconds(1.0))
