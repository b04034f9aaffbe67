from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ncogym import pretrained, references
from ncogym.budget import Budget, MaxRollouts
from ncogym.envs import make
from ncogym.errors import ArgumentError, NcogymWarning, UnsupportedProblem
from ncogym.policies import AttentionPolicy, Latent
from ncogym.pretrained import save_policy
from ncogym.sets import InstanceSet
from ncogym.study import Entry, label, study, weights_sha256


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("two-opt", Entry("two-opt", "two-opt", None)),
        ("greedy@tsp-attention", Entry("greedy@tsp-attention", "greedy", "tsp-attention")),
        ("mine=greedy", Entry("mine", "greedy", None)),
        ("a mixture = multistart+symmetry@out/a=b/policy", Entry("a mixture", "multistart+symmetry", "out/a=b/policy")),
    ],
)
def test_names_are_taken_apart(text: str, entry: Entry) -> None:
    """A solver, a policy of its own, and a label, each where it is given."""
    assert Entry.read(text) == entry


def test_every_set_meets_every_budget() -> None:
    """The evaluations come set by set, each under all budgets, with the set's own name and fingerprint."""
    found = study(make("tsp", num_nodes=5), [3, "kool-tsp20:2"], ["two-opt"], [MaxRollouts(1), Budget()], seed=9)
    assert [(each.instances.count, each.budget) for each in found] == [
        (3, {"rollouts": 1}),
        (3, {}),
        (2, {"rollouts": 1}),
        (2, {}),
    ]
    assert found[0].instances.name == "3 of seed 9, num_nodes 5, distribution uniform"
    assert found[2].instances.name == "kool-tsp20:2"
    assert found[0].instances.blocks[0]["locs"].equal(make("tsp", num_nodes=5).seeded(3, 9)["locs"])


def test_records_come_with_their_origin() -> None:
    """Commit, machine, versions, threads, device, command and policies are known of every evaluation."""
    (found,) = study(None, ["kool-tsp20:1"], ["greedy", "two-opt"], [Budget()], command="ncogym evaluate ...")
    (session,) = found.sessions
    assert {"commit", "machine", "versions", "threads", "device", "command", "started", "policies", "settings"} == set(
        session
    )
    assert (session["device"], session["threads"], session["command"]) == ("cpu", 1, "ncogym evaluate ...")
    assert session["policies"] == {
        "greedy": {
            "name": "tsp-attention",
            "env": {"num_nodes": 100, "distribution": "mixed"},
            "sizes": [20, 150],
            "sha256": weights_sha256(pretrained.load_policy("tsp-attention").policy),
        }
    }
    assert session["settings"] == {}
    assert session["versions"]["torch"] == torch.__version__


def test_several_policies_in_one_run(tmp_path: Path) -> None:
    """Each entry may have a policy of its own, and the journal knows their weights."""
    journals = tmp_path / "journals"
    study(None, ["kool-tsp20:1"], ["a=greedy@tsp-attention", "greedy"], [Budget()], journals=journals)
    line = (journals / "00.jsonl").read_text().splitlines()[0]
    assert line.count('"a": "') == line.count('"greedy": "') == 1


def test_each_entry_gets_a_policy_that_it_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is named, a search in latents and one without conditions get a shipped policy each."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    env, tiny = make("tsp", num_nodes=5), partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=16)
    for name, policy in {"plain": tiny(env.feature_dims), "latent": Latent(env.feature_dims, base=tiny)}.items():
        save_policy(policy, tmp_path / name, {"env": {"name": "tsp", "arguments": {}}, "sizes": [5, 5]})
    (found,) = study(env, [2], ["greedy", "compass", "compass-random"], [MaxRollouts(9)])
    used = {entry: card["name"] for entry, card in found.sessions[0]["policies"].items()}
    assert used == {"greedy": "plain", "compass": "latent", "compass-random": "latent"}


def test_references_of_the_set_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> None:
    """Without a name: best known values of the files, else what ships for the set, else nothing."""
    shipped = references.References("strong (shipped)", torch.ones(2, dtype=torch.float64), (True, False), (None, None))
    monkeypatch.setattr(references, "shipped", lambda env, name, blocks: shipped if name == "kool-tsp20:2" else None)
    solvers, budgets = ["two-opt"], [Budget()]
    assert study(None, ["kool-tsp20:2"], solvers, budgets)[0].references is shipped
    assert study(make("tsp", num_nodes=5), [2], solvers, budgets)[0].references is None
    (file,) = study(None, [str(data / "rectangle4.tsp")], solvers, budgets)
    assert file.records[0].gap_percent == 0.0


def test_named_reference_is_computed_under_the_largest_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gets no less than those that it judges, unless a time of its own is given."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    budgets = [Budget(seconds=100), Budget(seconds=200)]  # more than it takes: it ends of its own accord
    for seconds in (None, 500):
        study(None, ["kool-tsp20:1"], ["two-opt"], budgets, reference="two-opt", reference_seconds=seconds, workers=1)
    names = sorted(path.name for path in tmp_path.rglob("*.jsonl"))
    assert [name.rsplit("-", 1)[0] for name in names] == ["tsp-two-opt-seconds200", "tsp-two-opt-seconds500"]


