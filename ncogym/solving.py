"""From a file or an instance to a checked solution: the main flow, and solvers by name."""

from __future__ import annotations

import functools
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym import kernels
from ncogym._files import named, whole
from ncogym.baselines import (
    SOLVERS,
    DegreeGreedy,
    Dispatching,
    NearestNeighbour,
    RatioGreedy,
    Savings,
    TwoOpt,
)
from ncogym.books import Progress
from ncogym.budget import OVERRUN, Budget, MaxRollouts, MaxSeconds
from ncogym.envs import kind_of
from ncogym.envs.formats.text import read_text
from ncogym.errors import (
    ArgumentError,
    InstanceError,
    InvalidSolution,
    NcogymError,
    NcogymWarning,
    NoSolutionFound,
    NotEnoughMemory,
    UnsupportedProblem,
)
from ncogym.known import AS_GOOD, published_solution
from ncogym.plotting import draw
from ncogym.policies import Conditioned, Latent, Policy
from ncogym.policies.decoding import Sample
from ncogym.pretrained import Pretrained, find_policy, load_policy
from ncogym.problem import Problem
from ncogym.records import PLACES, check_free, places_of, write_record
from ncogym.rollout import MEMORY_SHARE, check_memory
from ncogym.search import SEARCHES, Compose, GreedySearch, MultiStart, Reconstruct, Sampling, Search, Symmetry
from ncogym.sets import open_set, recognise
from ncogym.solution import Solution, Solutions, gap_percent, stacked
from ncogym.solver import Improver, Solver

AUTO = "auto"
SAMPLES, ROUNDS = 128, 8  # of a search without a budget
BEGINNINGS: tuple[Callable[[], Any], ...] = (  # of `auto`; of those that take a problem, the quickest first
    NearestNeighbour,
    Savings,
    RatioGreedy,
    Dispatching,
    DegreeGreedy,
)
FIRST = 0.5  # of what is left then, by which the policy must have built a solution where others could go on
BEGINNING = 0.25  # of a budget that each beginning but the first may take


SAMPLED = {"multistart", "sampling"}  # parts that together are one search: samples from each start


