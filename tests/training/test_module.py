"""The training module: what an algorithm with parameters and one with epochs get out of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from ncogym.algorithms import POMO, PPO, Reinforce
from ncogym.algorithms.base import Algorithm
from ncogym.envs import make
from ncogym.errors import ArgumentError, CheckpointError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, GraphPolicy
from ncogym.policies.base import Policy
from ncogym.rollout import Work
from ncogym.training.data import Generated
from ncogym.training.module import Optimiser, TrainingModule

SMALL = partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)
ENVS = {
    "tsp": make("tsp", num_nodes=10),
    "knapsack": make("knapsack", num_items=10),
    "jssp": make("jssp", num_jobs=3, num_machines=2),
}


class Steps:
    """A module and its optimiser, step by step without a trainer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, env, algorithm: Algorithm, policy=SMALL, **changes) -> None:
        torch.manual_seed(0)
        source = Generated(env, env.size, env.size, changes.pop("nodes_per_batch", 60))
        optimiser = changes.pop("optimiser", Optimiser(lr=1e-2))
        self.module = TrainingModule(policy(env.feature_dims), algorithm, source, optimiser, 100, 100, 0, **changes)
        self.module._fabric = None
        self.adam = self.module.configure_optimizers()["optimizer"]
        self.patch = monkeypatch

    def begin(self, *arguments, **settings) -> Work:
        """Begin the work of a step, for tests to look at."""
        self.work = Work(*arguments, **settings)
        return self.work

    def take(self, step: int) -> float:
        """Take a step, and return its objective."""
        self.patch.setattr(TrainingModule, "global_step", step)
        self.patch.setattr("ncogym.training.module.Work", self.begin)
        loss = self.module.training_step(None, step)
        self.adam.zero_grad()
        loss.backward()
        self.module.configure_gradient_clipping(self.adam)
        self.adam.step()
        return self.module.outcome["objective"].item()


@pytest.mark.parametrize("algorithm", [partial(PPO, 8), partial(PPO, 0), partial(Reinforce, "critic", rollouts=8)])
@pytest.mark.parametrize("problem", ["tsp", "knapsack"])
def test_it_learns(monkeypatch: pytest.MonkeyPatch, problem: str, algorithm) -> None:
    """A few steps make a policy's samples better, whether the objective is minimised or maximised."""
    env = ENVS[problem]
    steps = Steps(monkeypatch, env, algorithm(), nodes_per_batch=320)
    means = [steps.take(step) for step in range(42)]
    gain = sum(means[-6:]) - sum(means[:6])
    assert (gain if env.sense == "max" else -gain) > 0.02 * sum(means[:6])


def test_a_critic_explains_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some steps it tells new instances apart: its squared error is well below that of their mean."""
    steps = Steps(
        monkeypatch,
        ENVS["knapsack"],
        Reinforce("critic", rollouts=4),
        nodes_per_batch=640,
        optimiser=Optimiser(lr=2e-3),
    )
    seen, rewards, critic = [], [], steps.module.algorithm.critic
    critic.register_forward_hook(lambda _, __, value: seen.append(critic.mean + critic.deviation * value.detach()))
    for step in range(60):
        steps.take(step)
        rewards.append(steps.work.rollouts.reward.mean(1))
    reward, baseline = (torch.stack(each[-10:]) for each in (rewards, seen))
    assert (reward - baseline).square().mean() < 0.8 * (reward - reward.mean()).square().mean()


@pytest.mark.parametrize("algorithm", [partial(PPO, 2), partial(Reinforce, "critic")], ids=["ppo", "critic"])
@pytest.mark.parametrize("problem", ENVS)
def test_both_are_trained(monkeypatch: pytest.MonkeyPatch, problem: str, algorithm) -> None:
    """Within two steps every weight of the value head moves, and the policy's do."""
    policy = partial(GraphPolicy, dim=16, num_layers=1, num_heads=2) if problem == "jssp" else SMALL
    steps = Steps(monkeypatch, ENVS[problem], algorithm(), policy, optimiser=Optimiser(lr=1e-2, weight_decay=0.0))
    before = {name: value.clone() for name, value in steps.module.named_parameters()}
    for step in range(2):
        steps.take(step)
    moved = {name: not torch.equal(value, before[name]) for name, value in steps.module.named_parameters()}
    heads = [name for name in moved if name.startswith("algorithm.")]
    assert len(heads) == 5
    assert all(moved[name] for name in heads)
    assert any(moved[name] for name in moved if name.startswith("policy."))


