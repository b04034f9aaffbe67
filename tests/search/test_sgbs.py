from __future__ import annotations

import pytest
import torch

from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.errors import ArgumentError
from ncogym.policies.decoding import Greedy as GreedyDecoding
from ncogym.rollout import act, encode
from ncogym.search import SGBS, GreedySearch


def by_hand(env, policy, instance, beta: int, gamma: int) -> dict[tuple[int, ...], float]:
    """Return every sequence that is simulated and its objective, by a plain loop that simulates each child again."""
    encoded, steps, simulated = encode(env, policy, instance), env.horizon(instance), {}

    def simulate(taken):
        first = torch.tensor([[taken]], dtype=torch.int64)
        rollout = act(env, policy, encoded, instance, GreedyDecoding(), torch.Generator(), first_actions=first)
        path = env.padded(instance, rollout.actions, steps)
        value = env.objective(instance, path).item()
        simulated[tuple(path.flatten().tolist())] = value
        return tuple(path.flatten().tolist()), value if env.sense == "min" else -value

    kept = {(): simulate([])}
    with torch.inference_mode():
        for step in range(steps):
            own, others = {}, {}  # of equals, one that a node's own simulation goes through stays
            for taken, (path, _) in kept.items():
                state = env.start(instance)
                for action in taken:
                    state = env.advance(state, torch.tensor([[action]]))
                logits = policy.logits(encoded, env.step_features(state)).flatten()
                several = (beta if step == 0 else 1) * gamma
                for action in logits.argsort(descending=True)[: min(several, int(state.action_mask.sum()))].tolist():
                    children = own if action == path[step] else others
                    children[*taken, action] = simulate([*taken, action])
            kept = dict(sorted({**own, **others}.items(), key=lambda child: child[1][1])[:beta])
    return simulated


@pytest.mark.parametrize(("beta", "gamma"), [(1, 1), (1, 3), (2, 2), (3, 2), (4, 4)])
def test_simulates_what_the_method_says(tiny, rng, monkeypatch, beta: int, gamma: int) -> None:
    """On tiny instances the simulated sequences are those of the plain method, and the best of them is the answer."""
    env, policy = tiny
    instance = env.generate(1, rng)
    expected, offered = by_hand(env, policy, instance, beta, gamma), []
    offer = Progress.offer

    def watched(progress, actions, rollouts=None):
        offered.extend(map(tuple, env.padded(instance, actions, env.horizon(instance))[0].tolist()))
        return offer(progress, actions, rollouts)

    monkeypatch.setattr(Progress, "offer", watched)
    found = SGBS(policy, beta, gamma)(env, instance, None, rng)[0]
    assert found.rollouts == len(offered)
    assert set(offered) == set(expected)
    best = min(expected.values()) if env.sense == "min" else max(expected.values())
    assert found.objective == pytest.approx(best, rel=1e-12)


def test_one_node_with_one_child_is_greedy(tiny, rng) -> None:
    """With beta and gamma of 1 it is the greedy rollout, at the price of one."""
    env, policy = tiny
    instances = env.generate(4, rng)
    found = SGBS(policy, 1, 1)(env, instances, None, rng)
    greedy = GreedySearch(policy)(env, instances, None, rng)
    assert [s.rollouts for s in found] == [1] * 4
    assert [s.objective for s in found] == [s.objective for s in greedy]


def test_never_worse_than_greedy_and_a_wider_beam_finds_more(tiny, rng) -> None:
    """The curve begins at the greedy objective; what is found is better somewhere, and never worse."""
    env, policy = tiny
    instances = env.generate(20, rng)
    sign = 1 if env.sense == "min" else -1
    greedy = [sign * s.objective for s in GreedySearch(policy)(env, instances, None, rng)]
    found = SGBS(policy, 2, 2)(env, instances, None, rng)
    assert [sign * s.trace[0].objective for s in found] == greedy
    assert all(sign * s.objective <= g for s, g in zip(found, greedy, strict=True))
    assert any(sign * s.objective < g for s, g in zip(found, greedy, strict=True))
    assert all(s.feasible for s in found)


def test_instance_of_a_batch_is_solved_as_alone(tiny, rng) -> None:
    """The other instances of a batch change nothing, though their solutions may be longer."""
    env, policy = tiny
    instances = env.generate(5, rng)
    together = SGBS(policy, 3, 3)(env, instances, None, rng)
    for row, solution in enumerate(together):
        alone = SGBS(policy, 3, 3)(env, instances[row : row + 1], None, rng)[0]
        assert alone.objective == pytest.approx(solution.objective, rel=1e-9)


def test_best_of_every_sequence(tiny, rng, every_sequence) -> None:
    """With room for all the answer is the optimum, and the search ends although nothing else would end it."""
    env, policy = tiny
    instance = env.generate(1, rng)
    sequences = torch.tensor([list(every_sequence(env, policy, instance))])
    objective = env.objective(instance, sequences)
    best = objective.min() if env.sense == "min" else objective.max()
    found = SGBS(policy, beta=100, gamma=100)(env, instance, MaxRollouts(10**6), rng)[0]
    assert found.objective == pytest.approx(best.item(), rel=1e-12)
    assert found.rollouts < 10**4


@pytest.mark.parametrize("rollouts", [1, 2, 7, 30, 300])
def test_rollouts_are_those_of_the_budget(env, policy, instances, rng, rollouts: int) -> None:
    """As many simulations are made as the budget allows, in the middle of a level or in a further pass."""
    found = SGBS(policy, 3, 3)(env, instances, MaxRollouts(rollouts), rng)
    assert [s.rollouts for s in found] == [rollouts] * 3


def test_passes_without_a_budget(env, policy, instances, rng) -> None:
    """Without a limit there is one pass; with one, wider beams follow it and find at least as much."""
    once, limited = (SGBS(policy, 2, 2)(env, instances, budget, rng) for budget in (Budget(), MaxRollouts(200)))
    assert once[0].rollouts == 1 + 3 + 2 * 5  # greedy, the root's others, one more child of both at nodes with several
    assert limited[0].rollouts == 200
    assert all(more.objective <= less.objective for more, less in zip(limited, once, strict=True))


def test_seconds_and_the_cancel_event_end_it(env, policy, instances, rng, ticking) -> None:
    """A budget in seconds is kept, with an answer; a cancelled search returns the greedy rollout."""
    found = SGBS(policy)(env, instances, MaxSeconds(1), rng)[0]
    assert found.rollouts > 20
    assert found.seconds < 1.05
    cancelled = MaxSeconds(60)
    cancelled.cancel.set()
    assert SGBS(policy)(env, instances, cancelled, rng)[0].rollouts == 1


@pytest.mark.parametrize("argument", ["beta", "gamma"])
def test_nothing_to_expand_is_refused(policy, argument: str) -> None:
    """A beam without nodes or children is refused, with the value."""
    with pytest.raises(ArgumentError, match=rf"{argument}: 0 is not allowed; it must be at least 1"):
        SGBS(policy, **{argument: 0})
