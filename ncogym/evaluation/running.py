"""Solvers times instances -> records, one after the other, in the batches that fit."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from ncogym.budget import Budget, MaxSeconds
from ncogym.distributed import gather, rank, world
from ncogym.errors import (
    ArgumentError,
    NoSolutionFound,
    NotEnoughMemory,
    SolverError,
    UnsupportedFeatures,
    UnsupportedProblem,
)
from ncogym.evaluation.results import Evaluation, Record
from ncogym.journal import Journal
from ncogym.problem import Problem
from ncogym.references import References
from ncogym.sets import InstanceSet, unnamed
from ncogym.solution import Solution, Solutions, TracePoint, gap_percent
from ncogym.solver import Solver
from ncogym.task import Task

WARM_UP_SECONDS = 1.0

Tick = Callable[[str, int, int], None]
"""Told after each batch: the solver that did it, how many solver-instance pairs are done, and how many there are."""


def seeded_instances(env: Task, count: int, seed: int) -> TensorDict:
    """Return the instances that ``ncogym evaluate --instances COUNT --seed SEED`` solves.

    A distribution knows the field's own sets (`Distribution.seeded`).

    Args:
        env: the problem.
        count: instances, at least 1.
        seed: from 0 to 2**32 - 1, numpy's range.

    Raises:
        ArgumentError: ``count`` or ``seed`` is outside its range.
    """
    if count < 1:
        raise ArgumentError(f"instances: {count} is not allowed; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise ArgumentError(f"seed: {seed} is not allowed; it must be from 0 to {2**32 - 1}")
    return env.seeded(count, seed)


def evaluate(
    env: Problem,
    instances: TensorDict | InstanceSet,
    solvers: Mapping[str, Solver] | Sequence[Solver],
    *,
    budget: Budget | None = None,
    reference: References | Float[Tensor, " batch"] | str | None = None,
    reference_name: str = "given",
    versus: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Tick | None = None,
    journal: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    session: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Solve the same instances with several solvers and record how each did.

    Before the clock starts each solver is called once on the first instance, for at most a second, so that imports and
    compilation are not charged to it. A solver that cannot take the problem, or a policy that cannot read it, gets
    records of None rather than ending the evaluation; one that finds nothing, or has too little memory, has no solution
    there. An interrupt (KeyboardInterrupt, or ``budget.cancel``) ends it with what was done; the call that it cut short
    had less than its budget and is left out.

    Args:
        env: the problem.
        instances: a set, or a TensorDict of batch size ``[batch]``, on the device where searches shall work.
        solvers: by the name in tables, or in a sequence by their own names.
        budget: for each instance; None lets each solver end of its own accord.
        reference: solutions to compare with; the name of a solver in the run; or objectives ``[batch]``, NaN where
            nothing is known. None: the set's best known values, if it has any.
        reference_name: what objectives that are given as a tensor are called in tables.
        versus: name of the solver in the run that all are compared with, instance by instance.
        seed: of all that the solvers draw, from CPU generators.
        batch_size: instances that a solver is given at once, of those that have equal shapes.
        progress: told after each batch of this process.
        journal: a file of JSON lines that takes each batch's records as they are made. Where it exists, what it holds
            is not done again; it stays there for the caller to delete.
        settings: what else decides the records (threads, device, weights); a journal of others is refused.
        session: what shall be known of this process (commit, machine, command); plain data.

    Raises:
        ArgumentError: no solver or instance, two of one name, an unknown reference or one of another length, or a
            journal of another evaluation.
    """
    named = _by_name(solvers)
    if isinstance(instances, TensorDict):
        instances = unnamed(env, instances, f"{instances.batch_size[0]} instances")
    if instances.count < 1 or batch_size < 1:
        raise ArgumentError(
            f"instances, batch_size: {instances.count}, {batch_size} are not allowed; both must be at least 1"
        )
    for argument, asked in (("reference", reference), ("versus", versus)):
        if isinstance(asked, str) and asked not in named:
            raise ArgumentError(f"{argument}: {asked!r} is not in this run; allowed are {', '.join(named)}")
    judged = _references(reference, reference_name, instances)
    budget = budget or Budget()
    limits = {key: value for key in ("seconds", "rollouts", "patience") if (value := getattr(budget, key)) < math.inf}
    about = {
        "set": instances.name,
        "instances_sha256": instances.sha256,
        "solvers": list(named),
        "budget": limits,
        "seed": seed,
        "batch_size": batch_size,
        **(settings or {}),
    }
    book = None if journal is None else Journal(Path(journal), about, rank())
    own, warm_up, sessions = _remembered(named, book)
    begun, interrupted = False, False
    batches = [b for number, b in enumerate(_batches(instances, batch_size)) if number % world() == rank()]
    total = sum(len(rows) for rows, _ in batches) * len(named)
    done = sum(len(records) for found in own.values() for records in found.values())
    try:
        for rows, batch in batches:
            for name, solver in named.items():
                if rows.start in own[name]:
                    continue
                if not begun:
                    begun = True
                    sessions.append(dict(session or {}))
                    warm_up = {n: _warm_up(n, s, env, instances.blocks[0][:1], budget, seed) for n, s in named.items()}
                    if book is not None:
                        book.append({"session": sessions[-1], "warm_up": warm_up})
                found = _attempt(name, solver, env, batch, rows.start, budget, seed)
                own[name][rows.start] = found
                if book is not None:
                    book.append({"solver": name, "begin": rows.start, "records": [_plain(record) for record in found]})
                done += len(rows)
                if progress is not None:
                    progress(name, done, total)
    except KeyboardInterrupt:
        interrupted = True
    parts = gather((own, warm_up, sessions, interrupted))
    merged: dict[str, dict[int, list[Record]]] = {name: {} for name in named}
    for mine, *_ in parts:
        for name, batches_of in mine.items():
            merged[name].update(batches_of)
    records = {name: [r for begin in sorted(found) for r in found[begin]] for name, found in merged.items()}
    if isinstance(reference, str):
        judged = _from_records(reference, records[reference], instances.count)
    known = [] if judged is None else [None if math.isnan(x) else x for x in judged.objective.tolist()]
    return Evaluation(
        instances=instances,
        solvers=tuple(named),
        records=tuple(
            _compared(r, known[r.instance] if known else None, env.sense) for of in records.values() for r in of
        ),
        references=judged,
        budget=limits,
        seed=seed,
        versus=versus,
        warm_up_seconds=next((told for _, told, *_ in parts if told), {}),
        sessions=tuple({repr(each): each for *_, told, _ in parts for each in told}.values()),
        interrupted=any(cut for *_, cut in parts),
    )


