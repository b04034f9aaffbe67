from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from ncogym import references
from ncogym.baselines import CpSat, Dispatching, KnapsackDP, RandomInsertion, Savings, TwoOpt
from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError, InvalidSolution, NoSolutionFound
from ncogym.policies import AttentionPolicy
from ncogym.references import References, compute, ship, shipped
from ncogym.search import Compose, GreedySearch
from ncogym.solution import Solutions

TOURS = make("tsp", num_nodes=6)


class Drawn:
    """A random tour, after a while if wanted; the number of calls is remembered."""

    def __init__(self, name: str = "drawn", seconds: float = 0.0) -> None:
        self.name, self._seconds, self._calls = name, seconds, 0

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return a tour in an order that the generator draws."""
        self._calls += 1
        time.sleep(self._seconds)
        progress = Progress(env, instances, budget)
        batch, nodes = instances["locs"].shape[:2]
        progress.offer(torch.rand(batch, 1, nodes, generator=rng).argsort(-1))
        return progress.solutions(self.name)


class Worse(Drawn):
    """At the n-th call something happens."""

    def __init__(self, call: int, happens: Any) -> None:
        super().__init__()
        self._call, self._happens = call, happens

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return a tour, or what happens instead."""
        solutions = super().__call__(env, instances, budget, rng)
        return (self._happens(env, instances) or solutions) if self._calls == self._call else solutions


def tours(count: int, nodes: int = 6, seed: int = 0) -> TensorDict:
    """Draw instances of the travelling salesman problem."""
    return make("tsp", num_nodes=nodes).generate(count, torch.Generator().manual_seed(seed))


def same(one: References, other: References) -> bool:
    """Whether two results are the same to the last bit."""
    actions = all(a.equal(b) for a, b in zip(one.actions, other.actions, strict=True))
    return actions and one.objective.equal(other.objective) and (one.name, one.proven) == (other.name, other.proven)


def the_file(folder: Path) -> Path:
    """Return the one file in a folder."""
    (file,) = folder.iterdir()
    return file


# ---------------------------------------------------------------------- what is computed


def test_references_are_in_the_order_of_the_instances() -> None:
    """Blocks of different sizes come one after the other, each instance with its solution, scored by the referee."""
    blocks = [tours(2, 5), tours(3, 7)]
    found = compute(TOURS, blocks, RandomInsertion(), MaxRollouts(20))
    assert (found.name, found.proven) == ("random-insertion", (False,) * 5)
    assert [len(actions) for actions in found.actions] == [5, 5, 7, 7, 7]
    assert found.objective.dtype == torch.float64
    for block, rows in zip(blocks, (slice(0, 2), slice(2, 5)), strict=True):
        stacked = torch.stack(found.actions[rows])[:, None]
        assert not TOURS.violations(block, stacked)
        assert TOURS.objective(block, stacked)[:, 0].equal(found.objective[rows])


def test_a_proof_is_part_of_a_reference(tmp_path: Path) -> None:
    """What an exact solver has proven is known as proven, from the cache as well."""
    env = make("knapsack", num_items=8, distribution="strongly")
    blocks = [env.generate(3, torch.Generator().manual_seed(0))]
    first, again = (compute(env, blocks, KnapsackDP(), cache=tmp_path) for _ in range(2))
    assert first.proven == (True,) * 3
    assert same(first, again)


def test_what_is_drawn_follows_from_the_instance_alone(tmp_path: Path) -> None:
    """Neither the order, nor the rest of the set, nor what was remembered changes a reference."""
    instances = tours(8)
    alone = [compute(TOURS, [instances[row : row + 1]], Drawn()).objective for row in range(8)]
    compute(TOURS, [instances[[5, 2]]], Drawn(), cache=tmp_path)
    backwards = compute(TOURS, [instances.flip(0)], Drawn(), cache=tmp_path)
    assert backwards.objective.flip(0).equal(torch.cat(alone))
    assert len(backwards.objective.unique()) == 8


def test_what_is_known_is_not_solved_again(tmp_path: Path) -> None:
    """Of a longer set only those are solved that no other call has left in the cache, and none of them twice."""
    instances = tours(6)
    compute(TOURS, [instances[:4]], Drawn(), cache=tmp_path / "a" / "b")
    more, idle = Drawn(), Drawn()
    found = compute(TOURS, [instances, instances[3:]], more, cache=tmp_path / "a" / "b")
    assert more._calls == 2
    assert same(found, compute(TOURS, [instances, instances[3:]], idle, cache=tmp_path / "a" / "b"))
    assert idle._calls == 0
    assert found.objective[3:6].equal(found.objective[6:])


