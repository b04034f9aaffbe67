"""The labelled pool: reproducible, resumable, whole files only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ncogym.books import Progress
from ncogym.budget import MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError, InvalidSolution
from ncogym.sets import open_set, unnamed, write_labelled
from ncogym.study import label
from ncogym.training import labels
from ncogym.training.data import Labelled, stream
from ncogym.training.labels import LabelledFile, LabelledPool


class Identity:
    """Visits the nodes in their order; counts its calls."""

    name = "identity"

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, env, instances, budget, rng):
        self._calls += 1
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
    assert labeller._calls == 4
    after = again.load(1)
    assert torch.equal(before[0]["locs"], after[0]["locs"])
    assert torch.equal(before[1], after[1])
    assert after[1].shape == (4, 1, again.sizes[1])


def test_more_chunks_extend_a_pool(tmp_path: Path) -> None:
    """A longer pool has the sizes, and so the files, of a shorter one."""
    labeller = Identity()
    list(pool(tmp_path, labeller).fill())
    assert pool(tmp_path, labeller, chunks=5).missing() == [3, 4]


def test_no_pool_takes_the_labels_of_another(tmp_path: Path) -> None:
    """Whatever the labels follow from is in the folder's name: arguments of any value, settings of the labeller."""

    class Walk(Identity):
        """Has settings of its own."""

        def __init__(self, **settings: object) -> None:
            super().__init__()
            vars(self).update(settings)

    def path(env: Any, size: int, labeller: Any = None, **changes: Any) -> Path:
        given = {"chunks": 1, "chunk_size": 4, "seed": 7, "budget": MaxSeconds(1.0)} | changes
        return LabelledPool(env, size, size, folder=tmp_path, labeller=labeller or Walk(), **given).path(0)

    shops = [path(make("jssp", num_jobs=jobs, num_machines=5), 10) for jobs in (5, 10, 20)]
    bags = [path(make("knapsack", num_items=10, capacity=held), 10) for held in (None, 5, 10, 20)]
    trucks = [path(make("cvrp", num_customers=10, capacity=held), 10) for held in (None, 10, 20)]
    settings = [{}, {"depth": 1}, {"depth": 2}, {"rules": [1, 2]}, {"rules": [2, 1]}, {"rules": {"a": 1}}, {"of": max}]
    walks = [path(make("tsp"), 5, Walk(**given)) for given in settings]
    changed = [{"chunk_size": 5}, {"seed": 8}, {"budget": MaxSeconds(2.0)}, {"budget": MaxRollouts(2)}]
    others = [path(make("tsp"), 5, **each) for each in changed]
    every = [*shops, *bags, *trucks, *walks, *others]
    assert len(set(every)) == len(every)
    assert path(make("tsp", num_nodes=50), 5) == walks[0]  # the env's own size does not matter
    assert path(make("jssp", num_jobs=20, num_machines=10), 10) == shops[1]  # nor does that of the same proportion


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


# ---------------------------------------------------------------------- what is not believed


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    """Change the third tour to another."""
    tensors["actions"][2, :2] = tensors["actions"][2, :2].flip(0)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (swapped, "instance 2: its objective is said to be .*, its actions have"),
        (lambda t: t["actions"][1, 0].fill_(2), "instance 1: node 2 is visited at step 0 and again at step 2"),
        (lambda t: t["objective"][3].fill_(1), "instance 3: its objective is said to be 1, its actions have"),
        (lambda t: t["locs"][0].zero_(), "instance 0: its objective is said to be"),
        (lambda t: t.pop("objective"), "it cannot be read .*objective.*; delete it"),
    ],
)
def test_a_chunk_is_not_believed(tmp_path: Path, tamper: Any, words: str) -> None:
    """A chunk whose file was changed is refused, with its file and instance, and the others are not."""
    list(pool(tmp_path, Identity()).fill())
    whole = pool(tmp_path, Identity())
    tensors = load_file(whole.path(1))
    tamper(tensors)
    save_file(tensors, whole.path(1))
    with pytest.raises((ArgumentError, InvalidSolution), match=f"{whole.path(1).name}: {words}"):
        whole.load(1)
    assert whole.load(0)[1].shape[0] == 4


def test_a_torn_chunk_is_named(tmp_path: Path) -> None:
    """A file that was cut off is named, in a line that says what to do."""
    whole = pool(tmp_path, Identity())
    list(whole.fill())
    whole.path(1).write_bytes(whole.path(1).read_bytes()[:-9])
    with pytest.raises(ArgumentError, match=rf"{whole.path(1).name}: it cannot be read \(.*; delete it to label it"):
        whole.load(1)