class Auto:
    """The search that ``auto`` stands for, composed by what the problem offers; docs/results.md has the measurements.

    It begins with heuristics of milliseconds (`BEGINNINGS`), so that there is an answer however large an instance is,
    and goes on from there. Where memory or time do not let the policy build a single solution, 2-opt has the rest of
    the time, on symmetric tours. Like 2-opt, the beginnings count no rollouts.

    On symmetric tours, samples from every start of one image after the other, the best of each improved by 2-opt, for
    as long as the budget lasts. Elsewhere `Reconstruct`: from its own greedy starts where solutions may begin anywhere,
    else from samples of the images that there are. Without a budget it ends after one round of the starts of 8 images,
    or after `SAMPLES` samples of each and `ROUNDS` rounds of re-construction.

    Args:
        policy: in evaluation mode.
    """

    name = AUTO

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is found; each solution carries the names of all that had a part in it."""
        progress = Progress(env, instances, budget)
        names = self._begin(progress, rng)
        search = self.composed(env, instances)
        if not (names and progress.spent):
            try:
                check_memory(env, self.policy, instances, MEMORY_SHARE if names else 1.0)
                if isinstance(search, Improver):
                    search.improve(progress, rng)
                else:
                    left = progress.left()
                    left = replace(left, first=FIRST * left.first)
                    progress.take(search(env, instances, left, rng))
            except NoSolutionFound:  # as above: only where there is none to begin with
                if not names:
                    raise
            except NotEnoughMemory as error:
                if not names:
                    raise
                warnings.warn(f"{AUTO}: the policy is left out: {error}", NcogymWarning, stacklevel=2)
        if progress.rollouts:
            names.append(search.name)
        elif TwoOpt().supports(env, instances) and not progress.spent:
            TwoOpt().improve(progress, rng)
            names.append(TwoOpt.name)
        return progress.solutions("+".join(names))

    def _begin(self, progress: Progress, rng: torch.Generator) -> list[str]:
        """Offer what the heuristics find, and return the names of those that the best solutions are from."""
        env, instances, names = progress.env, progress.instances, list[str]()
        for solver in (make_beginning() for make_beginning in BEGINNINGS):
            if not solver.supports(env, instances) or (names and progress.spent):
                continue
            try:
                with progress.part(BEGINNING if names else 1.0):
                    found = solver(env, instances, progress.left(), rng)
            except NoSolutionFound:  # it took too long, or finds none at all
                continue
            before: Any = progress.best
            progress.offer(stacked(env, instances, [each.actions for each in found])[:, None], rollouts=0)
            better = torch.ones(1, dtype=torch.bool) if before is None else progress.best != before
            names = [*(names if not better.all() else ()), *([solver.name] if better.any() else ())]
        return names

    def composed(self, env: Any, instances: TensorDict) -> Solver:
        """Return the search for a problem."""
        if TwoOpt().supports(env, instances):
            several = len(env.symmetries(instances, 2)) > 1
            drawn = MultiStart(self.policy, Sample(temperature=0.5), rounds=1 if several else None)
            solver = Compose(drawn, TwoOpt())
            return Symmetry(solver, endless=True) if several else solver
        rebuilt = Reconstruct(self.policy, rounds=ROUNDS)
        return rebuilt if env.multi_start else Compose(Symmetry(Sampling(self.policy, samples=SAMPLES)), rebuilt)


def solvers() -> dict[str, Callable[..., Any]]:
    """Return all that a solver may be composed of, by name: searches, then baselines."""
    return SEARCHES | SOLVERS


def _kind(name: str) -> type:
    """Return the class of a part, which says what it is."""
    made = solvers()[name]
    kind: Any = made.func if isinstance(made, functools.partial) else made
    return cast(type, kind)


def _wraps(name: str) -> bool:
    """Say whether a part runs the solver that stands before it."""
    kind = _kind(name)
    return issubclass(kind, Search) and kind.wraps


def _goes_on(name: str) -> bool:
    """Say whether a part goes on from solutions; called alone it makes a start of its own."""
    return Improver in _kind(name).__mro__


def _follows(name: str) -> bool:
    """Say whether a part builds nothing: a greedy rollout stands before it where nothing does."""
    return _wraps(name) or (_goes_on(name) and cast(type[Improver], _kind(name)).brief)


def _policies(name: str) -> tuple[type[Policy], ...]:
    """Return the classes of policies that a part reads; none of one that takes those without conditions."""
    kind = _kind(name)
    return kind.policies if issubclass(kind, Search) else ()


def needs_policy(name: str) -> bool:
    """Return whether the solver of that name uses a policy: all do but baselines and what is composed of them alone."""
    parts = name.split("+")
    if name == AUTO or any(part not in solvers() for part in parts):
        return True
    return name not in SOLVERS and (any(p not in SOLVERS and not _wraps(p) for p in parts) or not _built(parts))


def _built(parts: list[str]) -> list[str]:
    """Return what builds the first solutions: what neither wraps nor improves what stands before it."""
    return [part for place, part in enumerate(parts) if not _follows(part) and not (place and _goes_on(part))]


def classes(name: str) -> tuple[type[Policy], ...]:
    """Return the classes of conditioned policies that the solver of that name reads; none where it takes plain ones."""
    return next((kinds for part in name.split("+") if part in SEARCHES and (kinds := _policies(part))), ())


def _check_takes(name: str, policy: Policy) -> None:
    """Refuse a policy that a search of that solver cannot read."""
    kind = type(policy).__name__
    for part in [part for part in name.split("+") if part in SEARCHES and not _wraps(part)] or [name]:
        kinds = _policies(part) if part in SEARCHES else ()
        if isinstance(policy, kinds) if kinds else not isinstance(policy, Conditioned):
            continue
        allowed = " or ".join(each.__name__ for each in kinds) or "one without conditions"
        able = ", ".join(each for each in SEARCHES if _policies(each) and isinstance(policy, _policies(each)))
        raise ArgumentError(
            f"solver: {part} cannot use a policy of class {kind}; it takes {allowed}"
            + (f" ({kind} is for {able})" if able else "")
        )


def _condition(policy: Policy) -> Tensor | None:
    """Return a condition that a policy may act under, or None where it takes none."""
    return policy.draw(1, torch.Generator()) if isinstance(policy, Latent) else policy.everyone


def make_solver(name: str, policy: Policy | None = None) -> Solver:
    """Build a solver by its command-line name.

    Args:
        name: ``auto``; a baseline (`ncogym.baselines.SOLVERS`); or parts composed with ``+``. The first part, a search
            or a baseline, says how solutions are built (also ``multistart+sampling``). The others follow in their
            order: ``symmetry`` wraps what stands before it, ``two-opt`` and other improvers go on from what was
            found, under one budget (`ncogym.search.Compose`). ``multistart+symmetry+two-opt`` improves the best of all
            images, ``multistart+two-opt+symmetry`` the best of each.
        policy: what the searches use.

    Example:
        >>> import torch
        >>> from ncogym.envs import build_task
        >>> from ncogym.solving import make_solver
        >>> env = build_task("tsp", num_nodes=8)
        >>> solver = make_solver("nearest-neighbour+two-opt")
        >>> found = solver(env, env.seeded(2, seed=0), None, torch.Generator().manual_seed(0))
        >>> [(solution.solver, solution.feasible) for solution in found]
        [('nearest-neighbour+two-opt', True), ('nearest-neighbour+two-opt', True)]

    Raises:
        ArgumentError: a part is unknown, the parts do not compose, a search has no policy, or it cannot use that one.
    """
    if name == AUTO:
        if policy is None:
            raise ArgumentError(f"solver: {name!r} is a search and needs a policy")
        _check_takes(name, policy)
        return Auto(policy)
    parts, table = name.split("+"), solvers()
    for part in parts:
        if part not in table:
            allowed = ", ".join([AUTO, *table])
            raise ArgumentError(f"solver: {part!r} is not known; allowed are {allowed}, composed with +")
    if name in SOLVERS:
        return SOLVERS[name]()
    built = _built(parts)
    if len(set(parts)) < len(parts) or not (len(built) < 2 or set(built) == SAMPLED):
        followers = sorted(filter(_follows, table), key=lambda part: not _wraps(part))
        allowed = ", ".join([*followers, *(part for part in table if _goes_on(part) and not _follows(part))])
        raise ArgumentError(f"solver: {name!r} does not compose; after what builds solutions may come {allowed}")
    if policy is None and needs_policy(name):
        raise ArgumentError(f"solver: {name!r} is a search and needs a policy")
    if policy is not None and needs_policy(name):
        _check_takes(name, policy)
    reads: Any = policy  # None where nothing below reads it

    def make(part: str) -> Any:
        return table[part]() if part in SOLVERS else table[part](reads)

    if set(built) == SAMPLED:
        solver: Any = MultiStart(reads, Sample())
    else:
        solver = make(built[0]) if built else GreedySearch(reads)
    for part in parts:
        if _wraps(part):
            solver = table[part](solver)
        elif part not in built:
            solver = Compose(*(solver.stages if isinstance(solver, Compose) else (solver,)), make(part))
    return cast(Solver, solver)


def check_reads(pretrained: Pretrained, env: Problem) -> None:
    """Refuse a policy that was trained on another problem.

    Raises:
        UnsupportedProblem: the problem in the policy's card is not that of ``env``.
    """
    trained_on = pretrained.card["env"]["name"]
    if trained_on != env.name:
        raise UnsupportedProblem(
            f"policy {pretrained.name}: it was trained on {trained_on} and cannot solve {env.name}"
        )


def choose_policy(name_or_path: str | None, env: Problem, size: int, solver: str = AUTO) -> Pretrained:
    """Load the named policy, or the shipped one that the solver can use and that suits problem and size best.

    Raises:
        UnsupportedProblem: no shipped policy solves the problem, or the named one was trained on another.
    """
    kinds = tuple(kind.__name__ for kind in classes(solver))
    chosen = name_or_path or find_policy(env.name, size, kinds or None)
    if chosen is None:
        ships, other = (f"no {' or '.join(kinds)}", "another --solver") if kinds else ("none", "a --solver without one")
        raise UnsupportedProblem(f"policy: {ships} ships for {env.name}; name one with --policy, or {other}")
    pretrained = load_policy(chosen)
    check_reads(pretrained, env)
    return pretrained


@dataclass(frozen=True)
class Solved:
    """What `solve` answers for one file.

    Attributes:
        file: path as given.
        instance: the instance's name.
        env: the problem.
        data: the instance, batch size ``[1]``.
        solution: scored and checked.
        policy: name of the policy, or None.
        best_known: objective to compare with, or None.
        seed: of the search.
    """

    file: str
    instance: str
    env: Problem
    data: TensorDict
    solution: Solution
    policy: str | None
    best_known: float | None
    seed: int

    @property
    def objective(self) -> float:
        """That of the solution, in the instance's own units."""
        return self.solution.objective

    @property
    def feasible(self) -> bool:
        """Whether the referee found no broken constraint."""
        return self.solution.feasible

    @property
    def answer(self) -> Any:
        """The solution in the words of the problem, all numbers from 0 in the file's own order.

        Of a tour the nodes in order; of routes one object a route, ``{"depot": node, "visits": [node, ...]}``; of a
        packing the items chosen; of a shop rows ``[job, operation, machine, start, end]``. None where the solution is
        not feasible, or the problem has no such words.
        """
        return self.env.answer(self.data, self.solution.actions) if self.feasible else None

    @property
    def gap_percent(self) -> float | None:
        """How much worse than `best_known`, in percent of it (`ncogym.solution.gap_percent`); None without one."""
        if self.best_known is None:
            return None
        return gap_percent(self.solution.objective, self.best_known, self.env.sense)

    def record(self) -> dict[str, Any]:
        """Return the JSON object of docs/design.md section 6."""
        solution = self.solution
        return {
            "file": self.file,
            "instance": self.instance,
            "problem": self.env.name,
            "solver": solution.solver,
            "policy": self.policy,
            "objective": _plain(solution.objective),
            "best_known": None if self.best_known is None else _plain(self.best_known),
            "gap_percent": self.gap_percent,
            "feasible": solution.feasible,
            "violation": solution.violation,
            "seconds": solution.seconds,
            "rollouts": solution.rollouts,
            "seed": self.seed,
            "actions": self.env.plain_actions(self.data, solution.actions),
            "answer": self.answer,
        }

    def write(self, folder: str | Path) -> None:
        """Write to ``folder`` the record, the solution in the problem's own format, and a picture.

        All are named after the instance; what was written so before is replaced. The record also has ``places``, where
        its instance file lies, seen from the folder and from the root, and the digests of `ncogym.records`.

        Raises:
            ArgumentError: a file of such a name lies there that was not written so, or is of another instance file.
            OSError: a file cannot be written; it is named, and no half of it is left.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        said = {**self.record(), PLACES: places_of(Path(self.file), target)}
        write_record(target / f"{self.instance}.json", said, self._write_solution)

    def _write_solution(self, folder: Path) -> None:
        """Write the solution and its picture."""
        if self.solution.feasible:
            actions, target = self.solution.actions, folder / f"{self.instance}.json"
            with named(target.with_suffix(self.env.solution_suffix or "")):
                self.env.write_solution(self.data, actions, target, _printable(self.instance) or self.env.name)
            title = f"{self.instance}: {_shown(self.solution.objective)}"
            _draw(self.env, self.data, actions, target.with_suffix(".png"), title)


def _draw(env: Problem, data: TensorDict, actions: Tensor, path: Path, title: str) -> None:
    """Draw a solution, or say that its problem has no picture."""
    sketch = env.sketch(data, actions)
    if sketch is None:
        warnings.warn(f"{env.name} has no picture, so none is drawn", NcogymWarning, stacklevel=3)
    else:
        draw(sketch, path, title)


def _plain(value: float) -> float | int:
    """Write whole numbers as integers; where the format makes the objective one, it is."""
    return int(value) if float(value).is_integer() else value


def _shown(value: float) -> str:
    """Write an objective for a picture's title."""
    return f"{_plain(value):,}" if float(value).is_integer() else f"{value:,.6g}"


