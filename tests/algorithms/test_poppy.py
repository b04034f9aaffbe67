"""Poppy: the estimator by hand, what it is equal to, its rollouts and metrics, and the bandit of the paper."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.poppy import Poppy
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, Population
from ncogym.policies.decoding import Sample
from ncogym.rollout import Trajectories, act, log_probs

# two instances, two members, three starts: by member, then by start
REWARD = torch.tensor([[-3.0, -5.0, -4.0, -6.0, -2.0, -4.0], [-1.0, -1.0, -4.0, -9.0, -9.0, -9.0]])


def record(reward: Tensor, members: int, log_prob: Tensor | None = None) -> Trajectories:
    """Return rollouts under so many members."""
    actions = torch.zeros(*reward.shape, 3, dtype=torch.int64)
    condition = torch.arange(members).unsqueeze(0)
    return Trajectories(TensorDict({}, [reward.shape[0]]), actions, reward, 1, log_prob=log_prob, condition=condition)


def population(members: int) -> SimpleNamespace:
    """Stand for a policy with so many members."""
    return SimpleNamespace(everyone=torch.arange(members).unsqueeze(0))


def leaf(like: Tensor) -> Tensor:
    """Return log-probabilities whose gradient will be known."""
    return torch.linspace(-3, -1, like.numel()).view_as(like).requires_grad_()


@pytest.mark.parametrize(
    ("reward_baseline", "advantages"),
    [
        # each winner less the mean over its own starts, the second best from its start, the mean from its start
        ("pomo", [[1.0, 0, 0, 0, 2.0, 0], [1.0, 1.0, -2.0, 0, 0, 0]]),
        ("analytic", [[3.0, 0, 0, 0, 3.0, 0], [8.0, 8.0, 5.0, 0, 0, 0]]),
        ("members", [[1.5, 0, 0, 0, 1.5, 0], [4.0, 4.0, 2.5, 0, 0, 0]]),
    ],
)
def test_only_winners_have_a_gradient(reward_baseline: str, advantages: list) -> None:
    """The winner of each start has its advantage over the number of starts of all instances; the others have none."""
    log_prob, expected = leaf(REWARD), torch.tensor(advantages)
    loss = Poppy(reward_baseline).loss(record(REWARD, 2, log_prob))
    assert loss.item() == pytest.approx(-(expected * log_prob).sum().item() / 6)
    loss.backward()
    assert torch.equal(log_prob.grad == 0, expected == 0)
    assert torch.allclose(log_prob.grad, -expected / 6)


def test_the_first_of_those_that_tie_wins() -> None:
    """Where two members are equally good the first is trained, and the analytic baseline trains none."""
    log_prob = leaf(REWARD)
    Poppy().loss(record(REWARD.new_tensor([[-1.0, -3.0, -1.0, -4.0]]), 2, one := leaf(REWARD[:1, :4]))).backward()
    assert one.grad.flatten().tolist() == [-0.5, 0.5, 0.0, 0.0]
    Poppy("analytic").loss(record(torch.full_like(REWARD, -2.0), 2, log_prob)).backward()
    assert not log_prob.grad.any()


@pytest.mark.parametrize("normalise", [False, True])
def test_one_member_is_pomo(normalise: bool) -> None:
    """Loss and gradient are equal to the last bit."""
    one, other = leaf(REWARD), leaf(REWARD)
    pomo = POMO(normalise=normalise)
    losses = [Poppy(normalise=normalise).loss(record(REWARD, 1, one)), pomo.loss(record(REWARD, 1, other))]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    assert torch.equal(one.grad, other.grad)


def test_an_ensemble_is_pomo_of_each_member() -> None:
    """The mean of the members' own losses, with their own baselines."""
    log_prob = leaf(REWARD)
    own = [POMO().loss(record(REWARD[:, part], 1, log_prob[:, part])) for part in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(Poppy(objective="mean").loss(record(REWARD, 2, log_prob)), sum(own) / 2)


def test_starts_are_the_same_for_all_members(rng: torch.Generator) -> None:
    """They are repeated member by member, whether all are taken or some are drawn."""
    env = make("tsp", num_nodes=9)
    instances = env.generate(3, rng)
    poppy = Poppy(starts=4)
    poppy.attach(population(3))
    drawn = poppy.first_actions(env, instances, rng).unflatten(1, (3, 4))
    assert (drawn == drawn[:, :1]).all()
    assert all(len(set(row)) == 4 for row in drawn[:, 0].tolist())
    assert (poppy.rollouts, poppy.carrying, poppy.forced) == (12, 4, 1)
    every = Poppy(objective="mean")
    every.attach(population(2))
    assert every.first_actions(env, instances, rng).tolist() == [[*range(9), *range(9)]] * 3
    assert (every.rollouts, every.carrying, every.forced) == (18, 0, 1)
    assert torch.equal(every.condition(population(2), rng), torch.tensor([[0, 1]]))


def test_samples_have_no_starts(rng: torch.Generator) -> None:
    """Each member then begins where it likes, so many times."""
    env = make("knapsack", num_items=9)
    poppy = Poppy("analytic", samples=5)
    poppy.attach(population(3))
    assert poppy.first_actions(env, env.generate(2, rng), rng) is None
    assert (poppy.rollouts, poppy.carrying, poppy.forced) == (15, 5, 0)


def test_normalised_advantages_have_no_unit() -> None:
    """Rewards a thousand times larger give the same loss, whatever they are compared with."""
    for reward_baseline in ("pomo", "analytic", "members"):
        poppy = Poppy(reward_baseline, normalise=True)
        one, other = (poppy.loss(record(factor * REWARD, 2, leaf(REWARD))) for factor in (1, 1000))
        assert one.item() == pytest.approx(other.item())
        assert one.item() != pytest.approx(Poppy(reward_baseline).loss(record(REWARD, 2, leaf(REWARD))).item())


@pytest.mark.parametrize("objective", ["best", "mean"])
@pytest.mark.parametrize(
    ("env", "samples"), [(make("tsp", num_nodes=8), 0), (make("knapsack", num_items=8), 4)], ids=["min", "max"]
)
def test_a_population_learns(env, samples: int, objective: str, rng: torch.Generator) -> None:
    """A few steps make its best member better, and clones come apart, for their noise is their own."""
    torch.manual_seed(0)
    small = functools.partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)
    policy = Population(env.feature_dims, members=3, base=small)
    poppy = Poppy(samples=samples, objective=objective)
    poppy.attach(policy)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    best = []
    for _ in range(30):
        instances = env.generate(16, rng)
        encoded = policy.encode(env.instance_features(instances))
        condition, starts = poppy.condition(policy, rng), poppy.first_actions(env, instances, rng)
        found = act(
            env,
            policy,
            encoded,
            instances,
            Sample(),
            rng,
            rollouts=poppy.rollouts,
            first_actions=starts,
            condition=condition,
            log_prob=True,
        )
        scored = log_probs(env, policy, encoded, found, carrying=poppy.carrying)
        optimiser.zero_grad()
        poppy.loss(replace(found, log_prob=scored)).backward()
        optimiser.step()
        best.append(poppy.metrics(found)["best_of_members"].item() * (-1 if env.sense == "min" else 1))
    assert sum(best[-5:]) > sum(best[:5]) + 0.02 * abs(sum(best[:5]))
    one, other = (policy.member(number).state_dict() for number in range(2))
    assert not torch.equal(one["combine.weight"], other["combine.weight"])


