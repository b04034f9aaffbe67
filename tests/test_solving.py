from __future__ import annotations

import functools
import json
import math
import resource
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Orienteering

from ncogym import composing, pretrained, solving
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.composing import choose_policy, make_solver, needs_policy
from ncogym.envs import make
from ncogym.errors import (
    ArgumentError,
    InstanceError,
    InvalidSolution,
    NcogymWarning,
    NotEnoughMemory,
    UnsupportedProblem,
)
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent, Policy, PolyNet, Population
from ncogym.pretrained import save_policy
from ncogym.search import GreedySearch
from ncogym.solution import Solution
from ncogym.solving import Solved, check_output, render, solve
from ncogym.task import Task


@pytest.fixture(scope="module")
def policy() -> Policy:
    """An attention policy of random weights for tours."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return AttentionPolicy(make("tsp").feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()


@pytest.fixture(scope="module")
def conditioned() -> Callable[[type[Policy]], Policy]:
    """Return a function that makes a policy of a class, with conditions or without, for tours."""

    def made(kind: type[Any]) -> Policy:
        tiny = functools.partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=16)
        dims = make("tsp").feature_dims
        return (tiny(dims) if kind is AttentionPolicy else kind(dims, base=tiny)).eval()

    return made


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    """That policy in a folder, with a card."""
    save_policy(policy, tmp_path / "tiny", {"env": {"name": "tsp", "arguments": {}}, "sizes": [4, 9]})
    return tmp_path / "tiny"


def solved(objective: float, best_known: float | None, sense: str = "min") -> Solved:
    """Return a result that is not of a solver, to be asked for its gap."""
    env = make("tsp")
    env.sense = sense
    solution = Solution(torch.arange(3), objective, True, None, 0.0, 1, (), "by hand")
    return Solved("a.tsp", "a", env, env.generate(1, torch.Generator()), solution, None, best_known, 0)


# ---------------------------------------------------------------------- solvers by name


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("greedy", "greedy"),
        ("sampling", "sampling"),
        ("multistart", "multistart"),
        ("symmetry", "symmetry"),
        ("multistart+symmetry", "multistart+symmetry"),
        ("symmetry+multistart", "multistart+symmetry"),
        ("multistart+sampling", "multistart+sampling"),
        ("sampling+symmetry", "sampling+symmetry"),
        ("multistart+sampling+symmetry", "multistart+sampling+symmetry"),
        ("greedy+two-opt", "greedy+two-opt"),
        ("multistart+symmetry+two-opt", "multistart+symmetry+two-opt"),
        ("multistart+two-opt+symmetry", "multistart+two-opt+symmetry"),
        ("two-opt+multistart+symmetry", "multistart+two-opt+symmetry"),
        ("stochastic-beam", "stochastic-beam"),
        ("stochastic-beam+two-opt", "stochastic-beam+two-opt"),
        ("beam", "beam"),
        ("beam+symmetry+two-opt", "beam+symmetry+two-opt"),
        ("sgbs", "sgbs"),
        ("sgbs+symmetry", "sgbs+symmetry"),
        ("active", "active"),
        ("active+symmetry", "active+symmetry"),
        ("eas", "eas"),
        ("eas+symmetry+two-opt", "eas+symmetry+two-opt"),
        ("eas-lay", "eas-lay"),
        ("eas-tab+two-opt", "eas-tab+two-opt"),
        ("auto", "nearest-neighbour+multistart+sampling+two-opt+symmetry"),
        ("two-opt", "two-opt"),
        ("farthest-insertion", "farthest-insertion"),
        ("random-insertion+two-opt+symmetry", "random-insertion+two-opt+symmetry"),
        ("multistart+symmetry+eas+two-opt", "multistart+symmetry+eas+two-opt"),
        ("sampling+eas-tab+active", "sampling+eas-tab+active"),
        ("eas+eas-lay+symmetry", "eas+eas-lay+symmetry"),
    ],
)
def test_name_builds_the_solver(policy: Policy, name: str, built: str) -> None:
    """Each name and composition gives the solver that calls itself so, and it solves; wrappers keep their order."""
    solver = make_solver(name, policy)
    assert solver.name == ("auto" if name == "auto" else built)
    env = make("tsp", num_nodes=5)
    rng = torch.Generator().manual_seed(0)
    (solution,) = solver(env, env.generate(1, rng), MaxRollouts(3), rng)
    assert solution.feasible
    assert solution.solver == built


@pytest.mark.parametrize(
    ("problem", "built"),
    [
        ({"name": "tsp", "num_nodes": 5}, "nearest-neighbour+multistart+sampling+two-opt+symmetry"),
        ({"name": "cvrp", "num_customers": 5}, "savings+reconstruct"),
        ({"name": "atsp", "num_nodes": 5}, "nearest-neighbour+reconstruct"),
        ({"name": "knapsack", "num_items": 5}, "ratio-greedy+sampling+symmetry+reconstruct"),
    ],
)
@pytest.mark.parametrize("budget", [None, MaxRollouts(3), MaxRollouts(300)])
def test_auto_is_composed_by_what_the_problem_offers(
    problem: dict[str, Any], built: str, budget: Budget | None
) -> None:
    """2-opt joins on symmetric tours; elsewhere the policy rebuilds, after samples where starts do not pay.

    Each begins with a heuristic, which is named and counts no rollouts.
    """
    env, rng = make(**problem), torch.Generator().manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2, feedforward=16).eval()
    (solution,) = make_solver("auto", policy)(env, env.generate(1, rng), budget, rng)
    assert solution.feasible
    assert solution.solver == built
    assert solution.rollouts <= (2 * 128 + 8 * 128 if budget is None else budget.rollouts)


BEGINNINGS = {
    "tsp": "nearest-neighbour+two-opt",
    "atsp": "nearest-neighbour",
    "cvrp": "savings",
    "knapsack": "ratio-greedy",
    "jssp": "dispatch:MWKR",
}


@pytest.mark.parametrize(("problem", "built"), BEGINNINGS.items())
def test_auto_answers_without_the_policy_where_memory_is_short(monkeypatch, problem: str, built: str) -> None:
    """The policy is left out and one line says so; what has the name of a search is refused in one line."""
    env, rng = make(problem).resized(8), torch.Generator().manual_seed(0)
    policy: Any = (GraphPolicy if problem == "jssp" else AttentionPolicy)(env.feature_dims, dim=8).eval()
    instances = env.generate(2, rng)
    monkeypatch.setattr("ncogym.rollout.memory.free_memory", lambda device: 1e5)
    line = rf"^auto: the policy is left out: .*Policy takes about .* GB to encode {problem} of size 8; allowed are 25 %"
    with pytest.warns(NcogymWarning, match=line):
        found = make_solver("auto", policy)(env, instances, MaxRollouts(20), rng)
    assert [(s.solver, s.feasible, s.rollouts) for s in found] == [(built, True, 0)] * 2
    monkeypatch.setattr("ncogym.rollout.memory.free_memory", lambda device: 1e3)
    with pytest.raises(NotEnoughMemory, match=rf"{problem} of size 8; allowed are the 1e-06 GB that are free$"):
        make_solver("greedy", policy)(env, instances, MaxRollouts(20), rng)


@pytest.mark.parametrize(("problem", "built"), BEGINNINGS.items())
def test_auto_answers_without_the_policy_where_time_is_short(monkeypatch, problem: str, built: str) -> None:
    """Rollouts of the policy that do not end within the budget are given up, and what it began with is the answer."""
    env, rng = make(problem).resized(8), torch.Generator().manual_seed(0)
    kind: Any = GraphPolicy if problem == "jssp" else AttentionPolicy
    now = [100.0]

    class Slow(kind):
        def logits(self, encoded: Any, step: Any) -> torch.Tensor:
            now[0] += 1.0
            return super().logits(encoded, step)

    monkeypatch.setattr("ncogym.rollout.acting.LOOK_EVERY", 1)
    monkeypatch.setattr("ncogym.kernels.find", lambda *args, **more: None)
    monkeypatch.setattr("ncogym.books.time.perf_counter", lambda: now[0])
    found = make_solver("auto", Slow(env.feature_dims, dim=8).eval())(env, env.generate(1, rng), MaxSeconds(3), rng)
    assert [(s.solver, s.feasible, s.rollouts) for s in found] == [(built, True, 0)]
    assert now[0] <= 104.0
    assert not needs_policy(found[0].solver)  # so that it gets no credit


def test_auto_is_no_worse_than_what_it_begins_with() -> None:
    """A policy that knows nothing does not get worse routes than the savings."""
    env, rng = make("cvrp", num_customers=30), torch.Generator().manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(4, rng)
    found = make_solver("auto", policy)(env, instances, MaxRollouts(3), rng)
    saved = make_solver("savings")(env, instances, None, rng)
    assert all(s.objective <= alone.objective for s, alone in zip(found, saved, strict=True))


def test_a_late_answer_is_an_answer_and_is_said(data: Path) -> None:
    """Whoever solves a file gets what was found, and a line that says how long the first solution took."""
    line = r"square4.tsp: 1e-09 s is too small a budget for two-opt; the first solution was complete after .* s$"
    with pytest.warns(NcogymWarning, match=line):
        record = solve(data / "square4.tsp", solver="two-opt", seconds=1e-9).record()
    assert (record["solver"], record["policy"], record["feasible"]) == ("two-opt", None, True)


@pytest.mark.parametrize("budget", [None, MaxRollouts(8)])
def test_auto_solves_a_problem_that_only_looks_like_a_tour(budget: Budget | None) -> None:
    """Distances alone bring no 2-opt; the policy works by itself, and a 2-opt that is asked for refuses in words."""
    env, rng = Task.of(Orienteering, 6), torch.Generator().manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(2, rng)
    found = make_solver("auto", policy)(env, instances, budget, rng)
    assert [solution.solver for solution in found] == ["reconstruct"] * 2
    assert all(solution.feasible for solution in found)
    with pytest.raises(UnsupportedProblem, match=r"two-opt cannot take orienteering; .* shows solvers nothing"):
        make_solver("greedy+two-opt", policy)(env, instances, budget, rng)
    with pytest.raises(UnsupportedProblem, match="policy: none ships for orienteering; name one with --policy"):
        choose_policy(None, env, 6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gredy", "'gredy' is not known; allowed are auto, greedy"),
        ("", "'' is not known"),
        ("greedy+", "'' is not known"),
        ("auto+symmetry", "'auto' is not known"),
        ("symmetry+symmetry", "does not compose"),
        ("greedy+two-opt+two-opt", "does not compose"),
        ("greedy+multistart", "'greedy\\+multistart' does not compose"),
        ("multistart+hgs", "does not compose"),
        ("ortools+multistart", "does not compose; after what builds solutions may come symmetry, two-opt, reconstruct"),
        ("eas+multistart", "does not compose"),
        ("two-opt+farthest-insertion+greedy", "does not compose"),
    ],
)
def test_name_that_makes_no_sense_is_refused(policy: Policy, name: str, words: str) -> None:
    """An unknown part and parts that do not compose are told in one line."""
    with pytest.raises(ArgumentError, match=words) as refused:
        make_solver(name, policy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("poppy", Population),
        ("poppy", PolyNet),
        ("poppy+symmetry", Population),
        ("symmetry+poppy+two-opt", PolyNet),
        ("compass", Latent),
        ("compass-random", Latent),
        ("compass+symmetry+two-opt", Latent),
        ("two-opt", Latent),
    ],
)
def test_search_under_conditions_takes_its_policy(conditioned, name: str, kind: type[Policy]) -> None:
    """A population and a policy with latents are solved with, alone and composed; a baseline looks at no policy."""
    env, rng = make("tsp", num_nodes=5), torch.Generator().manual_seed(0)
    (solution,) = make_solver(name, conditioned(kind))(env, env.generate(1, rng), MaxRollouts(3), rng)
    assert solution.feasible
    assert sorted(solution.solver.split("+")) == sorted(name.split("+"))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("auto", Population, "auto cannot use a policy of class Population; it takes one without conditions"),
        ("sampling", Population, "sampling cannot use .* Population; .* \\(Population is for poppy\\)"),
        ("symmetry", Latent, "symmetry cannot use .* Latent; .* \\(Latent is for compass, compass-random\\)"),
        ("compass", AttentionPolicy, "compass cannot use a policy of class AttentionPolicy; it takes Latent$"),
        (
            "poppy",
            AttentionPolicy,
            "poppy cannot use .* AttentionPolicy; it takes Population or PolyNet$",
        ),
        ("poppy", Latent, "it takes Population or PolyNet \\(Latent is for compass, compass-random\\)"),
        ("compass", PolyNet, "it takes Latent \\(PolyNet is for poppy\\)"),
        ("compass+reconstruct", Latent, "solver: reconstruct cannot use a policy of class Latent"),
        ("poppy+eas", Population, "solver: eas cannot use a policy of class Population"),
        ("savings+reconstruct", Population, "solver: reconstruct cannot use a policy of class Population"),
        ("two-opt+symmetry", Population, "cannot use a policy of class Population"),
        ("poppy+compass", Population, "does not compose"),
    ],
)
def test_policy_that_a_search_cannot_use_is_refused(conditioned, name: str, kind: type[Policy], words: str) -> None:
    """The class that a solver takes is told in one line, and the solver that takes this one."""
    with pytest.raises(ArgumentError, match=words) as refused:
        make_solver(name, conditioned(kind))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["auto", "greedy", "multistart+symmetry+two-opt"])
def test_search_without_a_policy_is_refused(name: str) -> None:
    """A search that gets no policy says so."""
    with pytest.raises(ArgumentError, match="is a search and needs a policy"):
        make_solver(name)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("auto", True),
        ("greedy", True),
        ("multistart+two-opt", True),
        ("two-opt", False),
        ("ortools+symmetry", False),
        ("savings+pyvrp", False),
        ("savings+eas", True),
        ("sampling+cp-sat", True),
        ("two-opt+symmetry", True),
    ],
)
def test_searches_need_a_policy_and_baselines_do_not(name: str, needed: bool) -> None:
    """A name needs a policy where one of its parts is a search."""
    assert needs_policy(name) is needed


# ---------------------------------------------------------------------- policies and problems


def test_named_policy_is_loaded(folder: Path) -> None:
    """A folder that is named wins over what ships."""
    assert choose_policy(str(folder), make("tsp"), 5).card["sizes"] == [4, 9]


def test_shipped_policy_of_the_nearest_sizes_is_chosen(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name the shipped policy is taken whose training sizes are nearest to the instance's."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    for name, sizes in {"small": [4, 9], "large": [50, 90]}.items():
        save_policy(policy, tmp_path / name, {"env": {"name": "tsp"}, "sizes": sizes})
    chosen = [choose_policy(None, make("tsp"), size).name for size in (2, 9, 29, 31, 200)]
    assert chosen == ["small", "small", "small", "large", "large"]


def test_shipped_policy_is_of_a_class_that_the_solver_takes(
    policy: Policy, conditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name a search gets a policy that it can use, even where another one's sizes are nearer."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    shipped = {"plain": (policy, [40, 90]), "latent": (conditioned(Latent), [4, 9])}
    for name, (each, sizes) in shipped.items():
        save_policy(each, tmp_path / name, {"env": {"name": "tsp"}, "sizes": sizes})
    solvers = ("auto", "eas+symmetry", "compass", "compass-random+two-opt")
    chosen = [choose_policy(None, make("tsp"), 5, solver).name for solver in solvers]
    assert chosen == ["plain", "plain", "latent", "latent"]
    with pytest.raises(UnsupportedProblem, match="no Population or PolyNet ships for tsp; name one with --policy, or"):
        choose_policy(None, make("tsp"), 5, "poppy+symmetry")


def test_problem_without_a_shipped_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no policy ships for a problem, the line says what to name instead."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    with pytest.raises(UnsupportedProblem, match="none ships for tsp; name one with --policy"):
        choose_policy(None, make("tsp"), 5)


def test_policy_of_another_problem_is_refused(policy: Policy, tmp_path: Path) -> None:
    """A policy that was trained on another problem is refused by both names."""
    save_policy(policy, tmp_path, {"env": {"name": "knapsack"}, "sizes": [4, 9]})
    with pytest.raises(UnsupportedProblem, match="it was trained on knapsack and cannot solve tsp"):
        choose_policy(str(tmp_path), make("tsp"), 5)


# ---------------------------------------------------------------------- solve


def test_solve_answers_with_the_record(folder: Path, data: Path) -> None:
    """A rectangle of 3 x 4 is solved to its 14, with the fields and the order of docs/design.md section 6."""
    record = solve(data / "rectangle4.tsp", policy=str(folder), seed=3).record()
    seconds, actions = record.pop("seconds"), record.pop("actions")
    assert record == {
        "file": str(data / "rectangle4.tsp"),
        "instance": "rectangle4",
        "problem": "tsp",
        "solver": "nearest-neighbour+multistart+sampling+two-opt+symmetry",
        "policy": str(folder),
        "objective": 14,
        "best_known": 14,
        "gap_percent": 0.0,
        "feasible": True,
        "violation": None,
        "rollouts": 32,
        "seed": 3,
        "answer": actions,
    }
    assert isinstance(record["objective"], int)
    assert 0 < seconds < 60
    assert sorted(actions) == [0, 1, 2, 3]
    json.dumps(actions)


@pytest.mark.parametrize(("solver", "kind"), [("poppy", Population), ("compass", Latent)])
def test_solve_with_conditions(conditioned, data: Path, tmp_path: Path, solver: str, kind: type[Policy]) -> None:
    """A folder with a population or a policy with latents solves a file, and a search that cannot use it says so."""
    save_policy(conditioned(kind), tmp_path / "own", {"env": {"name": "tsp", "arguments": {}}, "sizes": [4, 9]})
    settings: dict[str, Any] = {"policy": str(tmp_path / "own"), "rollouts": 50}
    record = solve(data / "rectangle4.tsp", solver=solver, **settings).record()
    assert (record["solver"], record["rollouts"], record["feasible"]) == (solver, 50, True)
    assert record["objective"] >= 14  # as good as untrained weights happen to be
    with pytest.raises(ArgumentError, match=f"auto cannot use a policy of class {kind.__name__}"):
        solve(data / "rectangle4.tsp", **settings)


def test_baseline_loads_no_policy(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A classical solver is called without looking for a policy, and its record names none."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    record = solve(data / "rectangle4.tsp", solver="two-opt").record()
    assert (record["policy"], record["objective"]) == (None, 14)


def test_given_best_known_wins(data: Path) -> None:
    """The gap is to the value that is given, not to the published tour beside the file."""
    record = solve(data / "rectangle4.tsp", solver="two-opt", best_known=10).record()
    assert record["best_known"] == 10
    assert record["gap_percent"] == pytest.approx(40)


def test_the_carried_map_comes_with_its_optimum() -> None:
    """The capitals have a tour beside them of the length that CP-SAT proved, so that their gap is known."""
    capitals = Path(__file__).parents[1] / "ncogym" / "data" / "capitals.tsp"
    record = solve(capitals, solver="fast-tsp").record()
    assert record["best_known"] == 25226
    assert record["gap_percent"] >= 0


def test_no_published_tour_means_no_gap(data: Path) -> None:
    """Without a published solution beside the file neither it nor a gap is claimed."""
    record = solve(data / "matrix4.tsp", solver="two-opt").record()
    assert (record["objective"], record["best_known"], record["gap_percent"]) == (16, None, None)


@pytest.mark.parametrize("value", [0, -3.0, float("nan"), float("inf")])
def test_best_known_must_be_a_length(data: Path, value: float) -> None:
    """A reference that no gap can be taken to is refused."""
    with pytest.raises(ArgumentError, match=r"best_known: .* is not allowed; it must be above 0"):
        solve(data / "rectangle4.tsp", solver="two-opt", best_known=value)


def test_limits_are_joined_with_the_budget(folder: Path, data: Path) -> None:
    """Whichever of rollouts, seconds and budget is least ends the search."""
    settings: dict[str, Any] = {"solver": "sampling", "policy": str(folder)}
    file = data / "rectangle4.tsp"
    assert solve(file, rollouts=5, **settings).solution.rollouts == 5
    assert solve(file, rollouts=5, budget=MaxRollouts(3), **settings).solution.rollouts == 3
    assert solve(file, rollouts=2, budget=MaxRollouts(3), seconds=60, **settings).solution.rollouts == 2


def test_cancelled_solve_still_answers(folder: Path, data: Path) -> None:
    """A budget that is cancelled before the search leaves a checked solution."""
    budget = Budget()
    budget.cancel.set()
    solution = solve(data / "rectangle4.tsp", policy=str(folder), budget=budget).solution
    assert solution.feasible
    assert solution.rollouts < 32


def test_same_seed_same_answer(folder: Path, data: Path) -> None:
    """Everything that the solver draws follows from the seed."""
    tours = [
        solve(data / "square4.tsp", solver="sampling", policy=str(folder), rollouts=1, seed=seed).solution.actions
        for seed in (1, 1, 2, 3, 4)
    ]
    assert torch.equal(tours[0], tours[1])
    assert not all(torch.equal(tours[0], tour) for tour in tours)


@pytest.mark.parametrize(
    ("objective", "best_known", "sense", "gap"),
    [
        (11.0, 10.0, "min", 10.0),
        (9.0, 10.0, "min", -10.0),
        (8.0, 10.0, "max", 20.0),
        (10.0, 10.0, "max", 0.0),
        (12.0, None, "min", None),
        (0.0, 10.0, "max", 100.0),
        (1.0, 0.0, "min", None),
    ],
)
def test_gap_is_larger_where_worse(objective: float, best_known: float | None, sense: str, gap: float | None) -> None:
    """A minimiser's gap is objective over best known, a maximiser's the mirror; without a reference there is none."""
    assert solved(objective, best_known, sense).gap_percent == (gap if gap is None else pytest.approx(gap))


# ---------------------------------------------------------------------- what is written, and drawn again


@pytest.fixture
def written(data: Path, tmp_path: Path) -> Path:
    """The record of a solved rectangle, with what lies beside it; its instance is named by a path that is gone."""
    file = tmp_path / "moved" / "rectangle4.v2.tsp"
    file.parent.mkdir()
    file.write_text((data / "rectangle4.tsp").read_text())
    solve(file, solver="two-opt").write(tmp_path / "out")
    file.rename(tmp_path / "out" / file.name)
    return tmp_path / "out" / "rectangle4.v2.json"


def test_write_leaves_record_tour_and_picture(written: Path) -> None:
    """The folder holds the record, the tour in the problem's format and a picture, named after the instance."""
    names = {path.name for path in written.parent.iterdir()}
    assert names == {f"rectangle4.v2{suffix}" for suffix in (".json", ".tour", ".png", ".tsp")}
    assert json.loads(written.read_text())["objective"] == 14
    assert "Length 14" in written.with_suffix(".tour").read_text()
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_infeasible_solution_leaves_its_record_only(tmp_path: Path) -> None:
    """What the referee refuses is recorded as such and neither drawn nor written as a tour."""
    answer = solved(1.0, None)
    object.__setattr__(answer.solution, "feasible", False)
    answer.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_render_draws_a_record(written: Path, tmp_path: Path) -> None:
    """The instance is found beside the record where its own path is gone, and the picture has its suffix's format."""
    render(written, tmp_path / "again.svg")
    assert "<svg" in (tmp_path / "again.svg").read_text()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"actions": [0, 0, 1, 2]}, InvalidSolution, "node 0 is visited at step 0 and again at step 1"),
        ({"actions": [0, 1, 2]}, InvalidSolution, "3 nodes are visited; all 4 must be"),
        ({"actions": []}, InvalidSolution, "0 nodes are visited"),
        ({"actions": [0, 1, 2, 10**30]}, InstanceError, "not a record of solve"),
        ({"actions": [[0], [1], [2], [3]]}, InstanceError, "actions must be whole numbers"),
        ({"actions": [0, 1, 2.5, 3]}, InstanceError, "actions must be whole numbers"),
        ({"actions": "0123"}, InstanceError, "actions must be whole numbers"),
        ({"actions": None}, InstanceError, "not a record of solve"),
        ({"objective": 15}, InvalidSolution, "objective 15 is not that of its actions, 14"),
        ({"objective": "short"}, InstanceError, "not a record of solve"),
        ({"problem": "tps"}, InstanceError, "'tps' is not known"),
        ({"file": "gone.tsp"}, InstanceError, "gone.tsp: no such file"),
    ],
)
def test_render_checks_what_it_draws(written: Path, tmp_path: Path, change: dict, error: type, words: str) -> None:
    """A record that breaks a constraint, claims another objective or is none is refused, and nothing is drawn."""
    written.write_text(json.dumps(json.loads(written.read_text()) | change))
    with pytest.raises(error, match=words):
        render(written, tmp_path / "again.png")
    assert not (tmp_path / "again.png").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"file": "a.tsp"}', "\x00"])
