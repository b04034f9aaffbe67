"""PPO: advantages and loss by hand, its first gradient, where that stops, and what must not count."""

from __future__ import annotations

import math

import pytest
import torch

from ncogym.algorithms.ppo import PPO, Memory, advantages
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Work

REWARD = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 1.0, 0.0]]])
OPEN = torch.tensor([[[True, True, True], [True, True, False]]])
VALUE = torch.tensor([[[5.0, 3.0, 2.0], [1.0, 2.0, 7.0]]])  # the last is of padding
TOLD = torch.tensor([[[-0.5, -1.0, -2.0], [-1.5, -0.2, 0.0]]])


def algorithm(mean: float = 0.0, deviation: float = 1.0, **arguments) -> PPO:
    """Return PPO with a critic whose running statistics are given."""
    ppo = PPO(**{"normalise": False, **arguments})
    ppo.attach(AttentionPolicy(make("tsp", num_nodes=4).feature_dims, dim=8, num_layers=0, num_heads=2, feedforward=8))
    ppo.critic.moments.copy_(torch.tensor([mean, mean**2 + deviation**2]))
    return ppo


def loss(ppo: PPO, /, *scored: torch.Tensor, **changes) -> torch.Tensor:
    """Return the loss of the two rollouts of an instance above, scored as given, with changes in their memory."""
    kept = Memory(REWARD, OPEN, TOLD, VALUE)._replace(**changes)
    left = 1 - torch.arange(scored[0].shape[-1]) / 3
    return ppo.loss(ppo.critic, kept, *scored, left)


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_advantages_by_hand(trace: float) -> None:
    """Differences in value and reward, of a step and traced back, up to the end of each rollout."""
    found, target = advantages(Memory(REWARD, OPEN, TOLD, VALUE), torch.tensor(2.0), VALUE, trace)
    # reward / 2 + next value - value
    deltas = [[0.5 + 3 - 5, 1 + 2 - 3, 2 + 0 - 2], [1.5 + 2 - 1, 0.5 + 0 - 2]]
    for row, delta in enumerate(deltas):
        expected = 0.0
        for step in reversed(range(len(delta))):
            expected = delta[step] + trace * expected
            assert found[0, row, step].item() == pytest.approx(expected)
            assert target[0, row, step].item() == pytest.approx(expected + VALUE[0, row, step].item())


def test_loss_by_hand() -> None:
    """The clipped gain, the entropy and the squared error of each open decision, summed over a rollout."""
    moved, value = TOLD + torch.tensor([0.5, -0.5, 0.05]), VALUE + 0.5
    entropy = torch.full_like(TOLD, 0.25)
    ppo = algorithm(trace=1.0, entropy=0.1, clip=0.2)
    found = loss(ppo, moved, value, entropy).item()
    down, near = math.exp(-0.5), math.exp(0.05)
    # with a trace of 1 advantages are what followed less the value: 2, 3, 2 and 3, -1
    gains = [1.2 * 2, down * 3, near * 2, 1.2 * 3, 0.8 * -1]
    errors = [1.5**2, 2.5**2, 1.5**2, 2.5**2, 1.5**2]
    assert found == pytest.approx(-(sum(gains) + 5 * 0.1 * 0.25 - sum(errors)) / 2, rel=1e-5)


def test_normalised_by_hand() -> None:
    """Advantages are divided by their root mean square over the open decisions of the instance."""
    plain = loss(algorithm(trace=1.0), TOLD, VALUE, TOLD).item()
    errors = (4 + 9 + 4 + 9 + 1) / 2
    found = loss(algorithm(trace=1.0, normalise=True), TOLD, VALUE, TOLD).item()
    assert found - errors == pytest.approx((plain - errors) / (27 / 5) ** 0.5)


def test_padding_does_not_count() -> None:
    """Whatever stands behind the end of a rollout, loss and gradient are the same, and there is none of it there."""
    found = []
    for other in (0.0, 3.0):
        leaves = [(TOLD - 0.1).requires_grad_(), (VALUE + 1).requires_grad_(), TOLD.abs().requires_grad_()]
        behind = torch.where(OPEN, 0.0, other)
        scored, ppo = (leaf + behind for leaf in leaves), algorithm(entropy=0.1, normalise=True, mean=2.0)
        kept = Memory(REWARD, OPEN, TOLD + behind, VALUE + behind)
        whole = ppo.loss(ppo.critic, kept, *scored, 1 - torch.arange(3) / 3)
        found.append((whole, *torch.autograd.grad(whole, leaves)))
        assert all((gradient != 0)[OPEN].any() and not gradient[~OPEN].any() for gradient in found[-1][1:])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_longer_padding_changes_nothing() -> None:
    """However far the way of acting pads the records of a batch, the loss is the same to the bit."""

    def padded(more: int) -> float:
        wide = [torch.nn.functional.pad(each, (0, more)) for each in (TOLD - 0.1, VALUE, TOLD.abs(), REWARD, OPEN)]
        kept = Memory(wide[3], wide[4], *(torch.nn.functional.pad(each, (0, more)) for each in (TOLD, VALUE)))
        ppo = algorithm(entropy=0.1, normalise=True, mean=2.0)
        return ppo.loss(ppo.critic, kept, *wide[:3], 1 - torch.arange(3 + more) / 3).item()

    assert padded(0) == padded(4)


