from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts
from ncogym.envs import make
from ncogym.features import FeatureDims
from ncogym.policies import AttentionPolicy, Policy
from ncogym.policies.decoding import Sample
from ncogym.rollout import act, encode, replay
from ncogym.search.base import apart, descend, gathered, grow, recording, rounds, starts, stretch

EVERYTHING = 2000  # sequences of the tiny problems are fewer


class Scores(NamedTuple):
    """One number for each action of an instance."""

    values: Tensor


class Urn(Policy):
    """Draws among what is left by numbers that belong to the actions, so that its gradient is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.dims = FeatureDims(node=2)

    def arguments(self) -> dict[str, Any]:
        """Return nothing, since it takes nothing."""
        return {}

    def encode(self, features) -> Scores:
        """Return 0 for every action."""
        return Scores(torch.zeros(features[0].values.shape[:2]))

    def logits(self, encoded, step, condition=None) -> Tensor:
        """Return the numbers of what is left."""
        return encoded.values.unsqueeze(1).masked_fill(~step.action_mask, -math.inf)


def test_gradient_by_hand(rng) -> None:
    """On tours of four nodes with given starts the gradient is the sum over steps of probability less choice."""
    env, urn = make("tsp", num_nodes=4), Urn()
    instances = env.generate(1, rng)
    values = torch.tensor([[0.0, 0.5, -0.5, 1.0]], requires_grad=True)
    tours = torch.tensor([[[0, 1, 2, 3], [0, 2, 1, 3], [1, 3, 2, 0]]])
    drawn = replay(env, instances, tours, forced=1)
    progress = Progress(env, instances, None)
    progress.offer(tours)
    descend(env, urn, Scores(values), drawn, progress, imitation=0.25)

    exponents = [math.exp(value) for value in values[0].tolist()]
    rewards = [-float(env.objective(instances, tour[None, None])) for tour in tours[0]]
    best = max(range(3), key=rewards.__getitem__)
    mean, expected = sum(rewards) / 3, [0.0] * 4
    weights = [(reward - mean) / abs(rewards[best]) / 3 + 0.25 * (i == best) for i, reward in enumerate(rewards)]
    for weight, tour in zip(weights, tours[0].tolist(), strict=True):
        for step in range(1, 4):
            total = sum(exponents[node] for node in tour[step:])
            for node in tour[step:]:
                expected[node] += weight * (exponents[node] / total - (node == tour[step]))
    assert values.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_step_makes_the_better_tour_likelier(rng) -> None:
    """Without imitation a step down the gradient raises what is above the mean and lowers what is below."""
    env, urn = make("tsp", num_nodes=5), Urn()
    instances = env.generate(2, rng)
    values = torch.zeros(2, 5, requires_grad=True)
    drawn = act(env, urn, Scores(values), instances, Sample(), rng, rollouts=2, log_prob=True)
    progress = Progress(env, instances, None)
    progress.offer(drawn.actions)
    descend(env, urn, Scores(values), drawn, progress, imitation=0.0)
    after = Scores((values - 10 * values.grad).detach())
    state, change = env.start(instances, 2), -drawn.log_prob
    for step in range(4):
        logits = urn.logits(after, env.step_features(state)).log_softmax(-1)
        action = drawn.actions[..., step]
        change = change + logits.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        state = env.advance(state, action)
    better = drawn.reward.argmax(1, keepdim=True)
    assert (change.gather(1, better) > change.gather(1, 1 - better)).all()


@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_table_is_gone_through_line_by_line(width: int) -> None:
    """Each cell comes once, in the order of the lines, and never more than there is room for."""
    for counts in itertools.product([1, 2, 3, 5, 9], repeat=2):
        seen: list[int] = []
        for count in itertools.cycle(counts):
            left = 5 * width - len(seen)
            if not left:
                break
            columns, lines = stretch(len(seen), min(count, left), width)
            cells = [y * width + x for y in range(lines.start, lines.stop) for x in range(columns.start, columns.stop)]
            assert 0 < len(cells) <= min(count, left)
            seen += cells
        assert seen == list(range(5 * width))


def test_unit_of_an_instance_does_not_matter(policy, env, instances) -> None:
    """Ten times as long a world has the same gradient."""
    found = []
    for scale in (1, 10):
        scaled = instances.clone()
        scaled["locs"] = scaled["locs"] * scale
        progress, generator = Progress(env, scaled, None), torch.Generator().manual_seed(3)
        with recording():
            encoded = policy.encode(env.instance_features(scaled))
            encoded = type(encoded)(*(v if v is None else v.detach().requires_grad_() for v in encoded))
            drawn = act(env, policy, encoded, scaled, Sample(), generator, rollouts=6)
            progress.offer(drawn.actions)
            descend(env, policy, encoded, drawn, progress, 0.01)
        found.append(encoded.logit_keys.grad)
    assert found[0].abs().max() > 1e-4
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_nothing_to_imitate_is_an_error(policy, env, instances, rng) -> None:
    """Before anything was offered there is no incumbent."""
    encoded = policy.encode(env.instance_features(instances))
    drawn = act(env, policy, encoded, instances, Sample(), rng, rollouts=2)
    with pytest.raises(RuntimeError, match="nothing was offered"):
        descend(env, policy, encoded, drawn, Progress(env, instances, None), 0.1)


@pytest.mark.parametrize("count", [3, 7, 10, 14])
def test_starts_take_turns(env, instances, rng, count: int) -> None:
    """Every start is taken equally often, to within one, in each instance."""
    for row in starts(env, instances, count, rng):
        times = row.bincount(minlength=7)
        assert times.sum() == count
        assert times.max() - times.min() <= 1


def test_full_rounds_of_starts_draw_nothing(env, instances, rng) -> None:
    """Where all are taken their order does not matter, and the generator is left as it was."""
    before = rng.get_state()
    starts(env, instances, 14, rng)
    assert torch.equal(rng.get_state(), before)


def test_problem_without_starts_gives_none(rng) -> None:
    """A knapsack begins as the policy likes."""
    env = make("knapsack", num_items=5)
    assert starts(env, env.generate(2, rng), 4, rng) is None


@pytest.mark.parametrize(
    ("budget", "rollouts", "yielded"), [(None, 12, 2), (MaxRollouts(10), 10, 2), (MaxRollouts(3), 3, 0)]
)
def test_rounds_end(policy, env, instances, rng, budget: Budget | None, rollouts: int, yielded: int) -> None:
    """They end with the budget or after so many, and nothing is learnt from the last."""
    progress, encoded = Progress(env, instances, budget), encode(env, policy, instances)
    passed = list(rounds(env, policy, lambda: encoded, Sample(), progress, rng, rollouts=4, most=3))
    assert progress.rollouts == rollouts
    assert len(passed) == yielded


def test_copy_is_apart(env) -> None:
    """A copy is in evaluation mode with or without gradients, and what is done to it stays there."""
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2, feedforward=8).train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for trained in (False, True):
        copy = apart(policy, trained)
        assert not copy.training
        assert all(p.requires_grad is trained for p in copy.parameters())
        for p in copy.parameters():
            p.data.add_(1)
    assert policy.training
    assert all(p.requires_grad for p in policy.parameters())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_gradients_are_recorded_in_any_mode() -> None:
    """A caller that records none does not keep a search from it."""
    with torch.inference_mode(), recording():
        x = torch.ones(1, requires_grad=True)
        (2 * x).sum().backward()
    assert x.grad.item() == 2


# ---------------------------------------------------------------------- beams


def likeliest(_, log_prob):
    """Return log-probabilities as keys."""
    return log_prob


def test_full_width_lists_every_sequence(tiny, rng, every_sequence) -> None:
    """A beam that drops nothing holds each sequence once, likeliest first, with its log-probability."""
    env, policy = tiny
    instances = env.generate(3, rng)
    with torch.inference_mode():
        actions, log_prob, key = grow(env, policy, encode(env, policy, instances), instances, EVERYTHING, likeliest)
    for row in range(3):
        expected, live = every_sequence(env, policy, instances[row : row + 1]), key[row].isfinite()
        sequences = env.padded(instances, actions, env.horizon(instances))[row, live].tolist()
        assert len(sequences) == len(expected)
        assert dict(zip(map(tuple, sequences), log_prob[row, live].tolist(), strict=True)) == pytest.approx(
            expected, abs=1e-4
        )
        assert key[row].tolist() == sorted(key[row].tolist(), reverse=True)


@pytest.mark.parametrize("width", [1, 2, 5, 13])
def test_narrow_beam_by_hand(tiny, rng, every_sequence, width: int) -> None:
    """At each step the likeliest prefixes that continue kept ones are kept, and no others."""
    env, policy = tiny
    instance = env.generate(1, rng)
    kept, steps = {(): 0.0}, env.horizon(instance)
    scored = every_sequence(env, policy, instance)
    encoded = encode(env, policy, instance)
    with torch.inference_mode():
        for _ in range(steps):
            children = {}
            for taken, log_prob in kept.items():
                state = env.start(instance)
                for action in taken:
                    state = env.advance(state, torch.tensor([[action]]))
                scores = policy.logits(encoded, env.step_features(state)).log_softmax(-1).flatten().tolist()
                for action in state.action_mask.flatten().nonzero().flatten().tolist():
                    children[*taken, action] = log_prob + scores[action]
            kept = dict(sorted(children.items(), key=lambda child: -child[1])[:width])
        actions, log_prob, _ = grow(env, policy, encoded, instance, width, likeliest)
    found = [tuple(each) for each in env.padded(instance, actions, steps)[0].tolist()]
    assert set(found) == set(kept)
    assert log_prob[0].tolist() == pytest.approx([scored[each] for each in found], abs=1e-4)


def test_states_of_chosen_rollouts(tiny, rng) -> None:
    """Each field is that of the rollouts chosen, in their order, and the instance is the same."""
    env, _ = tiny
    instances = env.generate(2, rng)
    state = env.start(instances, 2)
    allowed = state.action_mask.float().argsort(dim=-1, descending=True, stable=True)[..., :2]
    state = env.advance(state, torch.stack([allowed[:, 0, 0], allowed[:, 1, 1]], dim=1))
    found = gathered(state, torch.tensor([[1, 0, 1], [0, 0, 1]]))
    assert found.instance is state.instance
    for name in state._fields[1:]:
        before, after = getattr(state, name), getattr(found, name)
        assert torch.equal(after[0], before[0, [1, 0, 1]])
        assert torch.equal(after[1], before[1, [0, 0, 1]])
