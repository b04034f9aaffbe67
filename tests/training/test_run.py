"""Training: it learns, resumes exactly, survives a signal, and refuses in words."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ncogym.algorithms import POMO, PPO, Imitation, Poppy, Reinforce
from ncogym.envs import make
from ncogym.errors import ArgumentError, CheckpointError
from ncogym.policies import AttentionPolicy, Population
from ncogym.policies.decoding import Greedy
from ncogym.pretrained import load_policy
from ncogym.rollout import act
from ncogym.sets import write_labelled
from ncogym.solver import MaxRollouts
from ncogym.solving import make_solver
from ncogym.study import label
from ncogym.training.callbacks import Interruptible
from ncogym.training.data import Batch
from ncogym.training.module import Optimiser, TrainingModule
from ncogym.training.run import Labels, ValidationSettings, train

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
    with pytest.raises(ArgumentError, match=r"^max_seconds: 0 is not allowed; it must be above 0$"):
        run(tmp_path / "none", max_seconds=0)


def test_schedule() -> None:
    """The rate rises over the warm-up, stays, and falls to zero over the last share of the steps."""
    optimiser = Optimiser(lr=1.0, warmup_steps=4, anneal=0.5)
    factors = [optimiser.factor(step, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[10] == 1.0
    assert factors[15] == pytest.approx(0.5)
    assert factors[20] == 0.0