def test_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    """Text that is not a record is told as such, with its path."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InstanceError, match=r"a\.json: (not a record of solve|binary data)"):
        render(tmp_path / "a.json", tmp_path / "a.png")


def test_missing_record_is_named(tmp_path: Path) -> None:
    """A record that is not there is named."""
    with pytest.raises(InstanceError, match=r"a\.json: no such file"):
        render(tmp_path / "a.json", tmp_path / "a.png")


def test_the_kernel_is_ready_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds at its first use is built before the search that has a budget; a baseline needs nothing."""
    order: list[str] = []
    built = solving.make_solver

    def watched(*arguments: Any) -> Any:
        solver = built(*arguments)

        def run(*given: Any) -> Any:
            order.append("search")
            return solver(*given)

        return run

    monkeypatch.setattr(solving, "make_solver", watched)
    monkeypatch.setattr(solving.kernels, "prepare", lambda *_: order.append("prepare"))
    file = Path(__file__).parent / "data" / "square4.tsp"
    solving.solve(file, solver="greedy")
    solving.solve(file, solver="nearest-neighbour")
    assert order == ["prepare", "search", "search"]


@pytest.mark.parametrize(("seconds", "takes", "left"), [(10, 4, 6), (3, 4, 1.5), (10, 0, 10), (None, 4, math.inf)])
def test_a_kernel_that_is_compiled_counts_in_the_budget(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, takes: float, left: float
) -> None:
    """Compiling comes off the seconds, but for half of them, and is told; finding what is compiled is neither."""
    budgets = []

    class Watched(GreedySearch):
        def __call__(self, env: Any, instances: Any, budget: Any, rng: Any) -> Any:
            budgets.append(budget)
            return super().__call__(env, instances, None, rng)

    monkeypatch.setattr(solving.kernels, "prepare", lambda *_: takes)
    monkeypatch.setitem(composing.SEARCHES, "greedy", Watched)
    given = Budget()
    file = Path(__file__).parent / "data" / "square4.tsp"
    with warnings.catch_warnings(record=True) as told:
        solving.solve(file, solver="greedy", seconds=seconds, budget=given)
    words = f"a kernel was compiled for this policy and this processor, once, in 4.0 s; the search has {left:g} s of "
    assert [str(each.message) for each in told] == ([f"{words}{seconds} s"] if seconds and takes else [])
    assert budgets[0].seconds == pytest.approx(left)
    assert budgets[0].cancel is given.cancel


