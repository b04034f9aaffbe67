from __future__ import annotations

import itertools
import threading
from collections import Counter
from fractions import Fraction

import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines.dispatching import RULES, SAMPLES, WINDOW, Dispatching, _shuffled
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.distribution import stack
from ncogym.envs.routing.tsp import TSP
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError, UnsupportedProblem
from ncogym.task import Task


@pytest.fixture
def three() -> TensorDict:
    """Three jobs on two machines: job 0 is 2 on m1, 1 on m0; job 1 is 3 on m1, 3 on m0; job 2 is 3 on m1."""
    duration = torch.tensor([[[2, 1], [3, 3], [3, 0]]])
    return TensorDict({"duration": duration, "machine": torch.tensor([[[1, 0], [1, 0], [1, -1]]])}, batch_size=[1])


@pytest.mark.parametrize(
    ("rule", "jobs", "makespan"),
    [
        # all wait for m1 at 0; job 0 is the shortest. At 2 its 1 on m0, then job 1 (as long as 2) on m1. At 5 the rest
        ("SPT", [0, 0, 1, 1, 2], 8),
        # job 1 (as long as 2) to 3; then its second on m0, and job 2, longer than job 0, on m1 to 6; then job 0 to 8, 9
        ("LPT", [1, 1, 2, 0, 0], 9),
        # all are ready at 0; at 2 job 1 has waited longer than job 0, at 5 job 2 longer than job 1
        ("FIFO", [0, 1, 0, 2, 1], 8),
        # two, two, one; at 2 one, two, one; at 5 one each for jobs 1 and 2
        ("MOR", [0, 1, 0, 1, 2], 8),
        # job 2 has one; at 3 two each; at 5 job 0 has one; job 1 is last, from 5 to 11
        ("LOR", [2, 0, 0, 1, 1], 11),
        # 3, 6, 3: job 1 to 3; then 3 each: job 0 on m1 and job 1 on m0; at 5 job 2 on m1, since m0 is busy until 6
        ("MWKR", [1, 0, 1, 2, 0], 8),
        # 3, 6, 3: job 0 to 2; then 1, 6, 3: job 0 on m0, job 2 on m1 to 5; job 1 is last, from 5 to 11
        ("LWKR", [0, 0, 2, 1, 1], 11),
    ],
)
def test_each_rule_by_hand(rule, jobs, makespan, three, rng):
    """Every rule gives the schedule worked out by hand, ties going to the first job."""
    (solution,) = Dispatching(rule)(Task.of(JSSP, 3, 2), three, None, rng)
    assert (solution.actions.tolist(), solution.objective) == (jobs, makespan)
    assert (solution.feasible, solution.rollouts, solution.solver) == (True, 1, f"dispatch:{rule}")


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_no_machine_waits_for_a_job(rule, randomised, rng):
    """Every operation dispatched is one that the environment's non-delay mask allows, jobs of any length included."""
    env = Task.of(JSSP, 5, 4, non_delay=True)
    instances = stack([env.generate(3, rng), Task.of(JSSP, 3, 3).generate(2, rng)], JSSP.padding)
    instances["duration"][0, :2, 1] = 0
    durations, machines = instances["duration"], instances["machine"]
    actions = Dispatching(rule)._dispatch(durations, machines, 6, rng if randomised else None, lambda: None)
    state = env.start(instances, 6)
    for action in actions.unbind(-1):
        assert state.action_mask.gather(-1, action.unsqueeze(-1)).all()
        state = env.advance(state, action)
    assert state.done.all()
    assert not env.violations(instances, actions)
    assert len(actions.flatten(0, 1).unique(dim=0)) > (5 * 3 if randomised else 4)


def test_a_row_does_not_depend_on_its_batch(rng):
    """An instance is dispatched in a batch with larger ones as it is alone."""
    instances = [Task.of(JSSP, jobs, machines).generate(1, rng) for jobs, machines in ((2, 5), (6, 3), (4, 4))]
    together = Dispatching("MWKR")(Task.of(JSSP, 6, 5), stack(instances, JSSP.padding), None, rng)
    for one, solution in zip(instances, together, strict=True):
        (alone,) = Dispatching("MWKR")(Task.of(JSSP, 6, 5), one, None, rng)
        assert solution.actions[: len(alone.actions)].tolist() == alone.actions.tolist()
        assert solution.objective == alone.objective


def test_the_window_draws_as_published(rng):
    """Four jobs come out in every order as often as drawing one of the first three left, again and again, says."""

    def chances(left: tuple[int, ...]) -> Counter:
        if not left:
            return Counter({(): Fraction(1)})
        found: Counter = Counter()
        window = left[:WINDOW]
        for job in window:
            for rest, chance in chances(tuple(other for other in left if other != job)).items():
                found[job, *rest] += chance / len(window)
        return found

    draws = 20_000
    place = torch.tensor([2, 0, 3, 1]).expand(1, draws, 4)  # of each job, by priority
    by_priority = place.argsort(-1)
    when = _shuffled(place, rng).gather(-1, by_priority)
    orders = Counter(map(tuple, when.argsort(-1)[0].tolist()))
    expected = chances((0, 1, 2, 3))
    assert set(orders) == set(expected)  # the last of four is never the first
    for order in itertools.permutations(range(4)):
        assert orders[order] / draws == pytest.approx(float(expected[order]), abs=0.016)


