from __future__ import annotations

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.search import Beam, GreedySearch
from ncogym.search.base import grow


def test_best_of_every_sequence(tiny, rng, every_sequence) -> None:
    """With room for all the answer is the optimum, and the search ends although nothing else would end it."""
    env, policy = tiny
    instance = env.generate(1, rng)
    sequences = torch.tensor([list(every_sequence(env, policy, instance))])
    objective = env.objective(instance, sequences)
    best = objective.min() if env.sense == "min" else objective.max()
    found = Beam(policy)(env, instance, MaxRollouts(10**6), rng)[0]
    assert found.objective == pytest.approx(best.item(), rel=1e-12)
    assert found.feasible
    assert found.rollouts < 10**5


def test_first_beam_is_greedy_and_wider_ones_only_help(tiny, rng) -> None:
    """The curve begins at the greedy objective, and the answer is at least as good."""
    env, policy = tiny
    instances = env.generate(4, rng)
    greedy = GreedySearch(policy)(env, instances, None, rng)
    one, many = Beam(policy, 1)(env, instances, None, rng), Beam(policy, 8)(env, instances, None, rng)
    assert [s.objective for s in one] == [s.objective for s in greedy]
    assert [s.trace[0].objective for s in many] == [s.objective for s in greedy]
    sign = 1 if env.sense == "min" else -1
    assert all(sign * m.objective <= sign * g.objective for m, g in zip(many, greedy, strict=True))


def test_instance_of_a_batch_is_solved_as_alone(tiny, rng) -> None:
    """The other instances of a batch change nothing."""
    env, policy = tiny
    instances = env.generate(4, rng)
    together = Beam(policy, 8)(env, instances, None, rng)
    for row, solution in enumerate(together):
        alone = Beam(policy, 8)(env, instances[row : row + 1], None, rng)[0]
        assert alone.objective == pytest.approx(solution.objective, rel=1e-9)


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [(1, [1]), (3, [1, 2]), (7, [1, 2, 4]), (8, [1, 2, 5]), (100, [1, 2, 4, 8, 16, 69])],
)
def test_widths_double_and_spend_every_rollout(env, policy, instances, rng, monkeypatch, rollouts, expected) -> None:
    """Widths are 1, 2, 4 and so on, and the last takes all that is left."""
    widths = []

    def watched(*args, **clock):
        widths.append(args[4])
        return grow(*args, **clock)

    monkeypatch.setattr("ncogym.search.beam.grow", watched)
    assert Beam(policy)(env, instances, MaxRollouts(rollouts), rng)[0].rollouts == rollouts
    assert widths == expected


def test_width_ends_it_without_a_budget(env, policy, instances, rng) -> None:
    """Nothing limits it but its own width."""
    assert Beam(policy, 5)(env, instances, Budget(), rng)[0].rollouts == 1 + 2 + 4 + 5
    assert Beam(policy, 4)(env, instances, None, rng)[0].rollouts == 1 + 2 + 4
    assert Beam(policy)(env, instances, None, rng)[0].rollouts == 2 * 64 - 1


def test_a_beam_that_held_every_sequence_ends_it(policy, rng) -> None:
    """However much is left, nothing is beyond the 24 orders of four nodes."""
    env = make("tsp", num_nodes=4)
    found = Beam(policy)(env, env.generate(2, rng), MaxRollouts(10**6), rng)
    assert [s.rollouts for s in found] == [1 + 2 + 4 + 8 + 16 + 24] * 2


def test_seconds_end_it(env, policy, instances, rng, ticking) -> None:
    """A budget in seconds is kept, with beams of more than one width in it."""
    found = Beam(policy)(env, instances, MaxSeconds(0.5), rng)[0]
    assert found.rollouts > 3
    assert found.seconds < 0.55


def test_other_budgets_end_it(env, policy, instances, rng) -> None:
    """Patience and the cancel event end it, with an answer."""
    found = Beam(policy)(env, instances, NoImprovement(1), rng)
    assert found[0].rollouts == 1 + 2 * max(s.trace[-1].rollouts for s in found)  # the beam after the last that helped
    cancelled = Budget()
    cancelled.cancel.set()
    assert Beam(policy)(env, instances, cancelled, rng)[0].rollouts == 1


def test_no_width_is_refused(policy) -> None:
    """A beam that would hold nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"width: 0 is not allowed; it must be at least 1"):
        Beam(policy, width=0)
