"""Poppy: the estimator by hand, what it is equal to, its rollouts and metrics, and the bandit of the paper."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from works import Given, Learning, loss_of

from ncogym.algorithms.base import Algorithm
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.poppy import Poppy
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, Population
from ncogym.rollout import Rollouts, Work

# two instances, two members, three starts: by member, then by start
REWARD = torch.tensor([[-3.0, -5.0, -4.0, -6.0, -2.0, -4.0], [-1.0, -1.0, -4.0, -9.0, -9.0, -9.0]])


def population(members: int) -> SimpleNamespace:
    """Stand for a policy with so many members."""
    return SimpleNamespace(everyone=torch.arange(members).unsqueeze(0))


def loss(algorithm: Algorithm, reward: Tensor, members: int, log_prob: Tensor) -> Tensor:
    """Return the loss of rollouts under so many members."""
    return loss_of(algorithm, reward, log_prob, policy=population(members))


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
    found = loss(Poppy(reward_baseline), REWARD, 2, log_prob)
    assert found.item() == pytest.approx(-(expected * log_prob).sum().item() / 6)
    found.backward()
    assert torch.equal(log_prob.grad == 0, expected == 0)
    assert torch.allclose(log_prob.grad, -expected / 6)


def test_the_first_of_those_that_tie_wins() -> None:
    """Where two members are equally good the first is trained, and the analytic baseline trains none."""
    log_prob = leaf(REWARD)
    loss(Poppy(), REWARD.new_tensor([[-1.0, -3.0, -1.0, -4.0]]), 2, one := leaf(REWARD[:1, :4])).backward()
    assert one.grad.flatten().tolist() == [-0.5, 0.5, 0.0, 0.0]
    loss(Poppy("analytic"), torch.full_like(REWARD, -2.0), 2, log_prob).backward()
    assert not log_prob.grad.any()


@pytest.mark.parametrize("normalise", [False, True])
def test_one_member_is_pomo(normalise: bool) -> None:
    """Loss and gradient are equal to the last bit."""
    one, other = leaf(REWARD), leaf(REWARD)
    pomo = POMO(normalise=normalise)
    losses = [loss(Poppy(normalise=normalise), REWARD, 1, one), loss(pomo, REWARD, 1, other)]
    for each in losses:
        each.backward()
    assert torch.equal(*losses)
    assert torch.equal(one.grad, other.grad)


def test_an_ensemble_is_pomo_of_each_member() -> None:
    """The mean of the members' own losses, with their own baselines."""
    log_prob = leaf(REWARD)
    own = [loss(POMO(), REWARD[:, part], 1, log_prob[:, part]) for part in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(loss(Poppy(objective="mean"), REWARD, 2, log_prob), sum(own) / 2)


SMALL = functools.partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)


def acted(env, poppy: Poppy, members: int, rng: torch.Generator) -> Rollouts:
    """Return the rollouts of a step of a small population."""
    return Learning(env, Population(env.feature_dims, members=members, base=SMALL), poppy, 3, rng).step()[0]


def test_starts_are_the_same_for_all_members(rng: torch.Generator) -> None:
    """They are repeated member by member, whether all are taken or some are drawn."""
    env = make("tsp", num_nodes=9)
    found = acted(env, Poppy(starts=4), 3, rng)
    drawn = found.actions[..., 0].unflatten(1, (3, 4))
    assert (drawn == drawn[:, :1]).all()
    assert all(len(set(row)) == 4 for row in drawn[:, 0].tolist())
    assert (found.forced, found.condition.tolist()) == (1, [[0, 1, 2]])
    every = acted(env, Poppy(objective="mean"), 2, rng)
    assert every.actions[..., 0].tolist() == [[*range(9), *range(9)]] * 3


def test_only_winners_carry(rng: torch.Generator) -> None:
    """Of an instance as many rollouts as there are starts may have a gradient, all where each member learns alone."""
    for poppy, carrying in ((Poppy(), 3), (Poppy(objective="mean"), 0)):
        work = Given(REWARD, leaf(REWARD), policy=population(2))
        poppy.step(work)
        assert work.carrying == carrying


def test_samples_have_no_starts(rng: torch.Generator) -> None:
    """Each member then begins where it likes, so many times."""
    found = acted(make("knapsack", num_items=9), Poppy("analytic", samples=5), 3, rng)
    assert (found.actions.shape[1], found.forced) == (15, 0)


def test_normalised_advantages_have_no_unit() -> None:
    """Rewards a thousand times larger give the same loss, whatever they are compared with."""
    for reward_baseline in ("pomo", "analytic", "members"):
        poppy = Poppy(reward_baseline, normalise=True)
        one, other = (loss(poppy, factor * REWARD, 2, leaf(REWARD)) for factor in (1, 1000))
        assert one.item() == pytest.approx(other.item())
        assert one.item() != pytest.approx(loss(Poppy(reward_baseline), REWARD, 2, leaf(REWARD)).item())


@pytest.mark.parametrize("objective", ["best", "mean"])
@pytest.mark.parametrize(
    ("env", "samples"), [(make("tsp", num_nodes=8), 0), (make("knapsack", num_items=8), 4)], ids=["min", "max"]
)
def test_a_population_learns(env, samples: int, objective: str, rng: torch.Generator) -> None:
    """A few steps make its best member better, and clones come apart, for their noise is their own."""
    torch.manual_seed(0)
    policy = Population(env.feature_dims, members=3, base=SMALL)
    learning = Learning(env, policy, Poppy(samples=samples, objective=objective), 16, rng)
    sign = -1 if env.sense == "min" else 1
    best = [sign * learning.step()[1]["best_of_members"].item() for _ in range(30)]
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
        (gradient,) = torch.autograd.grad(factor * loss(poppy, rows[0], members, rows[1]), logits)
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
    """A policy without members, a second best of one, and a mean of one start."""
    with pytest.raises(UnsupportedFeatures, match="SimpleNamespace has no members"):
        Poppy().attach(SimpleNamespace(everyone=None))
    with pytest.raises(ArgumentError, match="'analytic' is not allowed for 1 member"):
        Poppy("analytic").attach(population(1))
    heavy = make("knapsack", num_items=4)
    instances = heavy.generate(1, rng)
    instances["weight"] = torch.full_like(instances["weight"], math.inf)
    with pytest.raises(ArgumentError, match="1 start is not allowed"):
        Poppy().step(Work.alone(population(2), heavy, instances, rng))
