"""TorchRL's own collector and PPO train on the environments as they are."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import (
    ActionMask,
    CatTensors,
    Compose,
    DoubleToFloat,
    FlattenObservation,
    ObservationNorm,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    UnaryTransform,
    check_env_specs,
)
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from ncogym.envs import PROBLEMS, make
from ncogym.errors import ArgumentError

SIZES = {
    "jssp": {"num_jobs": 3, "num_machines": 2},
    "cvrp": {"num_customers": 6},
    "vrptw": {"num_customers": 6},
    "knapsack": {"num_items": 6},
    **{name: {"num_nodes": 6, "distribution": "er:0.4"} for name in ("mis", "mvc", "clique", "mds", "maxcut")},
}
BATCH, STEPS, ROUNDS = 8, 20, 3


def small(name, batch_size=()):
    """Return a problem in a small size."""
    return make(name, **SIZES.get(name, {"num_nodes": 5}), batch_size=batch_size)


class MLP(nn.Module):
    """Reads all numbers of an observation side by side, whatever their shapes."""

    def __init__(self, ranks, width, out):
        super().__init__()
        self.ranks = ranks
        self.net = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, out))

    def forward(self, *values):
        pairs = zip(values, self.ranks, strict=True)
        flat = [v.float().flatten(v.ndim - rank) if rank else v.float().unsqueeze(-1) for v, rank in pairs]
        return self.net(torch.cat(flat, dim=-1))


def actor_and_critic(env):
    """Return a small masked actor and a critic that fit an environment's specs."""
    spec = env.observation_spec
    keys = [key for key in spec.keys() if key != "action_mask" and spec[key].shape.numel()]
    ranks, width = [spec[key].ndim - 1 for key in keys], sum(spec[key].shape[1:].numel() for key in keys)
    actor = ProbabilisticActor(
        TensorDictModule(MLP(ranks, width, env.action_spec.n), in_keys=keys, out_keys=["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
        spec=env.action_spec,
    )
    return actor, ValueOperator(MLP(ranks, width, 1), in_keys=keys)


@pytest.fixture(params=PROBLEMS)
def env(request):
    """Each problem in a small size, eight instances at a time."""
    env = small(request.param, (BATCH,))
    env.set_seed(0)
    return env


@pytest.fixture
def collector(env):
    """TorchRL's collector with an untrained actor, and the critic beside it."""
    torch.manual_seed(0)
    actor, critic = actor_and_critic(env)
    total = BATCH * STEPS * ROUNDS
    frames = {"frames_per_batch": BATCH * STEPS, "total_frames": total, "auto_register_policy_transforms": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collector = Collector(env, actor, **frames)
    yield collector, actor, critic
    collector.shutdown()


def test_ppo_trains(collector):
    """A few updates of clipped PPO have finite losses and gradients, and move every weight of actor and critic."""
    collector, actor, critic = collector
    loss, advantage = ClipPPOLoss(actor, critic), GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimiser = torch.optim.Adam(loss.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    rounds = 0
    for data in collector:
        advantage(data)
        losses = loss(data.reshape(-1))
        total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
        assert total.isfinite()
        optimiser.zero_grad()
        total.backward()
        assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())
        optimiser.step()
        rounds += 1
    assert rounds == ROUNDS
    assert len(before) == 8
    assert all(not torch.equal(old, new) for old, new in zip(before, loss.parameters(), strict=True))


def test_the_collector_plays_whole_episodes(env, collector):
    """Actions are allowed, rows go on with new instances once they are done, and rewards sum to the objective."""
    collector, _, _ = collector
    data = next(iter(collector))
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    done = data["next", "done"][..., 0]
    shown = [data[key].reshape(BATCH, -1, data[key][0, 0].numel()) for key in env.instance_keys if key in data.keys()]
    changed = torch.stack([(each[:, 1:] != each[:, :-1]).any(-1) for each in shown]).any(0)
    assert torch.equal(changed, done[:, :-1])
    assert done.sum() >= 2 * BATCH
    for row in range(BATCH):
        end = int(done[row].long().argmax()) + 1
        played = data[row, :end]
        instance = played[:1].select(*env.instance_keys, strict=False)
        objective = env.objective(instance, played["action"][None, None]).item()
        total = played["next", "reward"].sum().item()
        assert total == pytest.approx(-objective if env.sense == "min" else objective, rel=1e-5)
        assert env.violations(instance, played["action"][None, None]) == []


def test_specs_hold_in_a_transformed_environment(env):
    """The specs hold behind TorchRL's transforms, too."""
    check_env_specs(TransformedEnv(env, Compose(RewardSum(), StepCounter())))


@pytest.mark.parametrize("batch_size", [(), (4,)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_random_actions_behind_an_action_mask_are_allowed(name, batch_size):
    """Behind TorchRL's ActionMask the specs hold, and rows that end at several times are acted in soundly."""
    env = TransformedEnv(small(name, batch_size), ActionMask())
    env.set_seed(0)
    check_env_specs(env, break_when_any_done="both")
    data = env.rollout(25, break_when_any_done=False)
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    allowed = env.all_actions(data[..., 3].exclude("next", "action"))["action"] if not batch_size else None
    assert allowed is None or allowed.tolist() == data[3]["action_mask"].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "transform", "words"),
    [
        ("tsp", ObservationNorm(loc=0.5, scale=2.0, in_keys=["locs"]), "locs: row 0 is not what reset and step gave"),
        ("knapsack", ObservationNorm(loc=0.1, scale=2.0, in_keys=["left"]), "left: row 0 is not what reset"),
        ("cvrp", ObservationNorm(loc=0.1, scale=2.0, in_keys=["demand"]), "demand: row 0 is not what reset"),
        ("jssp", ObservationNorm(loc=0.5, scale=2.0, in_keys=["duration"]), "duration: torch.float32 of shape"),
        (
            "jssp",
            UnaryTransform(["duration_at"], ["duration_at"], fn=lambda each: each + 1),
            "duration_at: row . is not what reset and step",
        ),
        ("tsp", FlattenObservation(-2, -1, in_keys=["locs"]), r"locs: torch.float32 of shape \(4, 10\)"),
        ("tsp", CatTensors(["locs"], out_key="seen"), "an instance needs its locs"),
    ],
)
def test_transforms_that_would_change_the_problem_are_refused(name, transform, words):
    """What a step reads must stay what it was; the error names the key and says where to write."""
    with pytest.raises(ArgumentError, match=words + r".*\(out_keys\)"):
        TransformedEnv(small(name, (4,)), transform).rollout(4)


def test_transforms_that_write_elsewhere_change_nothing():
    """Numbers under another key, or in another precision, leave the problem what it is."""
    env = small("knapsack", (4,))
    plain, kept = (TransformedEnv(env, each) for each in (RewardSum(), Compose(DoubleToFloat(), RewardSum())))
    norm = ObservationNorm(loc=0.5, scale=2.0, in_keys=["weight"], out_keys=["normed"])
    runs = []
    for each in (plain, kept, TransformedEnv(env, norm)):
        each.set_seed(3)
        runs.append(each.rollout(4))
    for key in ("action", ("next", "reward")):
        assert torch.equal(runs[0][key], runs[1][key])
        assert torch.equal(runs[0][key], runs[2][key])
    assert not torch.equal(runs[2]["normed"], runs[2]["weight"])


def test_rows_of_a_serial_environment_differ():
    """Its unseeded rows have instances of their own, which torch's seed repeats."""
    runs = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(1)
            runs.append(SerialEnv(3, lambda: small("tsp")).reset()["locs"])
    assert len({row[0, 0].item() for row in runs[0]}) == 3
    assert torch.equal(*runs)


def test_random_actions_of_a_serial_environment_need_its_mask():
    """Drawn without a look at the mask they are refused; behind an ActionMask of its own they are allowed."""
    env = SerialEnv(3, lambda: small("tsp"))
    with pytest.raises(ArgumentError, match="is not allowed"):
        env.rollout(5)
    data = TransformedEnv(env, ActionMask()).rollout(12, break_when_any_done=False)
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()


@pytest.mark.slow
def test_rows_of_a_parallel_environment_differ():
    """Workers draw instances of their own, too."""
    env = ParallelEnv(2, functools.partial(make, "tsp", num_nodes=5))
    try:
        first, second = env.reset()["locs"]
    finally:
        env.close()
    assert not torch.equal(first, second)