def test_threads_are_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that can use several threads gets as many as the policies."""
    from ncogym.baselines import CpSat

    seen: list[int] = []
    solve = CpSat._solve
    monkeypatch.setattr(CpSat, "apart", False)  # what another process does cannot be seen here
    monkeypatch.setattr(CpSat, "_solve", lambda self, *rest: (seen.append(self.threads), solve(self, *rest))[1])
    study(None, ["l2d-jssp6x6:1"], ["cp-sat"], [Budget(seconds=100)], threads=2)
    assert set(seen) == {2}


def test_everything_is_refused_before_anything_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is wrong for the second set costs no work on the first."""
    monkeypatch.setattr("ncogym.study.evaluate", lambda *arguments, **options: pytest.fail("work was begun"))
    with pytest.raises(UnsupportedProblem, match="hgs cannot take tsp"):
        study(None, ["kool-tsp20:1", "l2d-jssp6x6:1"], ["hgs"], [Budget()])
    with pytest.raises(ArgumentError, match="nowhere"):
        study(None, ["kool-tsp20:1", "nowhere"], ["two-opt"], [Budget()])


def test_a_solver_that_cannot_take_one_set_costs_nobody_else_anything() -> None:
    """It is said at the start, a line for each cell; its records say why, and all others are as without it."""
    sets, budgets = ["kool-tsp20:2", "l2d-jssp6x6:2"], [MaxRollouts(2)]
    names = ["greedy@tsp-attention", "dispatch:MOR", "greedy"]
    with pytest.warns(NcogymWarning) as told:
        found = study(None, sets, names, budgets, versus="greedy")
    lines = [str(each.message).partition(": ")[0] for each in told if each.category is NcogymWarning]
    assert lines == [
        "dispatch:MOR has no results on kool-tsp20:2",
        "greedy@tsp-attention has no results on l2d-jssp6x6:2",
    ]
    (alone,) = study(None, sets[:1], ["greedy"], budgets)
    assert [r.objective for r in found[0].by_solver["greedy"].values()] == [r.objective for r in alone.records]
    tours, shops = ({s.solver: s for s in each.summaries()} for each in found)
    assert (tours["dispatch:MOR"].feasible, tours["dispatch:MOR"].mean_difference_percent) == (None, None)
    assert (shops["greedy@tsp-attention"].feasible, shops["dispatch:MOR"].feasible) == (None, 1.0)
    assert shops["dispatch:MOR"].mean_difference_percent is not None
    assert "trained on tsp" in found[1].by_solver["greedy@tsp-attention"][0].violation
    assert set(found[1].sessions[0]["policies"]) == {"greedy"}


def test_results_name_what_solvers_were_told() -> None:
    """OR-Tools' strategies and CP-SAT's workers are in the records, alone, inside of others and of several in one."""
    solvers = ["ortools", "savings+ortools", "ortools+symmetry", "cp-sat", "pyvrp"]
    with pytest.warns(NcogymWarning):
        found = study(None, ["kool-cvrp20:1", "l2d-jssp6x6:1"], solvers, [Budget(seconds=0.5)], threads=2)
    routing = "first solution PATH_CHEAPEST_ARC, metaheuristic GUIDED_LOCAL_SEARCH"
    price = "its own parameters, but a price of overload of up to 1000000"
    assert found[0].sessions[0]["settings"] == {**dict.fromkeys(solvers[:3], routing), "pyvrp": price}
    assert found[1].sessions[0]["settings"] == {"cp-sat": "2 workers"}


def test_interrupt_ends_the_study_with_what_is_done() -> None:
    """The evaluation that was cut short is the last, and says so."""
    cancel = threading.Event()

    def after_the_first(name: str, done: int, total: int) -> None:
        cancel.set()

    found = study(
        None,
        ["kool-tsp20:4", "kool-tsp50:4"],
        ["two-opt"],
        [Budget()],
        batch_size=2,
        cancel=cancel,
        progress=after_the_first,
    )
    assert [(each.interrupted, len(each.records)) for each in found] == [(True, 2)]


def test_seconds_end_the_reference_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled study stops while its references are computed."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        study(None, ["kool-tsp20:2"], ["two-opt"], [Budget()], reference="two-opt", workers=1, cancel=cancel)


def test_labels_are_kept_for_longer_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer set begins with the labels of a shorter one; another seed, size, dynamics, budget has its own."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))

    def labelled(count: int = 3, seed: int = 1, rollouts: int = 1, **arguments: Any) -> tuple[InstanceSet, list[int]]:
        told: list[int] = []
        env, budget = make("jssp", **{"num_jobs": 3, "num_machines": 2} | arguments), MaxRollouts(rollouts)
        tick = lambda name, done, total: told.append(done)  # noqa: E731
        return label(env, count, seed, "dispatch:random-SPT", budget, workers=1, progress=tick), told

    first, _ = labelled()
    assert (first.count, first.best_known_name) == (3, "dispatch:random-SPT")
    longer, told = labelled(5)
    assert told == [3, 4, 5]
    assert longer.best_known[:3].equal(first.best_known)
    for other in ({"seed": 2}, {"rollouts": 2}, {"num_jobs": 4}, {"insertion": True}):
        assert labelled(**other)[1] == [1, 2, 3]


def test_a_labeller_must_take_the_problem() -> None:
    """A solver of other problems is refused before anything is solved."""
    with pytest.raises(UnsupportedProblem, match="hgs cannot take tsp"):
        label(make("tsp", num_nodes=5), 2, 1, "hgs", Budget())