def solve(
    path: str | Path,
    *,
    problem: str | None = None,
    solver: str = AUTO,
    policy: str | None = None,
    seconds: float | None = None,
    rollouts: int | None = None,
    seed: int = 0,
    best_known: float | None = None,
    budget: Budget | None = None,
) -> Solved:
    """Solve an instance file.

    Args:
        path: the file; an ``.npz`` file must hold one instance.
        problem: its problem, where the suffix does not tell.
        solver: name of a solver (`make_solver`).
        policy: shipped name or folder; None takes the shipped policy that suits best. Unused by baselines.
        seconds: wall-clock budget.
        rollouts: budget of complete solutions; with neither, the solver ends of its own accord.
        seed: of everything that the solver draws.
        best_known: objective that the gap is to; None takes that of a published solution beside the file, if any, or of
            an ``.npz`` file's label.
        budget: joined with ``seconds`` and ``rollouts``; its ``cancel`` ends the search.

    Returns:
        The checked solution with its instance.

    Raises:
        NcogymError: bad input, an unknown name, or no solution within the budget; each says which in one line.

    Warns:
        NcogymWarning: the published solution cannot be read, or is better than what the solver has proven the optimum;
            compiling a kernel took a part of the seconds, or the first solution came after them.
    """
    if best_known is not None and not 0 < best_known < math.inf:
        raise ArgumentError(f"best_known: {best_known} is not allowed; it must be above 0")
    env, data, labelled = _read(path, problem)
    if best_known is None:
        best_known = labelled
    if best_known is None and (published := published_solution(env, Path(path), data)) is not None:
        best_known = float(env.objective(data, published[None, None]))
    limits = budget or Budget()
    if seconds is not None:
        limits = limits | MaxSeconds(seconds)
    if rollouts is not None:
        limits = limits | MaxRollouts(rollouts)
    chosen = choose_policy(policy, env, env.instance_size(data), solver) if needs_policy(solver) else None
    run = make_solver(solver, chosen.policy if chosen else None)
    if chosen:
        compiled = kernels.prepare(env, data, chosen.policy, _condition(chosen.policy))
        if compiled and limits.seconds < math.inf:
            # the budget pays for that, but keeps half of itself for the search
            left = max(limits.seconds - compiled, limits.seconds / 2)
            line = f"a kernel was compiled for this policy and this processor, once, in {compiled:.1f} s"
            warnings.warn(f"{line}; the search has {left:.3g} s of {limits.seconds:g} s", NcogymWarning, stacklevel=2)
            limits = replace(limits, seconds=left)
    solution = run(env, data, limits, torch.Generator().manual_seed(seed))[0]
    worse = 0.0 if best_known is None else (solution.objective - best_known) * (1 if env.sense == "min" else -1)
    if best_known is not None and solution.proven and worse > AS_GOOD * abs(best_known):
        proof = f"{solution.solver} has proven {_plain(solution.objective)} to be optimal"
        text = f"{path}: WRONG: {proof}, but the best known {_plain(best_known)} is better; one of the two is wrong"
        warnings.warn(f"{text}, or of another problem", NcogymWarning, stacklevel=2)
    first = solution.trace[0].seconds if solution.trace else solution.seconds
    if first > OVERRUN * limits.seconds and not limits.cancel.is_set():
        late = f"the first solution was complete after {first:.3g} s"
        warnings.warn(f"{path}: {limits.seconds:g} s is too small a budget for {solver}; {late}", NcogymWarning, 2)
    return Solved(
        file=str(path),
        instance=Path(path).stem,
        env=env,
        data=data,
        solution=solution,
        # where time or memory left it out, it is not told to have a part in it
        policy=chosen.name if chosen and needs_policy(solution.solver) else None,
        best_known=best_known,
        seed=seed,
    )


