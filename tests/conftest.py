"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# shapes and types of annotations are checked in every call of the package, here and nowhere else
install_import_hook("ncogym", "typechecking.checker")

torch.set_num_threads(1)  # the tensors of a test are tiny, so that more threads only cost


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of a fixed seed, new in each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 1 ms with each look and each solution offered, so that a busy machine changes nothing."""
    from ncogym.books import Progress

    now, offer = [100.0], Progress.offer

    def look() -> float:
        now[0] += 1e-3
        return now[0]

    def offered(self: Progress, actions: torch.Tensor, rollouts: int | None = None) -> torch.Tensor:
        now[0] += 1e-3 * actions.shape[0] * actions.shape[1]
        return offer(self, actions, rollouts)

    monkeypatch.setattr("time.perf_counter", look)
    monkeypatch.setattr(Progress, "offer", offered)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of tiny instances that can be checked by hand."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def shared_instances() -> Path:
    """The folder of published instances beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "instances"
    if not path.is_dir():
        pytest.skip("published instances are not here: no folder shared/instances beside the repository")
    return path
