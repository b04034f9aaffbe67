"""REINFORCE: losses worked out by hand, baselines, the t-test."""

from __future__ import annotations

import pytest
import torch
from works import loss_of

from ncogym.algorithms.reinforce import Reinforce, greedy_reward, significantly_positive
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.rollout import Work

REWARD = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -4.0, -7.0]])
LOG_PROB = torch.tensor([[-0.5, -1.0, -1.5], [-2.0, -1.0, -0.5]])


def test_shared_baseline_by_hand() -> None:
    """The shared mean is taken over the rollouts of each instance."""
    # advantages: 1, 0, -1 and 1, 1, -2
    expected = -(1 * -0.5 + 0 - 1 * -1.5 + 1 * -2.0 + 1 * -1.0 - 2 * -0.5) / 6
    assert loss_of(Reinforce("shared", rollouts=3), REWARD, LOG_PROB).item() == pytest.approx(expected)


def test_leave_one_out_by_hand() -> None:
    """Leave-one-out compares each rollout with the mean of the others."""
    # advantages: -1+2.5, -2+2, -3+1.5 and -4+5.5, -4+5.5, -7+4
    expected = -(1.5 * -0.5 + 0 - 1.5 * -1.5 + 1.5 * -2.0 + 1.5 * -1.0 - 3 * -0.5) / 6
    assert loss_of(Reinforce("leave-one-out", rollouts=3), REWARD, LOG_PROB).item() == pytest.approx(expected)


def test_no_baseline_by_hand() -> None:
    """Without a baseline the reward itself weighs the log-probabilities."""
    assert loss_of(Reinforce("none"), REWARD, LOG_PROB).item() == pytest.approx(-(REWARD * LOG_PROB).mean().item())


def test_normalised_by_hand() -> None:
    """Advantages are divided by the deviation of the rewards of their instance."""
    expected = -((REWARD - REWARD.mean(1, keepdim=True)) / REWARD.std(1, keepdim=True) * LOG_PROB).mean().item()
    found = loss_of(Reinforce("shared", rollouts=3, normalise=True), REWARD, LOG_PROB).item()
    assert found == pytest.approx(expected)


def test_entropy_gradient_is_exact_in_expectation() -> None:
    """Over all pairs of rollouts of a small distribution, the gradient is that of its entropy."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    log_prob = logits.log_softmax(0)
    wanted = torch.autograd.grad(0.7 * (log_prob * log_prob.exp()).sum(), logits, retain_graph=True)[0]
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    reward = torch.zeros(1, 2)
    total = torch.zeros(3, dtype=torch.float64)
    for pair in pairs:
        scored = log_prob[pair][None].float()
        loss = loss_of(Reinforce("shared", rollouts=2, entropy=0.7), reward, scored)
        found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        total += log_prob[pair].sum().exp().detach() * found
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-6)


def test_exponential_baseline_moves_by_its_decay() -> None:
    """The first batch is its own average; later ones are mixed in with weight 1 - decay; it is what is subtracted."""
    algorithm = Reinforce("exponential", decay=0.8)
    for before, average in ((None, -3.5), (-10.0, 0.8 * -10 + 0.2 * -3.5)):
        if before is not None:
            algorithm.average.fill_(before)
        loss = loss_of(algorithm, REWARD, LOG_PROB)
        assert algorithm.average.item() == pytest.approx(average)
        assert loss.item() == pytest.approx(-((REWARD - average) * LOG_PROB).mean().item(), abs=1e-6)


def test_the_champions_reward_is_subtracted(rng: torch.Generator) -> None:
    """From the second epoch on, rewards are compared with a greedy rollout of the best policy so far."""
    env = make("tsp", num_nodes=5)
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2)
    algorithm = Reinforce("rollout", rollouts=3)
    algorithm.attach(policy)
    algorithm.set_extra_state(1)
    work = Work.alone(policy, env, env.generate(2, rng), rng)
    loss = algorithm.step(work).loss
    advantage = work.rollouts.reward - greedy_reward(env, policy, work.instances).unsqueeze(1)
    torch.testing.assert_close(loss.detach(), -(advantage * work.rollouts.log_prob).mean())


def test_rollout_baseline_changes_only_for_a_better_policy() -> None:
    """The champion is replaced by a significantly better policy and kept against a worse one."""
    env, rng = make("tsp", num_nodes=8), torch.Generator().manual_seed(0)

    class Fixed(Policy):
        """Prefers near nodes (sign 1) or far nodes (sign -1)."""

        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = torch.nn.Parameter(torch.tensor(sign))

        def arguments(self):
            return {}

        def encode(self, features):
            return features[1].values[..., 0]

        def logits(self, encoded, step, condition=None):
            row = step.nodes[..., 1].clamp_min(0).unsqueeze(-1).expand(-1, -1, encoded.shape[-1])
            return (-self.sign * encoded.gather(1, row)).masked_fill(~step.action_mask, -torch.inf)

    algorithm = Reinforce("rollout", evaluation_size=200)
    algorithm.attach(Fixed(-1.0))
    algorithm.epoch_end(env, Fixed(1.0), rng)
    assert algorithm.champion is not None
    assert algorithm.champion.sign.item() == 1.0
    algorithm.epoch_end(env, Fixed(-1.0), rng)
    assert algorithm.champion.sign.item() == 1.0


def test_greedy_reward_leaves_the_mode_alone() -> None:
    """A policy in training mode is back in training mode after its greedy rollouts, unlike the incumbent's."""
    env = make("tsp", num_nodes=6)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16, norm="batch")
    policy.train()
    instances = env.generate(5, torch.Generator().manual_seed(0))
    assert greedy_reward(env, policy, instances, chunk=2).shape == (5,)
    assert all(module.training for module in policy.modules())


def test_t_test_level() -> None:
    """The one-sided test rejects at 1.645 standard errors, not below, and never for a loss."""
    spread = torch.linspace(-1, 1, 1000)
    standard_error = spread.double().std().item() / 1000**0.5
    assert significantly_positive(spread + 1.70 * standard_error, 0.05)
    assert not significantly_positive(spread + 1.60 * standard_error, 0.05)
    assert not significantly_positive(spread - 1.0, 0.05)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"reward_baseline": "shared", "rollouts": 1}, "rollouts: 1"),
        ({"rollouts": 0}, "rollouts: 0"),
        ({"normalise": True}, "rollouts: 1 is not allowed with normalise"),
        ({"entropy": 0.1}, "rollouts: 1 is not allowed with entropy"),
        ({"entropy": -0.1}, "entropy: -0.1"),
        ({"reward_baseline": "rollout", "evaluation_size": 5}, "evaluation_size: 5"),
    ],
)
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value."""
    with pytest.raises(ArgumentError, match=word):
        Reinforce(**arguments)