SEEDS, BATCH, STEPS = 20, 64, 3000
UP, LEFT, RIGHT = range(3)


def bandit(poppy: Poppy, members: int, starts: int, factor: float) -> Tensor:
    """Train members on three arms: up pays 2, left or right 3, which of them by a toss that is hidden.

    The seeds lie side by side as instances of one batch, of which each has its own logits, so that their gradients do
    not meet.

    Args:
        poppy: the loss.
        members: of the population.
        starts: pulls of a member that are compared with their mean; a batch has `BATCH` pulls in all.
        factor: by how much the loss of all is smaller than the sum of the losses of each seed.

    Returns:
        ``[seeds, members, arms]``, the probabilities in the end.
    """
    rng = torch.Generator().manual_seed(0)
    logits = torch.zeros(SEEDS, members, 3, requires_grad=True)
    pulls = BATCH // starts
    for _ in range(STEPS):
        log_p = logits.log_softmax(-1)
        drawn = log_p.detach().exp().flatten(0, 1).multinomial(BATCH, replacement=True, generator=rng)
        arm = drawn.view(SEEDS, members, pulls, starts)
        lucky = torch.randint(LEFT, RIGHT + 1, (SEEDS, 1, pulls, starts), generator=rng)
        reward = torch.where(arm == UP, 2.0, 3.0 * (arm == lucky))
        log_prob = log_p.gather(2, arm.flatten(2)).view_as(arm)
        rows = [each.transpose(1, 2).reshape(SEEDS * pulls, members * starts) for each in (reward, log_prob)]
        (gradient,) = torch.autograd.grad(factor * poppy.loss(record(rows[0], members, rows[1])), logits)
        with torch.no_grad():
            logits -= 0.1 * gradient
    return logits.detach().softmax(-1)