def test_progress_is_told(tmp_path: Path) -> None:
    """First comes what is in the cache, then one instance after the other."""
    told: list[tuple[str, int, int]] = []
    compute(TOURS, [tours(2)], Drawn(), cache=tmp_path)
    compute(TOURS, [tours(4)], Drawn(), cache=tmp_path, progress=lambda *step: told.append(step))
    assert told == [("drawn", done, 4) for done in (2, 3, 4)]


def test_processes_share_the_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two processes solves its share, and gets what the other has."""
    alone = compute(TOURS, [tours(5)], Drawn())
    parts: list[Any] = []

    def leave(own: Any) -> None:
        parts.append(own)
        raise SystemExit

    monkeypatch.setattr(references, "share", lambda count, size: [range(n, n + 1) for n in range(1, count, 2)])
    monkeypatch.setattr(references, "gather", leave)
    other, solver = Drawn(), Drawn()
    with pytest.raises(SystemExit):
        compute(TOURS, [tours(5)], other)
    monkeypatch.setattr(references, "share", lambda count, size: [range(n, n + 1) for n in range(0, count, 2)])
    monkeypatch.setattr(references, "gather", lambda own: [own, *parts])
    assert same(compute(TOURS, [tours(5)], solver), alone)
    assert (solver._calls, other._calls) == (3, 2)


# ---------------------------------------------------------------------- in worker processes


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Two processes give what one gives to the last bit, and leave as much in the cache."""
    one, two = ([tours(20)], tmp_path / "one"), ([tours(20)], tmp_path / "two")
    found = compute(TOURS, one[0], RandomInsertion(), MaxRollouts(3), cache=one[1])
    assert same(found, compute(TOURS, two[0], RandomInsertion(), MaxRollouts(3), cache=two[1], workers=2))
    known = [sorted(json.loads(line)["instance"] for line in the_file(f).open()) for f in (one[1], two[1])]
    assert known[0] == known[1]
    assert len(known[0]) == 20


def test_a_solver_that_cannot_be_sent_is_refused() -> None:
    """What cannot be pickled is for this process alone, which the line says."""
    solver = Drawn()
    solver.by_the_way = lambda: None
    compute(TOURS, [tours(2)], solver)
    with pytest.raises(ArgumentError, match="workers: 2 is not allowed with drawn, which cannot be sent"):
        compute(TOURS, [tours(2)], solver, workers=2)


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_workers_must_be_a_positive_whole_number(workers: Any) -> None:
    """A number of workers that makes no sense is refused in words."""
    with pytest.raises(ArgumentError, match=f"workers: {workers} is not allowed"):
        compute(TOURS, [tours(1)], Drawn(), workers=workers)


# ---------------------------------------------------------------------- cut off


def test_a_cancelled_call_leaves_what_was_finished(tmp_path: Path) -> None:
    """The instance under way is not let through, those before are kept, and the next call goes on."""
    budget = MaxRollouts(1)
    with pytest.raises(KeyboardInterrupt):
        compute(TOURS, [tours(4)], Worse(3, lambda *_: budget.cancel.set()), budget, cache=tmp_path)
    assert len(the_file(tmp_path).read_text().splitlines()) == 2
    rest = Worse(0, None)
    found = compute(TOURS, [tours(4)], rest, MaxRollouts(1), cache=tmp_path)
    assert rest._calls == 2
    assert same(found, compute(TOURS, [tours(4)], Drawn(), MaxRollouts(1)))


def test_cancelled_workers_end_soon(tmp_path: Path) -> None:
    """Workers hear of it in the middle of an instance, whose solution is not let through."""
    budget, blocks = MaxSeconds(300), [tours(1), tours(3, 2000)]

    def cancel(name: str, done: int, total: int) -> None:
        budget.cancel.set()

    with pytest.raises(KeyboardInterrupt):
        compute(TOURS, blocks, TwoOpt(), budget, cache=tmp_path, workers=2, progress=cancel)
    assert the_file(tmp_path).read_text().count("\n") == 1


SLOW = """
import sys, threading
from pathlib import Path
import torch
from ncogym.baselines import RandomInsertion
from ncogym.envs import make
from ncogym.references import compute
from ncogym.budget import MaxRollouts


class Slow(RandomInsertion):
    calls = 0

    def __call__(self, *given):
        self.calls += 1
        if len(sys.argv) == 2 and self.calls > 5:
            threading.Event().wait()  # to be killed
        return super().__call__(*given)


if __name__ == "__main__":
    env = make("tsp", num_nodes=6)
    instances = env.generate(400, torch.Generator().manual_seed(0))
    compute(env, [instances], Slow(), MaxRollouts(1), cache=Path(sys.argv[1]), workers=2)
"""