def test_one_order_holds_for_all_that_is_dispatched_at_once(rng):
    """Of four jobs, the last on the machine of the first, it gets ahead in a third of the orders, drawn once at time 0.

    It is ahead with chance 2/3 (the first is not drawn first) times 1/3 + 1/3 * 1/2; drawn anew after one of the two
    others was dispatched, it would be 2/3 * 1/3.
    """
    duration = torch.tensor([[[50, 0], [1, 39], [1, 34], [10, 0]]])
    machine = torch.tensor([[[0, -1], [1, 2], [1, 2], [0, -1]]])
    actions = Dispatching("MWKR")._dispatch(duration, machine, 8000, rng, lambda: None)[0]
    ahead = (actions == 3).int().argmax(-1) < (actions == 0).int().argmax(-1)
    assert ahead.float().mean() == pytest.approx(1 / 3, abs=0.03)


def test_randomised_begins_with_the_rule_and_repeats_itself(rng):
    """The best of a randomised rule is no worse than the rule, better on some, and the same under the same seed."""
    env = Task.of(JSSP, 8, 8)
    instances = env.generate(6, rng)
    plain = Dispatching("MOR")(env, instances, None, rng)
    solver = Dispatching("MOR", randomised=True)
    (first, same, other) = (
        solver(env, instances, MaxRollouts(20), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert solver.name == "dispatch:random-MOR"
    assert [s.trace[0].objective for s in first] == [s.objective for s in plain]
    assert all(s.objective <= p.objective for s, p in zip(first, plain, strict=True))
    assert sum(s.objective for s in first) < sum(p.objective for p in plain)
    assert torch.equal(*(torch.stack([s.actions for s in each]) for each in (first, same)))
    assert not torch.equal(*(torch.stack([s.actions for s in each]) for each in (first, other)))


def test_randomised_keeps_its_budget(three, rng):
    """Without a budget it is the best of 128; under one it takes all rollouts; cancelled, it ends."""
    solver, env = Dispatching("SPT", randomised=True), Task.of(JSSP, 3, 2)
    assert solver(env, three, None, rng)[0].rollouts == SAMPLES == 128
    assert solver(env, three, MaxRollouts(300), rng)[0].rollouts == 300
    assert solver(env, three, MaxRollouts(1), rng)[0].rollouts == 1
    cancel = threading.Event()
    cancel.set()
    assert solver(env, three, Budget(cancel=cancel), rng)[0].rollouts == 1


def test_randomised_keeps_its_seconds(three, rng, ticking):
    """It takes its seconds, and begins no round that would end too late."""
    (solution,) = Dispatching("SPT", randomised=True)(Task.of(JSSP, 3, 2), three, MaxSeconds(1), rng)
    assert solution.rollouts > 1
    assert 0.5 <= solution.seconds < 1.05


def test_published_gaps_on_taillard_15x15(shared_instances, rng):
    """Gaps on ta01 to ta10 are those that Corsini et al. (2024) report: MOR 20.4, MWKR 19.1, SPT 26.1, random 12.6."""
    env = Task.of(JSSP, 15, 15)
    instances = torch.cat([env.read(shared_instances / "jssp" / f"ta{number:02}.txt") for number in range(1, 11)])
    best = [1231, 1244, 1218, 1175, 1224, 1238, 1227, 1217, 1274, 1241]

    def gap(*arguments) -> float:
        solutions = Dispatching(*arguments)(env, instances, None, rng)
        return 10 * sum(s.objective / known - 1 for s, known in zip(solutions, best, strict=True))

    assert gap("MOR") == pytest.approx(20.4, abs=0.3)
    assert gap("MWKR") == pytest.approx(19.1, abs=0.3)
    assert gap("SPT") == pytest.approx(26.1, abs=0.3)
    assert gap("MOR", True) == pytest.approx(12.6, abs=0.6)


def test_what_it_cannot_do_is_refused_in_words(rng):
    """A problem without machines, and a rule that is unknown, are refused in one line."""
    env = Task.of(TSP, 5)
    with pytest.raises(UnsupportedProblem, match=r"^dispatch:SPT cannot take tsp; it .*, and these are closed tours"):
        Dispatching("SPT")(env, env.generate(1, rng), None, rng)
    with pytest.raises(ArgumentError, match=r"^rule: 'MWR' is not allowed; it must be one of SPT, LPT, "):
        Dispatching("MWR")
