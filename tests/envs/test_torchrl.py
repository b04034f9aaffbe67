"""TorchRL's own collector and PPO train on the environments as they are."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import Compose, RewardSum, StepCounter, TransformedEnv, check_env_specs
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from ncogym.envs import PROBLEMS, make

SIZES = {"jssp": {"num_jobs": 3, "num_machines": 2}, "cvrp": {"num_customers": 6}, "knapsack": {"num_items": 6}}
BATCH, STEPS, ROUNDS = 8, 20, 3


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
    env = make(request.param, **SIZES.get(request.param, {"num_nodes": 5}), batch_size=(BATCH,))
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
    data, key = next(iter(collector)), env._instance_keys[0]
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    done = data["next", "done"][..., 0]
    changed = (data[key][:, 1:] != data[key][:, :-1]).flatten(2).any(-1)
    assert torch.equal(changed, done[:, :-1])
    assert done.sum() >= 2 * BATCH
    for row in range(BATCH):
        end = int(done[row].long().argmax()) + 1
        played = data[row, :end]
        instance = played[:1].select(*env._instance_keys, strict=False)
        objective = env.objective(instance, played["action"][None, None]).item()
        total = played["next", "reward"].sum().item()
        assert total == pytest.approx(-objective if env.sense == "min" else objective, rel=1e-5)
        assert env.violations(instance, played["action"][None, None]) == []


def test_specs_hold_in_a_transformed_environment(env):
    """The specs hold behind TorchRL's transforms, too."""
    check_env_specs(TransformedEnv(env, Compose(RewardSum(), StepCounter())))