def test_a_kill_costs_what_was_under_way(tmp_path: Path) -> None:
    """After kill -9 no process is left; the next call keeps every line and ends where an undisturbed one ends."""
    script, cache = tmp_path / "slow.py", tmp_path / "cache"
    script.write_text(SLOW)
    killed = subprocess.Popen([sys.executable, str(script), str(cache)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not (cache.exists() and the_file(cache).read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=600)  # which waits for all that hold its output, its workers as well
    before = the_file(cache).read_bytes()
    count = before.count(b"\n")
    blocks, told = [tours(400)[: count + 4]], list[int]()
    found = compute(
        TOURS,
        blocks,
        runpy.run_path(str(script))["Slow"](),
        MaxRollouts(1),
        cache=cache,
        progress=lambda name, done, total: told.append(done),
    )
    assert same(found, compute(TOURS, blocks, RandomInsertion(), MaxRollouts(1)))
    assert the_file(cache).read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert told[0] >= 3


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_line_is_computed_again(kept: int, tmp_path: Path) -> None:
    """What a kill left of the last line counts for nothing, and the next line does not run into it."""
    whole = compute(TOURS, [tours(3)], Drawn(), cache=tmp_path)
    lines = the_file(tmp_path).read_bytes().splitlines(keepends=True)
    the_file(tmp_path).write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    again, idle = Drawn(), Drawn()
    assert same(compute(TOURS, [tours(4)[:3]], again, cache=tmp_path), whole)
    assert again._calls == 1
    assert same(compute(TOURS, [tours(3)], idle, cache=tmp_path), whole)
    assert idle._calls == 0


# ---------------------------------------------------------------------- what is not believed


def swapped(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with another tour, of the objective of the first."""
    line["actions"][:2] = line["actions"][1::-1]
    return line


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda line: line | {"objective": line["objective"] * 0.999}, "is said to be .*, its actions have"),
        (swapped, "is said to be .*, its actions have"),
        (lambda line: line | {"actions": [0, 1, 2, 3, 4, 4]}, "node 4 is visited at step 4 and again at step 5"),
        (lambda line: line | {"actions": [0, 1, 2, 3, 4, 99]}, "visits node 99"),
        (lambda line: line | {"actions": []}, "0 nodes are visited"),
        (lambda line: line | {"actions": [0, 1, 2, 3, 4, 5.0]}, "whole numbers"),
        (lambda line: line | {"actions": [0, 1, 2, 3, 4, 2**70]}, "whole numbers"),
        (lambda line: line | {"actions": None}, "NoneType"),
        (lambda line: line | {"objective": "short"}, "objective must be"),
        (lambda line: line | {"objective": float("nan")}, "is said to be nan"),
        (lambda line: line | {"proven": 1}, "proven true or false"),
        (lambda line: {name: value for name, value in line.items() if name != "proven"}, "proven"),
        (lambda line: [line], "."),
    ],
)
def test_a_line_is_not_believed(tamper: Any, words: str, tmp_path: Path) -> None:
    """A line that is broken, or whose solution is not what it says, is named with its file, and what to do."""
    compute(TOURS, [tours(3)], Drawn(), cache=tmp_path)
    file = the_file(tmp_path)
    lines = file.read_text().splitlines()
    lines[1] = json.dumps(tamper(json.loads(lines[1])))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ArgumentError, match=words) as refusal:
        compute(TOURS, [tours(3)], Drawn(), cache=tmp_path)
    told = str(refusal.value)
    assert file.name in told
    assert "line 2 is broken" in told
    assert "delete" in told
    assert "\n" not in told


def test_a_line_in_the_middle_may_not_be_torn(tmp_path: Path) -> None:
    """Only the last line can be what a kill left; another that ends early is broken."""
    compute(TOURS, [tours(3)], Drawn(), cache=tmp_path)
    lines = the_file(tmp_path).read_bytes().splitlines(keepends=True)
    the_file(tmp_path).write_bytes(lines[0][:30] + b"\n" + lines[1] + lines[2])
    with pytest.raises(ArgumentError, match=r"line 1 is broken .*delete"):
        compute(TOURS, [tours(3)], Drawn(), cache=tmp_path)


def test_a_broken_solution_is_no_reference(tmp_path: Path) -> None:
    """What the referee refuses ends it: instance and reason are told, and what was before is kept."""

    def same_node(env: Any, instances: TensorDict) -> Solutions:
        progress = Progress(env, instances, None)
        progress.offer(torch.zeros(1, 1, 6, dtype=torch.int64))
        return progress.solutions("drawn")

    with pytest.raises(InvalidSolution, match="reference by drawn, instance 2: node 0 is visited"):
        compute(TOURS, [tours(4)], Worse(3, same_node), cache=tmp_path)
    assert len(the_file(tmp_path).read_text().splitlines()) == 2


def test_no_solution_is_not_passed_over() -> None:
    """A solver that finds nothing for an instance is no reference for the set, and says for which."""

    def nothing(env: Any, instances: TensorDict) -> Solutions:
        raise NoSolutionFound("drawn: no solution of tsp within the budget")

    with pytest.raises(NoSolutionFound, match="reference by drawn, instance 2: drawn: no solution of tsp"):
        compute(TOURS, [tours(4)], Worse(3, nothing))


def test_what_differs_is_kept_apart(tmp_path: Path) -> None:
    """Problem, solver, its settings, those of what it is made of, weights and budget make a file each; the rest not."""
    small = AttentionPolicy(TOURS.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    other = AttentionPolicy(TOURS.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    chain = Compose(Drawn(), TwoOpt())
    limited = (Drawn(), Drawn("other"), CpSat(), CpSat(2), TwoOpt(), chain, GreedySearch(small), GreedySearch(other))
    for solver in limited:
        compute(TOURS, [tours(1)], solver, MaxSeconds(5), cache=tmp_path)
    for budget in (None, MaxRollouts(2)):
        compute(TOURS, [tours(1)], Drawn(), budget, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(limited) + 2
    assert any(file.name.startswith("tsp-cp-sat-seconds5-") for file in tmp_path.iterdir())
    compute(TOURS, [tours(1)], CpSat(progress_bar=False, workers=2), MaxSeconds(5.0), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(limited) + 2


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """References lie beside what else is cached, where NCOGYM_CACHE says."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    assert references.cache_folder() == tmp_path / "references"


# ---------------------------------------------------------------------- shipped


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder from which references ship."""
    monkeypatch.setattr(references, "SHIPPED", tmp_path)
    return tmp_path


@pytest.fixture
def routes(folder: Path) -> tuple[Any, TensorDict, References]:
    """Return routes of different lengths, which ship as "routes"."""
    env = make("cvrp", num_customers=6, capacity=10)
    instances = env.generate(20, torch.Generator().manual_seed(3))
    found = compute(env, [instances], Savings())
    ship(folder / "routes.safetensors", env, [instances], found, {"solver": "hgs", "set": "routes"})
    return env, instances, found


def test_what_ships_comes_back(folder: Path, routes: tuple[Any, TensorDict, References]) -> None:
    """All of a set, and the first of it, come back with their proofs, in a byte an action."""
    env, instances, found = routes
    assert len({len(actions) for actions in found.actions}) > 1
    assert load_file(folder / "routes.safetensors")["actions"].dtype == torch.uint8
    for count, name in ((20, "routes"), (20, "routes:20"), (7, "routes:7")):
        back = shipped(env, name, [instances[:count]])
        assert (back.name, back.proven) == ("hgs (shipped)", found.proven[:count])
        assert back.objective.tolist() == pytest.approx(found.objective[:count].tolist(), rel=1e-12)
        for one, other in zip(found.actions, back.actions, strict=False):
            assert one.tolist() == other[: len(one)].tolist()
            assert not other[len(one) :].any()
    assert shipped(env, "routes", [instances[:3], instances[3:9]]).objective.shape == (9,)


def test_what_does_not_ship_is_not_there(folder: Path, routes: tuple[Any, TensorDict, References]) -> None:
    """More instances than a file covers, and names of no file, or of one elsewhere, have no references."""
    env, instances, _ = routes
    assert shipped(env, "routes", [torch.cat([instances, instances])]) is None
    assert shipped(env, "tours", [instances]) is None
    assert shipped(env, str(folder / "routes"), [instances]) is not None
    (folder / "deeper").mkdir()
    assert shipped(env, f"deeper/../{folder.name}", [instances]) is None


def test_other_instances_are_refused(folder: Path, routes: tuple[Any, TensorDict, References]) -> None:
    """Solutions that are feasible for other instances too are not taken for theirs, nor for a mirror image's."""
    env, instances, _ = routes
    others = env.generate(20, torch.Generator().manual_seed(4)).update({"demand": instances["demand"]})
    for count in (5, 20):
        with pytest.raises(
            InvalidSolution, match=r"routes.safetensors: .* other instances .*instance 0: its objective"
        ):
            shipped(env, "routes", [others[:count]])
    mirrored = instances.clone().update({"locs": instances["locs"].flip(-1)})
    with pytest.raises(InvalidSolution, match="of other instances than these, whose objectives"):
        shipped(env, "routes", [mirrored])


@pytest.mark.parametrize("spoil", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole[8:]])
def test_a_file_that_cannot_be_read_is_named(
    spoil: Any, folder: Path, routes: tuple[Any, TensorDict, References]
) -> None:
    """A file that is not whole is named, in a line that says what to do."""
    env, instances, _ = routes
    file = folder / "routes.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(InvalidSolution, match=r"routes.safetensors: the references cannot be read .*install"):
        shipped(env, "routes", [instances])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("actions", 6, "instance 4: customer 6 is visited at step 0 and again"),
        ("actions", 200, "instance 4: step 0 visits node 200"),
        ("objective", 1.0, "instance 4: its objective is said to be 1, its actions have"),
    ],
)
def test_a_broken_file_is_not_believed(
    name: str, value: float, words: str, folder: Path, routes: tuple[Any, TensorDict, References]
) -> None:
    """What the referee refuses, or values otherwise, is told of the first instance where it does."""
    env, instances, _ = routes
    file = folder / "routes.safetensors"
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    tensors[name][4] = value
    save_file(tensors, file, about)
    with pytest.raises(InvalidSolution, match=words):
        shipped(env, "routes", [instances])


