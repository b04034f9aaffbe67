"""Training: it learns, resumes exactly, survives a signal, and refuses in words."""

from __future__ import annotations

import csv
import itertools
import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ncogym.algorithms import POMO, PPO, Imitation, Poppy, Reinforce
from ncogym.budget import MaxRollouts
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import ArgumentError, CheckpointError, NcogymWarning
from ncogym.policies import AttentionPolicy, Population
from ncogym.policies.decoding import Greedy
from ncogym.pretrained import load_policy
from ncogym.rollout import act
from ncogym.sets import write_labelled
from ncogym.study import label
from ncogym.training.callbacks import Interruptible
from ncogym.training.data import Batch
from ncogym.training.module import Optimiser, TrainingModule
from ncogym.training.run import HELD, Labels, ValidationSettings, train

SMALL = partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)


def run(output: Path, **changes):
    """Train a tiny policy for a few steps."""
    settings = {
        "policy": SMALL,
        "nodes_per_batch": 60,
        "max_steps": 7,
        "steps_per_epoch": 3,
        "checkpoint_every": 1,
        "optimiser": Optimiser(lr=1e-2, warmup_steps=2, anneal=0.5),
        "output": str(output),
    } | changes
    return train(make("tsp", num_nodes=6), make_solver, **settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a run."""
    return load_file(str(folder / "policy" / "weights.safetensors"))


ALGORITHMS = {
    "rollout": partial(Reinforce, "rollout", evaluation_size=100),
    "critic": partial(Reinforce, "critic"),
    "ppo": partial(PPO, samples=2, epochs=3, entropy=0.01),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
@pytest.mark.parametrize("stop_at", [2, 3])
def test_resume_after_a_signal_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, algorithm: partial
) -> None:
    """A run that was stopped by SIGTERM, in an epoch or at its end, ends with the very weights of one that was not.

    Its epochs are those of validation, and with PPO also those of the same rollouts.
    """
    whole = run(tmp_path / "whole", algorithm=algorithm())
    on_batch_end = Interruptible.on_train_batch_end

    def stop(self, trainer, *rest):
        if trainer.global_step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        on_batch_end(self, trainer, *rest)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Interruptible, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt, match=f"step {stop_at}"):
            run(tmp_path / "cut", algorithm=algorithm())
    assert signal.getsignal(signal.SIGTERM) == before
    cut = run(tmp_path / "cut", algorithm=algorithm(), resume=True)
    one, two = weights(whole), weights(cut)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)

    def losses(folder: Path) -> list[tuple[str, str]]:
        with (folder / "metrics.csv").open() as file:
            return [(row["step"], row["loss"]) for row in csv.DictReader(file) if row["loss"]]

    assert losses(whole) == losses(cut)


def test_it_overfits_one_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """POMO on a single instance finds its optimum."""
    env = make("tsp", num_nodes=7)
    instance = env.generate(1, torch.Generator().manual_seed(3))
    best = env.objective(instance, torch.tensor([[0, *p] for p in _orders(range(1, 7))])[None]).min().item()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = SMALL(env.feature_dims)

    class One:
        """Draws the one instance, sixteen times."""

        env = make("tsp", num_nodes=7)

        def draw(self, stream):
            return Batch(env, instance.expand(16), None)

    module = TrainingModule(policy, POMO(), One(), Optimiser(lr=5e-3), 60, 60, 0)
    module._fabric = None
    adam = torch.optim.Adam(policy.parameters(), lr=5e-3)
    for step in range(60):
        monkeypatch.setattr(TrainingModule, "global_step", step)
        loss = module.training_step(None, step)
        adam.zero_grad()
        loss.backward()
        adam.step()
    encoded = policy.encode(env.instance_features(instance))
    starts = env.first_actions(instance)  # what POMO trains from; its own first action it never sees
    found = act(env, policy, encoded, instance, Greedy(), torch.Generator(), first_actions=starts).reward
    assert -found.max().item() == pytest.approx(best, rel=1e-5)


def _orders(nodes):
    import itertools

    return list(itertools.permutations(nodes))


def test_search_that_cannot_use_the_policy_is_refused_before_training(tmp_path: Path) -> None:
    """A population is not validated by a search that takes no conditions, and this is said before the first step."""
    settings = {"policy": partial(Population, members=2, base=SMALL), "algorithm": Poppy()}
    validation = ValidationSettings(sizes=[6], instances=4, folder=str(tmp_path / "refs"))
    with pytest.raises(ArgumentError, match=r"multistart cannot use a policy of class Population; .* for poppy"):
        run(tmp_path / "run", validation=validation, **settings)
    assert not (tmp_path / "run" / "metrics.csv").exists()
    run(tmp_path / "run", validation=replace(validation, solver="poppy"), max_steps=3, **settings)
    assert load_policy(tmp_path / "run" / "policy").card["validation"]["gap"] > -1e-6
    assert (tmp_path / "run" / "population.png").stat().st_size > 1000


def test_run_folder(tmp_path: Path) -> None:
    """A run folder holds facts, metrics, a checkpoint and a policy that loads with its card."""
    folder = run(tmp_path / "run", validation=ValidationSettings(sizes=[6], instances=4, folder=str(tmp_path / "refs")))
    facts = json.loads((folder / "run.json").read_text())
    assert {"versions", "commit", "config"} <= facts.keys()
    assert (folder / "last.ckpt").exists()
    loaded = load_policy(folder / "policy")
    assert loaded.card["env"]["name"] == "tsp"
    assert loaded.card["training"]["steps"] == 7
    assert loaded.card["validation"]["gap"] > -1e-6
    with (folder / "metrics.csv").open() as file:
        assert any(row.get("gap") for row in csv.DictReader(file))


def test_imitation_and_mixed_sizes(tmp_path: Path) -> None:
    """Imitation of labels of mixed sizes lowers its loss, in bfloat16."""
    folder = run(
        tmp_path / "run",
        algorithm=Imitation(sequences=4),
        sizes=(5, 9),
        labels=Labels(solver="farthest-insertion", chunks=4, chunk_size=16, folder=str(tmp_path / "labels")),
        nodes_per_batch=100,
        max_steps=50,
        steps_per_epoch=25,
        precision="bf16-mixed",
    )
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses[-1] < losses[0] < 3.0


def test_imitation_of_a_labelled_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of one's own file are learned without a pool; what does not fit the run is refused in words."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path / "cache"))
    held = label(make("tsp", num_nodes=6), 40, 3, "two-opt", MaxRollouts(2), workers=1)
    write_labelled(tmp_path / "mine.npz", held, {"labels": "two-opt"})
    mine = Labels(file=str(tmp_path / "mine.npz"), folder=str(tmp_path / "labels"))
    folder = run(tmp_path / "run", algorithm=Imitation(sequences=4), labels=mine, max_steps=50, steps_per_epoch=25)
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses[-1] < losses[0] < 3.0
    assert not (tmp_path / "labels").exists()
    with pytest.raises(ArgumentError, match=r"^sizes: 5 to 9 is not allowed; the instances of .*mine\.npz have"):
        run(tmp_path / "sizes", algorithm=Imitation(), labels=mine, sizes=(5, 9))
    with pytest.raises(ArgumentError, match=r"^labels\.file: .*mine\.npz is not allowed with an algorithm"):
        run(tmp_path / "pomo", labels=mine)


def test_global_generator_is_untouched(tmp_path: Path) -> None:
    """Training draws from its own generators only."""
    before = torch.random.get_rng_state()
    run(tmp_path / "run", max_steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_warm_start(tmp_path: Path) -> None:
    """With a rate too small to move, a warm start ends with the weights that it began with."""
    first = run(tmp_path / "first", max_steps=1)
    second = run(
        tmp_path / "second", max_steps=1, init=str(first / "policy"), optimiser=Optimiser(lr=1e-30, weight_decay=0.0)
    )
    one, two = weights(first), weights(second)
    assert all(torch.allclose(one[key], two[key]) for key in one)


def test_refusals(tmp_path: Path) -> None:
    """A used folder, nothing to resume, a rate of 0: one line each."""
    run(tmp_path / "run", max_steps=1)
    with pytest.raises(ArgumentError, match="already holds a run"):
        run(tmp_path / "run", max_steps=1)
    with pytest.raises(CheckpointError, match="does not exist"):
        run(tmp_path / "none", resume=True)
    with pytest.raises(ArgumentError, match="lr: 0"):
        Optimiser(lr=0)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps."""
    return run(tmp_path_factory.mktemp("ended") / "run", max_steps=3)


class Evil:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("owned",))