def _by_name(solvers: Mapping[str, Solver] | Sequence[Solver]) -> dict[str, Solver]:
    if isinstance(solvers, Mapping):
        named = dict(solvers)
    else:
        named = {solver.name: solver for solver in solvers}
        if len(named) < len(solvers):
            names = ", ".join(solver.name for solver in solvers)
            raise ArgumentError(f"solvers: two of one name are not allowed, here {names}; name them in a mapping")
    if not named:
        raise ArgumentError("solvers: none is given; at least one must be")
    return named


def _references(reference: References | Tensor | str | None, name: str, instances: InstanceSet) -> References | None:
    """Return what the gaps are to, but for a solver of the run."""
    count = instances.count
    if isinstance(reference, References):
        objective = reference.objective
    elif isinstance(reference, Tensor):
        objective = reference
        reference = References(name, reference.double(), (False,) * count, (None,) * count)
    elif reference is None and instances.best_known_name is not None:
        objective = instances.best_known
        reference = References(instances.best_known_name, objective, instances.proven, instances.actions)
    else:
        return None
    if objective.shape != (count,) or bool(objective.isinf().any()):
        shape = list(objective.shape)
        raise ArgumentError(f"reference: {shape} is not allowed; it must be [{count}], of finite numbers or NaN")
    return reference


def _from_records(name: str, records: Sequence[Record], count: int) -> References:
    objective = torch.full((count,), math.nan, dtype=torch.float64)
    proven: list[bool] = [False] * count
    actions: list[Tensor | None] = [None] * count
    for record in records:
        if record.feasible and record.objective is not None:
            objective[record.instance] = record.objective
            proven[record.instance] = record.proven
            actions[record.instance] = None if record.actions is None else torch.tensor(record.actions)
    return References(name, objective, tuple(proven), tuple(actions))


def _batches(instances: InstanceSet, size: int) -> list[tuple[range, TensorDict]]:
    """Return all batches: the indices of their instances, and these; none reaches over two blocks."""
    found, begin = [], 0
    for block in instances.blocks:
        count = block.batch_size[0]
        for first in range(0, count, size):
            last = min(first + size, count)
            found.append((range(begin + first, begin + last), block[first:last]))
        begin += count
    return found