def test_only_solutions_ship(folder: Path) -> None:
    """References of which only the value is known cannot ship."""
    known = References("best known", torch.zeros(2).double(), (False,) * 2, (torch.arange(6), None))
    with pytest.raises(ArgumentError, match="instance 1 has no solution"):
        ship(folder / "x.safetensors", TOURS, [tours(2)], known, {"solver": "x"})


@pytest.mark.parametrize(("nodes", "dtype"), [(256, torch.uint8), (257, torch.int16)])
def test_actions_take_few_bits(nodes: int, dtype: torch.dtype, folder: Path) -> None:
    """Actions are stored in the least bits that hold the largest."""
    blocks = [tours(1, nodes)]
    found = compute(TOURS, blocks, Drawn())
    ship(folder / "tours.safetensors", TOURS, blocks, found, {"solver": "drawn"})
    assert load_file(folder / "tours.safetensors")["actions"].dtype == dtype
    assert same(shipped(TOURS, "tours", blocks), found._replace(name="drawn (shipped)"))


# ---------------------------------------------------------------------- solutions in files


def test_solutions_in_a_file_are_checked_at_once() -> None:
    """Solutions of several lengths lie in one tensor; the first that is broken, or not as good as said, is named."""
    env = make("cvrp", num_customers=6, capacity=10)
    instances = env.generate(20, torch.Generator().manual_seed(3))
    found = compute(env, [instances], Savings())
    actions = references.in_one(env, [instances[:7], instances[7:]], found.actions)
    assert (actions.dtype, len(actions)) == (torch.uint8, 20)
    assert len({len(each) for each in found.actions}) > 1
    references.check_solutions(env, instances, actions.long(), found.objective, "here")
    for row in (4, 9):
        said = found.objective.index_fill(0, torch.tensor([row, 15]), 1.0)
        with pytest.raises(InvalidSolution, match=f"^here: instance {row}: its objective is said to be 1, its actions"):
            references.check_solutions(env, instances, actions.long(), said, "here")
        broken = actions.long().index_fill(0, torch.tensor([row, 15]), 1)
        with pytest.raises(InvalidSolution, match=f"^here: instance {row}: customer 1 is visited at step 0 and again"):
            references.check_solutions(env, instances, broken, found.objective, "here")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_late_reference_is_a_reference(workers: int) -> None:
    """Only a search that a user waits for is refused when its first solution comes too late."""
    found = compute(TOURS, [tours(2)], TwoOpt(), MaxSeconds(1e-9), workers=workers)
    assert found.objective.isfinite().all()


def test_arguments_that_change_what_actions_mean_have_a_cache_of_their_own(tmp_path: Path) -> None:
    """The same job shop with and without gap insertion: neither takes the other's solutions for its own."""
    shops = make("jssp", num_jobs=3, num_machines=3).generate(2, torch.Generator().manual_seed(0))
    for insertion in (False, True, False):
        env = make("jssp", num_jobs=3, num_machines=3, insertion=insertion)
        compute(env, [shops], Dispatching("SPT"), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