def test_each_is_clipped_by_its_own_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the head's gradient, the policy's is left alone, and the other way round."""
    steps = Steps(monkeypatch, ENVS["tsp"], Reinforce("critic"), optimiser=Optimiser(gradient_clip=1.0))
    policy, head = (list(part.parameters()) for part in (steps.module.policy, steps.module.algorithm))
    for part, size in ((policy, 0.0), (head, 100.0)):
        for parameter in part:
            parameter.grad = torch.full_like(parameter, size)
    policy[0].grad.view(-1)[0] = 0.5
    steps.module.configure_gradient_clipping(steps.adam)
    assert policy[0].grad.norm().item() == pytest.approx(0.5)
    assert torch.cat([p.grad.flatten() for p in head]).norm().item() == pytest.approx(1.0, rel=1e-4)


def test_a_frozen_champion_is_not_optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser holds the policy's weights alone where the algorithm has none to train."""
    for algorithm in (Reinforce("rollout"), POMO()):
        steps = Steps(monkeypatch, ENVS["tsp"], algorithm)
        held = {id(p) for group in steps.adam.param_groups for p in group["params"]}
        assert held == {id(p) for p in steps.module.policy.parameters()}


def test_epochs_share_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts are drawn at every third step, from what that step draws, and looked at unchanged at the two others."""
    steps = Steps(monkeypatch, ENVS["tsp"], PPO(2, epochs=3))
    drawn, seen, statistics, counts, scores = [], [], [], [], []
    draw, score = steps.module.draw, Work.score_steps
    monkeypatch.setattr(steps.module, "draw", lambda step: drawn.append(step) or draw(step))
    monkeypatch.setattr(Work, "score_steps", lambda *asked: scores.append(found := score(*asked)) or found)
    for step in range(7):
        steps.take(step)
        seen.append({name: value.clone() for name, value in steps.work.kept.items()})
        statistics.append(steps.module.algorithm.critic.moments.clone())
        counts.append(steps.module.rollouts_in_step)
    assert drawn == [0, 3, 6]
    assert counts == [12, 0, 0, 12, 0, 0, 12]
    for step in range(1, 6):
        again = step % 3 != 0
        assert torch.equal(seen[step]["actions"], seen[step - 1]["actions"]) == again
        assert torch.equal(seen[step]["log_prob"], seen[step - 1]["log_prob"]) == again
        assert torch.equal(statistics[step], statistics[step - 1]) == again
        assert torch.equal(scores[step][0], seen[step]["log_prob"]) != again


def test_rollouts_of_other_epochs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that has none for the step at which it goes on is told in one line."""
    steps = Steps(monkeypatch, ENVS["tsp"], PPO(2, epochs=3))
    checkpoint: dict = {}
    steps.take(0)
    steps.module.on_save_checkpoint(checkpoint)
    assert [set(part) for part in checkpoint["rollouts"]] == [{"actions", "reward", "open", "log_prob", "value"}]
    steps.take(1)
    steps.take(2)
    steps.module.on_save_checkpoint(checkpoint)
    assert checkpoint["rollouts"] == []
    other = Steps(monkeypatch, ENVS["tsp"], PPO(2, epochs=2))
    other.module.on_load_checkpoint(checkpoint)
    with pytest.raises(
        CheckpointError, match="resume: the checkpoint has no rollouts of step 2; epochs must be as before"
    ):
        other.take(3)