def _read(path: str | Path, problem: str | None) -> tuple[Problem, TensorDict, float | None]:
    """Return the problem and the one instance in a file, and the objective of its label where it has one."""
    if Path(path).suffix.lower() != ".npz" or not Path(path).is_file():
        env = recognise(path, problem)
        return env, env.read(path), None
    try:
        found = open_set(str(path), problem)
    except ArgumentError as error:
        raise InstanceError(f"{path}: {error}") from error
    if found.count != 1:
        cure = f"`ncogym evaluate --instances {path} --solvers auto` solves them all"
        raise InstanceError(f"{path}: it holds {found.count} instances, and one is allowed; {cure}")
    value = float(found.best_known[0])
    return found.env, found.blocks[0], None if math.isnan(value) else value


def check_output(file: str | Path, folder: str | Path, problem: str | None = None) -> None:
    """Refuse a folder where `Solved.write` would replace what it did not write, before a budget is spent.

    Args:
        file: an instance file; what is wrong with it is for `solve` to tell.
        folder: where the answer is to go.
        problem: that of the file, where it does not tell.

    Raises:
        ArgumentError: a file lies there that would be replaced.
        OSError: a name is too long.
    """
    try:
        npz = Path(file).suffix.lower() == ".npz"
        env = _read(file, problem)[0] if npz else recognise(file, problem)
    except (InstanceError, InvalidSolution):
        return
    record = Path(folder, f"{Path(file).stem}.json")
    suffixes = [suffix for suffix in (env.solution_suffix, ".png") if suffix is not None]
    paths = [record, *(record.with_name(f"{record.stem}{suffix}") for suffix in suffixes)]
    check_free(paths, record, places_of(Path(file), Path(folder)))