# ---------------------------------------------------------------------- arrays, proofs, and names of all kinds


def arrays(path: Path, count: int) -> Path:
    """Write random tours to a file."""
    np.savez(path, locs=np.random.default_rng(0).uniform(size=(count, 6, 2)))
    return path


def test_arrays_of_one_instance_are_solved(tmp_path: Path) -> None:
    """An .npz file of one instance is solved, written and drawn as any other file."""
    answer = solve(arrays(tmp_path / "one.npz", 1), solver="two-opt")
    assert (answer.instance, answer.env.name, answer.best_known) == ("one", "tsp", None)
    check_output(tmp_path / "one.npz", tmp_path / "out")
    answer.write(tmp_path / "out")
    render(tmp_path / "out" / "one.json", tmp_path / "again.png")
    assert (tmp_path / "again.png").exists()


def test_arrays_of_several_instances_are_for_evaluate(tmp_path: Path) -> None:
    """The line says how many there are, and what solves them."""
    path = arrays(tmp_path / "three.npz", 3)
    with pytest.raises(
        InstanceError, match=r"three\.npz: it holds 3 instances, and one is allowed; `ncogym evaluate --"
    ):
        solve(path, solver="two-opt")
    with pytest.raises(InstanceError, match=r"three\.npz: its arrays .* are not those of cvrp"):
        solve(path, solver="savings", problem="cvrp")
    with pytest.raises(InstanceError, match=r"none\.npz: no such file"):
        solve(tmp_path / "none.npz", solver="two-opt")