def test_a_chunk_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk goes to the referee when it is first read, and not again."""
    whole, checked = pool(tmp_path, Identity()), []
    list(whole.fill())
    monkeypatch.setattr(labels, "check_solutions", lambda *given: checked.append(given[-1]))
    for chunk in (0, 2, 0, 2, 2):
        whole.load(chunk)
    assert checked == [whole.path(0), whole.path(2)]


def test_a_broken_solution_is_no_label(tmp_path: Path) -> None:
    """What the referee refuses ends the labelling, and leaves no chunk."""

    class Lame(Identity):
        """Stays where it is."""

        def __call__(self, env, instances, budget, rng):
            progress = Progress(env, instances, budget)
            progress.offer(0 * env.first_actions(instances)[:, None])
            return progress.solutions(self.name)

    whole = pool(tmp_path, Lame())
    with pytest.raises(InvalidSolution, match="label by identity, instance 0: node 0 is visited"):
        next(whole.fill())
    assert whole.missing() == [0, 1, 2]


# ---------------------------------------------------------------------- a file


def labelled(folder: Path, count: int = 6) -> Path:
    """Write a labelled file of tours of five nodes, and return its path."""
    env = make("tsp", num_nodes=5)
    held = label(env, count, 3, "random-insertion", MaxRollouts(1), workers=1)
    write_labelled(folder / "mine.npz", held, {"labels": "random-insertion"})
    return folder / "mine.npz"


def test_a_file_is_a_pool_of_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw takes rows of the file with their labels, under a symmetry."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    env, path = make("tsp", num_nodes=5), labelled(tmp_path)
    held = LabelledFile(env, path)
    assert (held.chunks, held.sizes) == (1, [5])
    assert held.load(0)[1].shape == (6, 1, 5)
    drawn = Labelled(held, nodes_per_batch=20).draw(stream(1, 3, 0, 1, "cpu"))
    assert drawn.instances["locs"].shape == (4, 5, 2)
    known = open_set(str(path)).best_known
    found = env.objective(drawn.instances, drawn.labels)[:, 0]
    assert torch.isclose(found[:, None], known, rtol=1e-6).any(1).all()


def test_a_file_must_have_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without labels, of another problem, of other dynamics, or tampered with is refused in words."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    env, path = make("tsp", num_nodes=5), labelled(tmp_path)
    with pytest.raises(ArgumentError, match=r"mine\.npz is of tsp, not of cvrp"):
        LabelledFile(make("cvrp"), path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(tmp_path / "bare.npz", locs=arrays["locs"])
    with pytest.raises(ArgumentError, match=r"labels\.file: .*bare\.npz is not allowed; it must have a label for each"):
        LabelledFile(env, tmp_path / "bare.npz")
    arrays["actions"][4] = 0
    np.savez(path, **arrays)
    with pytest.raises(
        InvalidSolution, match=r"mine\.npz: instance 4: node 0 is visited at step 0 and again at step 1"
    ):
        LabelledFile(env, path)
    shop = make("jssp", num_jobs=4, num_machines=3)
    instances = shop.seeded(5, 1)
    actions = torch.arange(4).repeat_interleave(3).expand(5, -1)  # job by job, which leaves gaps to fill
    held = unnamed(shop, instances, "five", "l2d")
    known = {"best_known": shop.objective(instances, actions[:, None])[:, 0], "actions": tuple(actions)}
    write_labelled(path, replace(held, **known), {"labels": "mine"})
    LabelledFile(shop, path)
    with pytest.raises(InvalidSolution, match=r"mine\.npz: instance \d: its objective is said to be"):
        LabelledFile(make("jssp", num_jobs=4, num_machines=3, insertion=True), path)


def test_a_published_set_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of a test set, or of a part of it, are refused, and the line names the set."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    env = make("tsp", num_nodes=20)
    held = label(env, 4, 1234, "nearest-neighbour", MaxRollouts(1), workers=1)
    write_labelled(tmp_path / "test.npz", held, {"labels": "nearest-neighbour"})
    with pytest.raises(ArgumentError, match=r"test\.npz is not allowed; 4 of its 4 instances are in kool-tsp20"):
        LabelledFile(env, tmp_path / "test.npz")


def test_a_pool_has_nothing_of_a_published_set(tmp_path: Path) -> None:
    """A chunk whose seed is that of a set is refused before it is labelled, and others are not."""
    whole = LabelledPool(make("atsp"), 20, 20, 1235, 3, 0, tmp_path, Identity(), MaxSeconds(1.0))
    with pytest.raises(
        ArgumentError, match=r"^seed: 0 is not allowed for labels; 3 of its 3 instances are in ncogym-atsp20,"
    ):
        whole.label(1234)
    assert not whole.path(1234).exists()
    whole.label(1233)
    assert whole.path(1233).exists()


def test_refusal(tmp_path: Path) -> None:
    """Sizes must be a range."""
    with pytest.raises(ArgumentError, match="sizes: 9 to 5"):
        LabelledPool(make("tsp"), 9, 5, 1, 1, 0, tmp_path, Identity(), MaxSeconds(1.0))


def test_a_late_label_is_a_label(tmp_path: Path) -> None:
    """A labeller that takes longer than it may labels all the same, as fast-tsp does up to 20 nodes, exactly."""
    late = LabelledPool(make("tsp"), 5, 9, 1, 4, 7, tmp_path, Identity(), MaxSeconds(1e-9))
    assert list(late.fill()) == [0]
