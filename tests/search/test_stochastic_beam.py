from __future__ import annotations

import itertools
import math

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.policies.decoding import Sample
from ncogym.rollout import encode
from ncogym.search import Sampling, StochasticBeam
from ncogym.search.base import grow
from ncogym.search.stochastic_beam import perturbed

COLD = Sample(temperature=0.3)  # so that the sequences of an untrained policy are not all as likely


def drawn(env, policy, instances, width, rng, decoding=None):
    """Return the sequences of a round, as long as the horizon, and their keys."""
    with torch.inference_mode():
        encoded = encode(env, policy, instances)
        actions, _, key = grow(env, policy, encoded, instances, width, lambda *of: perturbed(*of, rng), decoding)
    return env.padded(instances, actions, env.horizon(instances)), key


@pytest.mark.parametrize(("name", "arguments"), [("tsp", {"num_nodes": 3}), ("knapsack", {"num_items": 4})])
def test_sequences_are_drawn_one_after_the_other_without_replacement(name, arguments, rng, every_sequence) -> None:
    """The first is drawn by its probability, the second by that among the others: chi-square over all pairs."""
    env, copies = make(name, **arguments), 8000
    with torch.random.fork_rng():
        torch.random.manual_seed(1)
        policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    instance = env.generate(1, rng)
    if name == "knapsack":  # one item of these fills the sack, or two or three do: sequences end at different times
        instance["weight"], instance["capacity"] = torch.tensor([[0.9, 0.5, 0.4, 0.1]]), torch.tensor([1.0])
    probability = {k: math.exp(v) for k, v in every_sequence(env, policy, instance, 0.3).items()}
    assert sum(probability.values()) == pytest.approx(1, abs=1e-5)
    assert max(probability.values()) > 2 * min(probability.values())
    pairs, _ = drawn(env, policy, instance.expand(copies).clone(), 2, rng, COLD)
    found = [tuple(map(tuple, pair)) for pair in pairs.tolist()]
    chi_square, cells = 0.0, list(itertools.permutations(probability, 2))
    for one, two in cells:
        expected = copies * probability[one] * probability[two] / (1 - probability[one])
        chi_square += (found.count((one, two)) - expected) ** 2 / expected
    assert all(one != two for one, two in found)
    assert chi_square < len(cells) + 6 * math.sqrt(2 * len(cells))


def test_sequences_are_distinct(tiny, rng) -> None:
    """In a round no sequence comes twice, whatever the width, and padding does not make a new one."""
    env, policy = tiny
    instances = env.generate(3, rng)
    for width in (4, 20, 2000):
        sequences, key = drawn(env, policy, instances, width, rng)
        for row in range(3):
            live = sequences[row, key[row].isfinite()].tolist()
            assert len(set(map(tuple, live))) == len(live) > 1
            assert env.violations(instances[row : row + 1], torch.tensor([live])) == []


def test_all_of_them_are_every_sequence(tiny, rng, every_sequence) -> None:
    """With room for all each comes once."""
    env, policy = tiny
    instance = env.generate(1, rng)
    sequences, _ = drawn(env, policy, instance, 2000, rng)
    assert sorted(map(tuple, sequences[0].tolist())) == sorted(every_sequence(env, policy, instance))


def test_highest_child_has_the_key_of_its_parent(rng) -> None:
    """The maximum is kept exactly, others lie below, what is masked stays so, and large numbers do no harm."""
    log_prob = torch.randn(3, 50, 9, generator=rng, dtype=torch.float64) * 30
    log_prob[:, 10:20, 3:] = -math.inf
    log_prob[:, 30, 1:] = -math.inf
    key = torch.randn(3, 50, generator=rng, dtype=torch.float64) * 100
    found = perturbed(key, log_prob, rng)
    assert not found.isnan().any()
    assert torch.equal(found.amax(-1), key)
    assert torch.equal(found == -math.inf, log_prob == -math.inf)


@pytest.mark.parametrize("rollouts", [1, 2, 7, 50])
def test_rollouts_are_those_of_the_budget(env, policy, instances, rng, rollouts: int) -> None:
    """As many sequences are built as the budget allows, in one round or in several."""
    for width in (16, 1280):
        found = StochasticBeam(policy, width)(env, instances, MaxRollouts(rollouts), rng)
        assert [s.rollouts for s in found] == [rollouts] * 3


def test_one_round_where_nothing_limits(env, policy, instances, rng) -> None:
    """Without a budget, or with one that sets no limit, the width says how many sequences there are."""
    for budget in (None, Budget()):
        assert StochasticBeam(policy, 6)(env, instances, budget, rng)[0].rollouts == 6


def test_enumeration_ends_the_search(tiny, rng) -> None:
    """A round with every sequence is the last, and it holds an optimum that so many samples find, too."""
    env, policy = tiny
    instances = env.generate(2, rng)
    found = StochasticBeam(policy, 2000)(env, instances, MaxRollouts(10**6), rng)
    sampled = Sampling(policy)(env, instances, MaxRollouts(3000), rng)
    sign = 1 if env.sense == "min" else -1
    assert found[0].rollouts < 2000
    assert all(s.feasible and sign * s.objective <= sign * o.objective for s, o in zip(found, sampled, strict=True))


def test_same_seed_same_answer(env, policy, instances) -> None:
    """The generator's seed decides every draw, and another seed draws otherwise."""
    tours = [
        [
            s.actions.tolist()
            for s in StochasticBeam(policy, 3)(env, instances, None, torch.Generator().manual_seed(seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert tours[0] == tours[1] != tours[2]


def test_decoding_limits_what_is_drawn(env, policy, instances, rng) -> None:
    """With top-k of two actions, seven nodes have 2^6 sequences, and the search ends with them."""
    found = StochasticBeam(policy, decoding=Sample(top_k=2))(env, instances, MaxRollouts(10**6), rng)
    assert found[0].rollouts == 2**6


def test_seconds_and_the_cancel_event_end_it(env, policy, instances, rng, ticking) -> None:
    """A budget in seconds is kept, in several rounds; a cancelled search returns what its first round has."""
    found = StochasticBeam(policy, 20)(env, instances, MaxSeconds(1), rng)[0]
    assert found.rollouts > 20
    assert 0.3 < found.seconds < 1.05
    cancelled = MaxSeconds(60)
    cancelled.cancel.set()
    assert StochasticBeam(policy)(env, instances, cancelled, rng)[0].rollouts < 100


def test_no_width_is_refused(policy) -> None:
    """A round that would hold nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"width: 0 is not allowed; it must be at least 1"):
        StochasticBeam(policy, width=0)