def test_a_label_is_the_best_known(tmp_path: Path) -> None:
    """The value that an .npz file has of its instance is what the gap is to."""
    locs = np.array([[[0.0, 0], [3, 4], [3, 0], [0, 4]]])
    np.savez(tmp_path / "one.npz", coords=locs, ref_length=np.array([14.0]), ref_tour=np.array([[0, 2, 1, 3]]))
    assert solve(tmp_path / "one.npz", solver="two-opt").gap_percent == pytest.approx(0)


@pytest.mark.parametrize(("known", "loud"), [(13, True), (14, False), (15, False), (None, False)])
def test_a_proof_that_contradicts_the_best_known_is_loud(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: float | None, loud: bool
) -> None:
    """Where a solver has proven an optimum that is worse than what is said to be known, one of the two is wrong."""

    class Proving(GreedySearch):
        def __call__(self, env: Any, *given: Any) -> Any:
            actions = torch.tensor([0, 2, 1, 3])
            return [Solution(actions, 14.0, True, None, 0.0, 1, (), "prover", proven=True)]

    monkeypatch.setattr(solving, "make_solver", lambda *_: Proving(None))
    shutil.copy(data / "rectangle4.tsp", tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        solve(tmp_path / "rectangle4.tsp", solver="two-opt", best_known=known)
    told = [str(each.message) for each in said if issubclass(each.category, NcogymWarning)]
    assert bool(told) is loud
    if loud:
        assert "WRONG: prover has proven 14 to be optimal, but the best known 13 is better" in told[0]


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Three nodes on a line: a tour of 20."""
    path = tmp_path / "a.tsp"
    head = "TYPE: TSP\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n"
    path.write_text(f"{head}1 0 0\n2 3 4\n3 6 8\n")
    return path


@pytest.mark.parametrize("suffix", [".json", ".tour", ".png"])
def test_what_others_put_there_is_never_replaced(line: Path, suffix: str) -> None:
    """A folder with a file of that name is refused before anything is solved, and the file stays as it was."""
    there = line.with_suffix(suffix)
    there.write_text("mine")
    answer = solve(line, solver="two-opt")
    for write in (lambda: check_output(line, line.parent), lambda: answer.write(line.parent)):
        with pytest.raises(ArgumentError, match=rf"output: .*a\{suffix} was not written by `ncogym solve`"):
            write()
    assert there.read_text() == "mine"
    assert sorted(path.name for path in line.parent.iterdir()) == sorted(["a.tsp", f"a{suffix}"])


def test_what_solve_wrote_is_replaced(line: Path) -> None:
    """A second answer takes the place of the first."""
    for seed in (1, 2):
        check_output(line, line.parent)
        solve(line, solver="two-opt", seed=seed).write(line.parent)
    assert json.loads(line.with_suffix(".json").read_text())["seed"] == 2


def test_two_files_of_one_name_need_two_folders(line: Path, tmp_path: Path) -> None:
    """A folder that holds the answer for one file is refused for another of that name, at once."""
    (tmp_path / "other").mkdir()
    shutil.copy(line, tmp_path / "other")
    solve(line, solver="two-opt").write(tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"out/a\.json is of another instance file, .*a\.tsp; name another folder"):
        check_output(tmp_path / "other" / "a.tsp", tmp_path / "out")
    check_output(line, tmp_path / "out")


def test_a_bad_file_is_not_the_outputs_fault(tmp_path: Path) -> None:
    """What cannot be read is told when it is solved."""
    (tmp_path / "a.tsp").write_text("none")
    check_output(tmp_path / "a.tsp", tmp_path)
    check_output(tmp_path / "gone", tmp_path)


@pytest.mark.parametrize("moved", ["instance beside the record", "both folders", "record alone"])
def test_a_record_finds_its_instance(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str) -> None:
    """A record is drawn from any folder, and where it was moved, with its instance or without."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    line.rename(home / "data" / "a.tsp")
    monkeypatch.chdir(home)
    solve("data/a.tsp", solver="two-opt").write("out")
    record = home / "out" / "a.json"
    if moved == "both folders":
        record = home.rename(tmp_path / "elsewhere") / "out" / "a.json"
    elif moved == "record alone":
        (tmp_path / "other").mkdir()
        record = record.rename(tmp_path / "other" / "b.json")
    else:
        (home / "data" / "a.tsp").rename(home / "out" / "a.tsp")
    monkeypatch.chdir(tmp_path)
    assert json.loads(record.read_text())["file"] == "data/a.tsp"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tsp").write_text("another of that name")
    render(record, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": 10**400}, "not a record of solve"),
        ({"file": "\ud800"}, "not a record of solve"),
        ({"file": "\0"}, "no zero byte"),
        ({"file": 3}, "not a record of solve"),
        ({"file": "x" * 300}, "file name too long"),
        ({"places": ["x" * 300, "\ud800"]}, "not a record of solve"),
        ({"places": 7}, "not a record of solve"),
        ({"actions": [10**400]}, "not a record of solve"),
    ],
)
def test_a_hostile_record_is_told_in_one_line(line: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Numbers and names that no computer can hold are refused as those of no record."""
    solve(line, solver="two-opt").write(tmp_path / "out")
    record = tmp_path / "out" / "a.json"
    said = {**json.loads(record.read_text()), "places": [], **change}
    record.write_text(json.dumps(said))
    with pytest.raises(InstanceError, match=rf"(?i){words}"):
        render(record, tmp_path / "again.png")
    assert not (tmp_path / "again.png").exists()


def test_a_deep_record_is_told_in_one_line(tmp_path: Path) -> None:
    """So are brackets without end."""
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InstanceError, match="not a record of solve"):
        render(tmp_path / "a.json", tmp_path / "a.png")


def test_a_picture_of_no_format_is_refused(line: Path, tmp_path: Path) -> None:
    """The suffix of a picture must be one that can be drawn."""
    solve(line, solver="two-opt").write(tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"suffix '\.xyz' of again\.xyz is not allowed; it must be .*\.png"):
        render(tmp_path / "out" / "a.json", tmp_path / "again.xyz")
    assert not (tmp_path / "again.xyz").exists()


def test_a_full_disk_leaves_no_half_file(line: Path, tmp_path: Path) -> None:
    """The file that does not fit is named, and what was there before is there still."""
    solve(line, solver="two-opt", seed=1).write(tmp_path)
    answer = solve(line, solver="two-opt", seed=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.png"):
            answer.write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