def _remembered(
    named: Mapping[str, Solver], book: Journal | None
) -> tuple[dict[str, dict[int, list[Record]]], dict[str, float], list[dict[str, Any]]]:
    """Return from a journal the records by solver and first instance, the first warm-up, and the sessions.

    Raises:
        ArgumentError: a line is not one that `evaluate` wrote.
    """
    own: dict[str, dict[int, list[Record]]] = {name: {} for name in named}
    warm_up: dict[str, float] = {}
    sessions: list[dict[str, Any]] = []
    if book is None:
        return own, warm_up, sessions
    for entry in book.entries:
        try:
            if "session" in entry:
                sessions.append(dict(entry["session"]))
                warm_up = warm_up or dict(entry["warm_up"])
            else:
                own[entry["solver"]][entry["begin"]] = [_from_plain(said) for said in entry["records"]]
        except (KeyError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ArgumentError(f"output: {book.path} is damaged ({told}); delete it to begin anew") from error
    return own, warm_up, sessions


def _plain(record: Record) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in ("reference", "gap_percent")}


def _from_plain(said: Mapping[str, Any]) -> Record:
    trace = tuple(TracePoint(*point) for point in said["trace"])
    actions = None if said["actions"] is None else tuple(said["actions"])
    return Record(**{**said, "trace": trace, "actions": actions})


def _warm_up(name: str, solver: Solver, env: Problem, instance: TensorDict, budget: Budget, seed: int) -> float:
    """Return the seconds of a solver's first call."""
    start = time.perf_counter()
    _attempt(name, solver, env, instance, 0, budget | MaxSeconds(WARM_UP_SECONDS), seed)
    return time.perf_counter() - start


def _generator(*parts: int) -> torch.Generator:
    """Return a generator whose stream depends on all of ``parts`` and is shared with no other combination."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _checked(env: Problem, instances: TensorDict, solver: Solver, budget: Budget, rng: torch.Generator) -> Solutions:
    """Call a solver; a call that was cancelled had less than its budget, so its solutions are not let through."""
    try:
        # a solver that needs longer than the others may is not compared with them
        solutions = solver(env, instances, replace(budget, strict=True), rng)
    finally:
        if budget.cancel.is_set():
            raise KeyboardInterrupt
    wanted = instances.batch_size[0]
    if len(solutions) != wanted:
        raise SolverError(f"{solver.name}: {len(solutions)} solutions came back for {wanted} instances")
    return solutions


def _attempt(
    name: str, solver: Solver, env: Problem, instances: TensorDict, begin: int, budget: Budget, seed: int
) -> list[Record]:
    """Solve a batch whose first instance has the index ``begin``; one record an instance, whatever comes of it."""
    count = instances.batch_size[0]
    start = time.perf_counter()
    try:
        solutions = _checked(env, instances, solver, budget, _generator(seed, begin))
    except (UnsupportedProblem, UnsupportedFeatures) as error:
        return [Record(name, row, violation=str(error)) for row in range(begin, begin + count)]
    except (NoSolutionFound, NotEnoughMemory) as error:
        if count > 1:  # one instance can fail a whole batch; alone each is judged for itself
            rows = range(count)
            alone = [_attempt(name, solver, env, instances[r : r + 1], begin + r, budget, seed) for r in rows]
            return [record for records in alone for record in records]
        seconds = time.perf_counter() - start
        return [Record(name, begin, feasible=False, violation=str(error), seconds=seconds)]
    return [
        _record(name, begin + row, solution, env.plain_actions(instances[row : row + 1], solution.actions))
        for row, solution in enumerate(solutions)
    ]


def _record(name: str, row: int, solution: Solution, actions: list[int]) -> Record:
    return Record(
        solver=name,
        instance=row,
        objective=solution.objective,
        feasible=solution.feasible,
        violation=solution.violation,
        proven=solution.proven,
        seconds=solution.seconds,
        rollouts=solution.rollouts,
        trace=solution.trace,
        actions=tuple(actions),
    )


def _compared(record: Record, reference: float | None, sense: str) -> Record:
    gap = None
    if reference is not None and record.objective is not None and record.feasible:
        gap = gap_percent(record.objective, reference, sense)
    return replace(record, reference=reference, gap_percent=gap)
