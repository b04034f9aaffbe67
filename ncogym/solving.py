"""From a file to a checked solution: the main flow."""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym import kernels
from ncogym._files import named, whole
from ncogym.auto import AUTO, Classical
from ncogym.budget import OVERRUN, Budget, MaxRollouts, MaxSeconds
from ncogym.composing import choose_policy, condition_of, make_solver, needs_policy
from ncogym.envs import kind_of
from ncogym.envs.formats.text import read_text
from ncogym.errors import (
    ArgumentError,
    InstanceError,
    InvalidSolution,
    NcogymError,
    NcogymWarning,
)
from ncogym.known import AS_GOOD, published_solution
from ncogym.plotting import draw
from ncogym.pretrained import find_policy
from ncogym.problem import Problem
from ncogym.records import PLACES, check_free, places_of, write_record
from ncogym.sets import open_set, recognise
from ncogym.solution import Solution, gap_percent


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
    size = env.instance_size(data)
    alone = solver == AUTO and policy is None and find_policy(env.name, size) is None
    chosen = choose_policy(policy, env, size, solver) if needs_policy(solver) and not alone else None
    run = Classical() if alone else make_solver(solver, chosen.policy if chosen else None)
    if chosen:
        compiled = kernels.prepare(env, data, chosen.policy, condition_of(chosen.policy))
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