def test_heads_are_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value head follows from the seed, and nothing is drawn from the global generator for it."""
    modules = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        policy = SMALL(ENVS["tsp"].feature_dims)
        drawn = torch.random.get_rng_state()
        assert not torch.equal(before, drawn)
        source = Generated(ENVS["tsp"], 10, 10, 60)
        modules.append(TrainingModule(policy, PPO(), source, Optimiser(), 10, 10, 7))
        assert torch.equal(torch.random.get_rng_state(), drawn)
    for one, two in zip(*(module.algorithm.parameters() for module in modules), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("algorithm", [PPO(), Reinforce("critic")], ids=["ppo", "critic"])
def test_a_policy_without_words_is_refused(algorithm: Algorithm) -> None:
    """Where a policy offers a value head nothing to read, training with one does not begin."""

    class Silent(Policy):
        """Has no words for a value head."""

        encode = logits = arguments = lambda self: None

    with pytest.raises(UnsupportedFeatures, match="Silent offers a value head nothing to read"):
        TrainingModule(Silent(), algorithm, Generated(ENVS["tsp"], 10, 10, 60), Optimiser(), 10, 10, 0)


# ---------------------------------------------------------------------- in the hands of a Trainer


def trained(folder: Path, data: object = None, algorithm: Algorithm | None = None, **told: object) -> TrainingModule:
    """Fit a module by a Trainer that was told more than it needs to know."""
    torch.manual_seed(0)
    source = Generated(ENVS["tsp"], 10, 10, 60)
    policy = SMALL(ENVS["tsp"].feature_dims)
    module = TrainingModule(policy, algorithm or POMO(), source, Optimiser(lr=1e-2, betas=(0.8, 0.9)), 3, 3, 7)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(**{"max_steps": 3, "default_root_dir": folder, "enable_checkpointing": False, **quiet, **told})
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


class Data(pl.LightningDataModule):
    """Instances of another source."""

    def train_dataloader(self) -> list[int]:
        return [1, 2, 3]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: 2 is not allowed .*; take a larger nodes_per_batch"),
        ({"gradient_clip_val": 0.5}, "gradient_clip_val: 0.5 is not allowed .*; take Optimiser.gradient_clip"),
        ({"overfit_batches": 1}, "overfit_batches: 1 is not allowed .*; take a source that repeats its instances"),
        ({"data": [1, 2, 3]}, "train_dataloaders: list is not allowed .*; take the module's source"),
        ({"data": Data()}, "train_dataloaders: Data is not allowed .*; take the module's source"),
        (
            {"callbacks": [pl.callbacks.GradientAccumulationScheduler({1: 3})], "max_epochs": 3, "max_steps": 9},
            "accumulate_grad_batches: 3 is not allowed",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_would_change_nothing_is_refused(tmp_path: Path, told: dict, words: str) -> None:
    """A Trainer's settings that the module cannot follow end the fit in one line, before a step is taken under them."""
    with pytest.raises(ArgumentError, match=words):
        trained(tmp_path, **told)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_makes_the_module_again(tmp_path: Path) -> None:
    """Its hyperparameters are plain values, and with policy, algorithm and source give the module that was saved."""
    module = trained(tmp_path, algorithm=Reinforce("critic"))
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert held == dict(module.hparams)
    assert (held["optimiser"]["lr"], held["max_steps"], held["seed"], held["streams"]) == (1e-2, 3, 7, 1)
    again = TrainingModule.load_from_checkpoint(
        tmp_path / "last.ckpt",
        policy=SMALL(ENVS["tsp"].feature_dims),
        algorithm=Reinforce("critic"),
        source=module.source,
        weights_only=True,
    )
    assert again.optimiser == module.optimiser
    assert (again.max_steps, again.steps_per_epoch, again.seed, again.acting) == (3, 3, 7, "auto")
    for one, two in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