def test_two_members_share_the_bandit() -> None:
    """Trained where they win, they take one side each in every seed, and the best of both is always paid 3."""
    sides = bandit(Poppy("analytic"), members=2, starts=1, factor=SEEDS)
    most = sides.max(-1)
    assert (most.values > 0.9).all()
    assert (most.indices.sort(-1).values == torch.tensor([LEFT, RIGHT])).all()


@pytest.mark.parametrize("members", [1, 2])
def test_policies_that_learn_alone_do_not(members: int) -> None:
    """One policy, or each of an ensemble, takes what pays most on average, which is up."""
    objective = "best" if members == 1 else "mean"
    found = bandit(Poppy("pomo", objective=objective), members, starts=BATCH, factor=SEEDS * members)
    assert (found[..., UP] > 0.9).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"reward_baseline": "best"}, "reward_baseline: 'best'"),
        ({"starts": 1}, "starts: 1"),
        ({"starts": -1, "reward_baseline": "analytic"}, "starts: -1"),
        ({"samples": 1}, "samples: 1"),
        ({"starts": 2, "samples": 2}, "starts: 2 is not allowed with samples, 2"),
        ({"objective": "worst"}, "objective: 'worst'"),
        ({"objective": "mean", "reward_baseline": "analytic"}, "'analytic'"),
    ],
)
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value, in a line."""
    with pytest.raises(ArgumentError, match=word) as refused:
        Poppy(**arguments)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_compared_is_refused(rng: torch.Generator) -> None:
    """A policy without members, a second best of one, a mean of one start, and rollouts without condition or score."""
    with pytest.raises(UnsupportedFeatures, match="SimpleNamespace has no members"):
        Poppy().attach(SimpleNamespace(everyone=None))
    with pytest.raises(ArgumentError, match="'analytic' is not allowed for 1 member"):
        Poppy("analytic").attach(population(1))
    heavy = make("knapsack", num_items=4)
    instances = heavy.generate(1, rng)
    instances["weight"] = torch.full_like(instances["weight"], math.inf)
    with pytest.raises(ArgumentError, match="1 start is not allowed"):
        Poppy().first_actions(heavy, instances, rng)
    with pytest.raises(ArgumentError, match="log_prob"):
        Poppy().loss(record(REWARD, 2))
    with pytest.raises(ArgumentError, match="condition"):
        Poppy().loss(Trajectories(TensorDict({}, [2]), torch.zeros(2, 6, 3, dtype=torch.int64), REWARD))