def _printable(name: str) -> str:
    """Return a file's name as one line of text, whatever bytes it has."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name).strip()


def render(record: str | Path, picture: str | Path) -> None:
    """Draw the solution in a record that `Solved.write` wrote, once the referee has checked it again.

    Args:
        record: a JSON file; its instance is looked for by the path that `solve` was given, from here and from the
            record's folder, beside the record, and where it was when it was solved.
        picture: where the picture goes; its suffix is the format.

    Raises:
        InstanceError: the record or its instance cannot be read.
        InvalidSolution: its actions break a constraint, or do not have the objective that it says.
    """
    try:
        text = read_text(record)
    except InstanceError as error:
        raise InstanceError(f"{record}: {error}") from error
    try:
        said = json.loads(text)
        file, places, problem = said["file"], said.get(PLACES, []), said["problem"]
        env = kind_of(problem)()
        for place in (file, *places):
            if b"\0" in os.fsencode(place):
                raise ValueError("the name of a file has no zero byte")
        if not all(type(action) is int for action in said["actions"]):
            raise ValueError("actions must be whole numbers")
        actions, objective = torch.tensor(said["actions"], dtype=torch.int64), float(said["objective"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:  # torch: the last
        raise InstanceError(f"{record}: not a record of solve ({type(error).__name__}: {error})") from error
    home = Path(record).parent
    tried = [Path(file), home / file, home / Path(file).name, *(home / place for place in places)]
    faults: list[NcogymError] = []
    for place in [path for path in dict.fromkeys(tried) if _is_file(path)] or [Path(file)]:
        try:
            data = _read(place, problem)[1]
            if broken := env.violations(data, actions[None, None]):
                raise InvalidSolution(f"{record}: {broken[0].reason}")
            again = float(env.objective(data, actions[None, None]))
            if not math.isclose(again, objective, rel_tol=1e-9):
                told = f"objective {_plain(objective)} is not that of its actions, {_plain(again)}"
                raise InvalidSolution(f"{record}: {told}")
        except NcogymError as error:  # another instance of that name may lie there
            faults.append(error)
            continue
        with whole(picture) as made:
            _draw(env, data, actions, made, f"{Path(file).stem}: {_shown(again)}")
        return
    raise faults[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long
        return False