def changed(path: Path, **changes: object) -> None:
    """Write a checkpoint anew, with other entries, or without those that are None."""
    held = torch.load(path, weights_only=True) | changes
    torch.save({name: value for name, value in held.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("name", "damage"),
    {
        "empty": ("last.ckpt", lambda path: path.write_bytes(b"")),
        "cut": ("last.ckpt", lambda path: path.write_bytes(path.read_bytes()[:9000])),
        "flipped": ("last.ckpt", lambda path: path.write_bytes(path.read_bytes()[:999] + b"?" * 99)),
        "pickle": ("last.ckpt", lambda path: path.write_bytes(pickle.dumps(Evil()))),
        "pickle in it": ("last.ckpt", lambda path: changed(path, callbacks=Evil())),
        "a list": ("last.ckpt", lambda path: torch.save([1], path)),
        "a folder": ("last.ckpt", lambda path: (path.unlink(), path.mkdir())),
        **{f"no {k}": ("last.ckpt", partial(changed, **{k: None})) for k in HELD},
        **{f"other {k}": ("last.ckpt", partial(changed, **{k: 1.5})) for k in HELD},
        "bytes": ("metrics.csv", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        "no steps": ("metrics.csv", lambda path: path.write_text("a,b\n1,2\n")),
        "torn": ("metrics.csv", lambda path: path.write_text(path.read_text() + "1,x")),
        "torn json": ("run.json", lambda path: path.write_text(path.read_text()[:40])),
        "no object": ("run.json", lambda path: path.write_text("[1]")),
        "no number": ("run.json", lambda path: path.write_text('{"streams": "two"}')),
        "negative": ("run.json", lambda path: path.write_text('{"streams": -2}')),
        "deep": ("run.json", lambda path: path.write_text("[" * 100_000)),
    }.values(),
)
def test_a_damaged_run_is_named_and_left(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage
) -> None:
    """Resuming from a folder with a broken file says which in one line, runs nothing in it and changes nothing."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(ended, tmp_path / "run")
    damage(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as refusal:
        run(folder, max_steps=5, resume=True)
    assert str(refusal.value).startswith(f"{folder / name}: it is damaged, and the run cannot go on (")
    assert "\n" not in str(refusal.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": partial(SMALL, dim=32)}, r"policy\.\S+: \[.*32.*\], in the file \[.*16.*\]"),
        ({"policy": partial(SMALL, num_layers=2)}, r"policy\.\S+: \[.*\], in the file none"),
        ({"algorithm": PPO(2)}, r"algorithm\.critic\.\S+: \[.*\], in the file none"),
        ({"algorithm": Reinforce()}, r"algorithm\._extra_state: int, in the file none"),
    ],
)
def test_a_run_of_another_make_is_refused(ended: Path, tmp_path: Path, changes: dict, words: str) -> None:
    """A checkpoint of another architecture or algorithm is told by the first weight that differs."""
    folder = shutil.copytree(ended, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=rf"last\.ckpt: it is of another policy or algorithm \({words}\)$"):
        run(folder, max_steps=5, resume=True, **changes)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_elsewhere(ended: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A run folder that was moved goes on as the run itself does, and nothing is said of it."""
    folder = shutil.copytree(ended, tmp_path / "moved")
    run(folder, max_steps=5, resume=True)
    assert load_policy(folder / "policy").card["training"]["steps"] == 5
    assert not [each for each in recwarn if "dirpath" in str(each.message)]


def test_files_of_no_run_are_not_replaced(tmp_path: Path) -> None:
    """A folder with a config of the user's own, or a policy, is refused and left; that of a run is not."""
    for name in ("config.yaml", "policy"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(ArgumentError, match=rf"^output: .*{name} is of no run, and would be replaced; name"):
            run(folder, config={}, max_steps=1)
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]
    folder = run(tmp_path / "run", config={}, max_steps=1)
    (folder / "last.ckpt").unlink()  # as if it had been killed before the first
    run(folder, config={}, max_steps=1)


def test_init_alone_takes_the_cards_architecture(ended: Path, tmp_path: Path) -> None:
    """Without a policy, one of the class and arguments of the card is trained, from its weights."""
    still = {"max_steps": 1, "optimiser": Optimiser(lr=1e-30, weight_decay=0.0)}
    folder = run(tmp_path / "one", policy=None, init=str(ended / "policy"), **still)
    card = load_policy(folder / "policy").card["policy"]
    assert (card["class"], card["arguments"]["dim"], card["arguments"]["num_layers"]) == ("AttentionPolicy", 16, 1)
    one, two = weights(ended), weights(folder)
    assert all(torch.allclose(one[key], two[key]) for key in one)
    folder = run(tmp_path / "two", policy=None, init="tsp-poppy", algorithm=Poppy(), **still)
    assert load_policy(folder / "policy").card["policy"]["class"] == "Population"
    with pytest.raises(CheckpointError, match=r"^init: cvrp-attention reads other features than tsp shows$"):
        run(tmp_path / "three", policy=None, init="cvrp-attention")
    with pytest.raises(CheckpointError, match=r"^AttentionPolicy cannot begin from AttentionPolicy "):
        run(tmp_path / "four", init="tsp-attention")


def test_validation_without_a_reference(tmp_path: Path) -> None:
    """Where no reference is asked for, or it cannot take the problem, which is said, the mean objective is logged."""
    settings = ValidationSettings(sizes=[6, 7], instances=4, folder=str(tmp_path / "refs"), reference=None)
    folder = run(tmp_path / "none", max_steps=3, validation=settings)
    found = load_policy(folder / "policy").card["validation"]
    means = [found[f"validation_objective_{size}"] for size in (6, 7)]
    assert found["validation_objective"] == pytest.approx(sum(means) / 2)
    env = make("tsp", num_nodes=6)
    solver = make_solver("multistart", load_policy(folder / "policy").policy)
    solutions = solver(env, env.seeded(4, 4321), None, torch.Generator().manual_seed(0))
    assert means[0] == pytest.approx(sum(each.objective for each in solutions) / 4, rel=1e-5)
    assert "gap" not in found
    with pytest.warns(NcogymWarning, match=r"^validation\.reference: hgs cannot take tsp; .*; the mean objective is"):
        folder = run(tmp_path / "other", max_steps=3, validation=replace(settings, reference="hgs"))
    assert load_policy(folder / "policy").card["validation"]["validation_objective"] == found["validation_objective"]
    assert not (tmp_path / "refs").exists()


def test_seconds_end_a_run_as_steps_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its seconds a run has weights and a checkpoint; labelling counts, and what it made is kept."""
    looks = itertools.count(100)
    with monkeypatch.context() as patched:
        patched.setattr("time.monotonic", lambda: next(looks))  # a second a look, however busy the machine is
        folder = run(tmp_path / "timed", max_steps=10**9, max_seconds=20)
    card = json.loads((folder / "policy" / "card.json").read_text())
    assert 0 < card["training"]["steps"] < 10**6
    assert (folder / "last.ckpt").exists()
    labels = Labels(solver="two-opt", chunks=2, chunk_size=50, folder=str(tmp_path / "labels"))
    with pytest.raises(
        ArgumentError, match=r"^max_seconds: 0.001 is not allowed; the labels, which are kept, took all"
    ):
        run(tmp_path / "late", algorithm=Imitation(), labels=labels, max_steps=10**9, max_seconds=1e-3)
    assert len(list((tmp_path / "labels").rglob("*.safetensors"))) == 2
    with pytest.raises(ArgumentError, match=r"^max_seconds: 0 is not allowed; it must be above 0 and"):
        run(tmp_path / "none", max_seconds=0)


def test_schedule() -> None:
    """The rate rises over the warm-up, stays, and falls to zero over the last share of the steps."""
    optimiser = Optimiser(lr=1.0, warmup_steps=4, anneal=0.5)
    factors = [optimiser.factor(step, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[10] == 1.0
    assert factors[15] == pytest.approx(0.5)
    assert factors[20] == 0.0