def test_an_instance_without_decisions_adds_nothing() -> None:
    """Where all is padding the loss is 0, and so is its gradient."""
    log_prob = TOLD.clone().requires_grad_()
    shut = {"open": torch.zeros_like(OPEN), "reward": torch.zeros_like(REWARD)}
    found = loss(algorithm(normalise=True, mean=2.0), log_prob, VALUE, TOLD, **shut)
    assert found.item() == 0
    assert not torch.autograd.grad(found, log_prob)[0].any()


def test_clipping_stops_the_gradient() -> None:
    """A decision that has moved beyond the clip the way that its advantage asks for is let go; back, it is not."""
    # advantages of 2, 3, 2 and 3, -1
    up, down = torch.tensor(0.3), torch.tensor(-0.3)
    for moved, flows in ((up, [[0, 0, 0], [0, 1, 0]]), (down, [[1, 1, 1], [1, 0, 0]])):
        log_prob = (TOLD + moved).requires_grad_()
        loss(algorithm(trace=1.0, clip=0.2), log_prob, VALUE, TOLD).backward()
        assert (log_prob.grad != 0).int().tolist() == [flows]


@pytest.mark.parametrize("normalise", [False, True])
def test_no_unit_matters(normalise: bool) -> None:
    """With rewards in a unit a thousand times smaller, the loss is the same."""
    ppo, scored = algorithm(-3.0, 1.5, normalise=normalise), (TOLD - 0.1, VALUE - 1, TOLD)
    other = algorithm(-3000.0, 1500.0, normalise=normalise)
    one, two = loss(ppo, *scored), loss(other, *scored, reward=1000 * REWARD)
    assert two.item() == pytest.approx(one.item(), rel=1e-4)


def test_values_lie_beside_a_straight_line() -> None:
    """A head that says 0 expects the mean reward at the start, and a third less of it after a third of the steps."""
    zero = torch.zeros_like(VALUE)
    kept = {"reward": torch.full_like(REWARD, -2.0), "open": torch.ones_like(OPEN), "value": zero}
    assert loss(algorithm(-6.0), TOLD, zero, zero, **kept).item() == pytest.approx(0, abs=1e-6)
    assert loss(algorithm(-3.0), TOLD, zero, zero, **kept).item() > 1


@pytest.mark.parametrize("samples", [0, 4])
def test_the_first_gradient_is_that_of_the_policy(samples: int, rng: torch.Generator) -> None:
    """In the first epoch ratios are 1, and the policy's gradient is that of advantages times log-probabilities."""
    env, ppo = make("cvrp", num_customers=6), PPO(samples, normalise=False)
    torch.manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    ppo.attach(policy)
    work = Work.alone(policy, env, env.generate(3, rng), rng)
    found = torch.autograd.grad(ppo.step(work).loss, list(policy.parameters()), retain_graph=True)
    drawn = work.rollouts
    assert drawn.forced == (samples == 0)
    kept = Memory(*(work.kept[name] for name in Memory._fields))
    (log_prob,) = work.score_steps(drawn, lambda decision: [decision.chosen])
    assert torch.equal(kept.log_prob, log_prob)
    horizon = env.horizon(work.instances)
    left = (horizon - drawn.forced - torch.arange(log_prob.shape[-1])) / horizon
    line = ppo.critic.mean / ppo.critic.deviation * left
    advantage, _ = advantages(kept, ppo.critic.deviation, kept.value + line, ppo.trace)
    plain = -(advantage * log_prob * kept.open).sum(-1).mean()
    expected = torch.autograd.grad(plain, list(policy.parameters()))
    assert any(gradient.any() for gradient in expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"samples": -1}, "samples: -1"),
        ({"epochs": 0}, "epochs: 0"),
        ({"clip": 1.0}, "clip: 1.0"),
        ({"trace": 1.1}, "trace: 1.1"),
        ({"entropy": -0.1}, "entropy: -0.1"),
    ],
)
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value."""
    with pytest.raises(ArgumentError, match=word):
        PPO(**arguments)
