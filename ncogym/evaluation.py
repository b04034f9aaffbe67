"""Solvers x instances -> records: who found what on which instance, in what time, and how far from a reference.

Every solver gets the same instances in the same batches under the same budget per instance, one after the other within
a batch, so that what is done at an interrupt is comparable. What a solver draws depends on the seed and the batch
alone, not on who else takes part. Objectives and feasibility are the environment's word, as `ncogym.solver` has it.

Where several processes were started (`ncogym.distributed`), each takes its share of the batches and all of them get
everybody's records, so each of them must call. But for the seconds, these are the records of one process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from tensordict import TensorDict
from torch import Tensor

from ncogym.distributed import gather, share
from ncogym.errors import (
    ArgumentError,
    InvalidSolution,
    NoSolutionFound,
    SolverError,
    UnsupportedFeatures,
    UnsupportedProblem,
)
from ncogym.solver import Budget, MaxSeconds, Solution, Solutions, Solver, TracePoint, gap_percent

CHUNK = 64  # reference objectives that a kill may cost
RESAMPLES = 2000
WARM_UP_SECONDS = 1.0

Tick = Callable[[str, int, int], None]
"""Told after each batch: the solver that did it, how many solver-instance pairs are done, and how many there are."""


# ---------------------------------------------------------------------- instances and gaps


def seeded_instances(env: Any, count: int, seed: int) -> TensorDict:
    """Return the instances that ``ncogym evaluate --instances COUNT --seed SEED`` solves.

    The environment knows the field's own sets (``env.seeded``); one that knows none generates from the seed.

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
    drawn: TensorDict
    if hasattr(env, "seeded"):
        drawn = env.seeded(count, seed)
    else:
        drawn = env.generate(count, torch.Generator().manual_seed(seed))
    return drawn


def instances_sha256(instances: TensorDict) -> str:
    """Return a fingerprint of instances: SHA-256 over the names, dtypes, shapes and bytes of their tensors.

    The order of the keys and the device do not count; everything else does.
    """
    digest = hashlib.sha256()
    for key, value in sorted(instances.items(include_nested=True, leaves_only=True), key=lambda item: str(item[0])):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------- references


def reference_objectives(
    env: Any,
    instances: TensorDict,
    solver: Solver,
    budget: Budget | None = None,
    *,
    rng: torch.Generator,
    cache: Path | None = None,
    progress: Tick | None = None,
) -> Float64[Tensor, " batch"]:
    """Return the objective that a strong solver reaches on each instance, remembered on disk.

    Instances are solved in chunks of 64 and each chunk is a file of its own, so that a kill costs one chunk, and the
    first instances of a set are found again in a longer one. What a chunk draws depends on ``rng`` and its place alone;
    an undisturbed run and one that was killed and begun again give the same.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        solver: the strong solver; the cache knows it by its name alone.
        budget: for each instance, as in `Solver`.
        rng: one number is drawn from it, whatever is in the cache.
        cache: folder of the JSON files, made if need be; None remembers nothing.
        progress: told after each chunk of this process.

    Raises:
        ArgumentError: a file of the cache is broken or belongs to something else.
        InvalidSolution: a solution of the solver breaks a constraint, so that it is no reference.
        KeyboardInterrupt: the budget was cancelled; the chunks before are in the cache.
    """
    count = instances.batch_size[0]
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    own: dict[int, list[float]] = {}
    done, batches = 0, share(count, CHUNK)
    for rows in batches:
        chunk = instances[rows.start : rows.stop]
        about = {
            "env": env.name,
            "solver": solver.name,
            "budget": _limits(budget),
            "instances_sha256": instances_sha256(chunk),
        }
        path = None if cache is None else Path(cache) / f"{hashlib.sha256(_json(about)).hexdigest()}.json"
        if path is not None and path.exists():
            found = _remembered(path, about, len(rows))
        else:
            rng = _generator(seed, rows.start)
            found = _objectives(_checked(env, chunk, solver, budget or Budget(), rng), rows.start)
            if path is not None:
                _write_atomically(path, _json({**about, "objectives": found}))
        own[rows.start] = found
        done += len(rows)
        if progress is not None:
            progress(solver.name, done, sum(map(len, batches)))
    everybodys = {begin: found for part in gather(own) for begin, found in part.items()}
    return torch.tensor([x for begin in sorted(everybodys) for x in everybodys[begin]], dtype=torch.float64)


def _objectives(solutions: Solutions, begin: int) -> list[float]:
    for row, solution in enumerate(solutions, begin):
        if not solution.feasible:
            raise InvalidSolution(f"reference by {solution.solver}, instance {row}: {solution.violation}")
    return [solution.objective for solution in solutions]


def _limits(budget: Budget | None) -> dict[str, float]:
    """Return the limits that a budget sets."""
    limits = {} if budget is None else {name: getattr(budget, name) for name in ("seconds", "rollouts", "patience")}
    return {name: float(value) for name, value in limits.items() if value < math.inf}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode() + b"\n"


def _remembered(path: Path, about: Mapping[str, Any], count: int) -> list[float]:
    """Read a chunk's file, and refuse it in words if it is not what was written."""
    try:
        said = json.loads(path.read_text())
        objectives = said.pop("objectives")
        if said != about:
            raise ValueError("it belongs to another solver, budget or set")
        if len(objectives) != count or not all(type(x) is float and math.isfinite(x) for x in objectives):
            raise ValueError(f"its objectives are not {count} finite numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(f"cache: {path} is broken ({error}); delete it to compute it again") from error
    return list(objectives)


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent, whenever this process is killed; a part left so is never read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# ---------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Record:
    """What one solver did on one instance.

    Attributes:
        solver: its name in this evaluation.
        instance: its index in the set.
        objective: in the instance's units; None where there is no solution.
        reference: what the gap is to; None where nothing is known.
        gap_percent: see `gap_percent`; None unless the solution is feasible and the reference known.
        feasible: whether there is a solution that the referee accepts; None where the solver cannot take the problem.
        violation: the referee's words, or the solver's where it gave no solution.
        seconds: wall-clock seconds of this instance (of a batch: its equal share).
        rollouts: complete solutions that were built.
        trace: the anytime curve, one point per improvement.
    """

    solver: str
    instance: int
    objective: float | None = None
    reference: float | None = None
    gap_percent: float | None = None
    feasible: bool | None = None
    violation: str | None = None
    seconds: float | None = None
    rollouts: int | None = None
    trace: tuple[TracePoint, ...] = ()


@dataclass(frozen=True)
class Summary:
    """One line of the table; the fields are those of ``ncogym evaluate --format json``, in their order.

    Attributes:
        solver: its name.
        env: the problem's name.
        instances: how many were given to it and came back.
        mean_objective: over its feasible solutions.
        mean_gap_percent: over its feasible solutions whose reference is known.
        ci95_gap_percent: ``[low, high]``, the 95 % bootstrap interval of that mean; None for fewer than two.
        reference: name of what the gaps are to.
        feasible: share of its instances with a feasible solution, 0 to 1; the means are blind to the others.
        seconds_total: summed over the instances.
        seconds_per_instance: their mean.
        seed: of all that was drawn.
        instances_sha256: fingerprint of the whole set, see `instances_sha256`.
    """

    solver: str
    env: str
    instances: int
    mean_objective: float | None
    mean_gap_percent: float | None
    ci95_gap_percent: list[float] | None
    reference: str | None
    feasible: float | None
    seconds_total: float | None
    seconds_per_instance: float | None
    seed: int
    instances_sha256: str


@dataclass(frozen=True)
class Evaluation:
    """The records of an evaluation, solver by solver in the order of the instances.

    Attributes:
        env: the problem's name.
        sense: "min" or "max".
        solvers: names, in the order given.
        records: without those that an interrupt cut off.
        reference: name of what the gaps are to, or None.
        seed: of all that was drawn.
        instances_sha256: fingerprint of the set.
        warm_up_seconds: of each solver's first call, on one instance, which counts nowhere else.
        interrupted: whether it ended before all was done.
    """

    env: str
    sense: str
    solvers: tuple[str, ...]
    records: tuple[Record, ...]
    reference: str | None
    seed: int
    instances_sha256: str
    warm_up_seconds: dict[str, float]
    interrupted: bool = False

    def summaries(self) -> list[Summary]:
        """Return one summary a solver, in the order of `solvers`."""
        return [self._summary(name) for name in self.solvers]

    def _summary(self, name: str) -> Summary:
        records = [record for record in self.records if record.solver == name]
        gaps = [record.gap_percent for record in records if record.gap_percent is not None]
        return Summary(
            solver=name,
            env=self.env,
            instances=len(records),
            mean_objective=_mean(r.objective for r in records if r.feasible),
            mean_gap_percent=_mean(gaps),
            ci95_gap_percent=bootstrap_ci95(torch.tensor(gaps, dtype=torch.float64), self.seed),
            reference=self.reference,
            feasible=_mean(r.feasible for r in records),
            seconds_total=_sum(r.seconds for r in records),
            seconds_per_instance=_mean(r.seconds for r in records),
            seed=self.seed,
            instances_sha256=self.instances_sha256,
        )


def evaluate(
    env: Any,
    instances: TensorDict,
    solvers: Mapping[str, Solver] | Sequence[Solver],
    *,
    budget: Budget | None = None,
    reference: Float[Tensor, " batch"] | str | None = None,
    reference_name: str = "given",
    seed: int = 0,
    batch_size: int = 64,
    progress: Tick | None = None,
) -> Evaluation:
    """Solve the same instances with several solvers and record how each did.

    Before the clock starts each solver is called once on the first instance, for at most a second, so that imports and
    compilation are not charged to it. A solver that cannot take the problem, or a policy that cannot read it, gets
    records of None rather than ending the evaluation. An interrupt (KeyboardInterrupt, or ``budget.cancel``) ends it
    with what was done; the call that it cut short had less than its budget and is left out.

    Args:
        env: the problem.
        instances: batch size ``[batch]``, on the device where searches shall work.
        solvers: by the name in tables, or in a sequence by their own names.
        budget: for each instance; None lets each solver end of its own accord.
        reference: name of a solver in the run, or objectives ``[batch]``, NaN where nothing is known; None: no gaps.
        reference_name: what objectives that are given as a tensor are called in tables.
        seed: of all that the solvers draw, from CPU generators, and of the bootstrap.
        batch_size: instances that a solver is given at once.
        progress: told after each batch of this process.

    Raises:
        ArgumentError: no solver or instance, two of one name, an unknown reference or one of another length.
    """
    named = _by_name(solvers)
    count = instances.batch_size[0]
    if count < 1 or batch_size < 1:
        raise ArgumentError(f"instances, batch_size: {count}, {batch_size} are not allowed; both must be at least 1")
    if isinstance(reference, str) and reference not in named:
        raise ArgumentError(f"reference: {reference!r} is not in this run; allowed are {', '.join(named)}")
    if isinstance(reference, Tensor) and (reference.shape != (count,) or bool(reference.isinf().any())):
        shape = list(reference.shape)
        raise ArgumentError(f"reference: {shape} is not allowed; it must be [{count}], of finite numbers or NaN")
    budget, batches, done = budget or Budget(), share(count, batch_size), 0
    own: dict[str, list[Record]] = {name: [] for name in named}
    warm_up: dict[str, float] = {}
    interrupted = False
    try:
        for name, solver in named.items():
            start = time.perf_counter()
            _attempt(name, solver, env, instances[:1], 0, budget | MaxSeconds(WARM_UP_SECONDS), seed)
            warm_up[name] = time.perf_counter() - start
        for rows in batches:
            for name, solver in named.items():
                own[name] += _attempt(name, solver, env, instances[rows.start : rows.stop], rows.start, budget, seed)
                done += len(rows)
                if progress is not None:
                    progress(name, done, sum(map(len, batches)) * len(named))
    except KeyboardInterrupt:
        interrupted = True
    parts = gather((own, warm_up, interrupted))
    records = {name: sorted((r for part, *_ in parts for r in part[name]), key=lambda r: r.instance) for name in named}
    known: dict[int, float | None] = {}
    if isinstance(reference, str):
        known = {record.instance: record.objective if record.feasible else None for record in records[reference]}
    elif reference is not None:
        known = {row: None if math.isnan(value) else value for row, value in enumerate(reference.tolist())}
    return Evaluation(
        env=env.name,
        sense=env.sense,
        solvers=tuple(named),
        records=tuple(_compared(r, known.get(r.instance), env.sense) for of in records.values() for r in of),
        reference=reference_name if isinstance(reference, Tensor) else reference,
        seed=seed,
        instances_sha256=instances_sha256(instances),
        warm_up_seconds=parts[0][1],
        interrupted=any(cut for *_, cut in parts),
    )


def bootstrap_ci95(values: Float64[Tensor, " values"], seed: int) -> list[float] | None:
    """Return the 95 % percentile bootstrap interval of a mean, from 2,000 resamples.

    Args:
        values: whose mean is meant.
        seed: of the resampling.

    Returns:
        ``[low, high]``, or None for fewer than two values, which tell nothing of their spread.

    References:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    count = len(values)
    if count < 2:
        return None
    rng = torch.Generator().manual_seed(seed)
    rows = max(1, 2**20 // count)  # resamples at a time, so that memory stays small
    sizes = [min(rows, RESAMPLES - begin) for begin in range(0, RESAMPLES, rows)]
    means = torch.cat([values[torch.randint(count, (size, count), generator=rng)].mean(1) for size in sizes])
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return [low, high]


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


def _generator(*parts: int) -> torch.Generator:
    """Return a generator whose stream depends on all of ``parts`` and is shared with no other combination."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _checked(env: Any, instances: TensorDict, solver: Solver, budget: Budget, rng: torch.Generator) -> Solutions:
    """Call a solver; a call that was cancelled had less than its budget, so its solutions are not let through."""
    try:
        solutions = solver(env, instances, budget, rng)
    finally:
        if budget.cancel.is_set():
            raise KeyboardInterrupt
    wanted = instances.batch_size[0]
    if len(solutions) != wanted:
        raise SolverError(f"{solver.name}: {len(solutions)} solutions came back for {wanted} instances")
    return solutions


def _attempt(
    name: str, solver: Solver, env: Any, instances: TensorDict, begin: int, budget: Budget, seed: int
) -> list[Record]:
    """Solve a batch whose first instance has the index ``begin``; one record an instance, whatever comes of it."""
    count = instances.batch_size[0]
    start = time.perf_counter()
    try:
        solutions = _checked(env, instances, solver, budget, _generator(seed, begin))
    except (UnsupportedProblem, UnsupportedFeatures) as error:
        return [Record(name, row, violation=str(error)) for row in range(begin, begin + count)]
    except NoSolutionFound as error:
        if count > 1:  # one instance can fail a whole batch; alone each is judged for itself
            rows = range(count)
            alone = [_attempt(name, solver, env, instances[r : r + 1], begin + r, budget, seed) for r in rows]
            return [record for records in alone for record in records]
        seconds = time.perf_counter() - start
        return [Record(name, begin, feasible=False, violation=str(error), seconds=seconds)]
    return [_record(name, row, solution) for row, solution in enumerate(solutions, begin)]


def _record(name: str, row: int, solution: Solution) -> Record:
    return Record(
        solver=name,
        instance=row,
        objective=solution.objective,
        feasible=solution.feasible,
        violation=solution.violation,
        seconds=solution.seconds,
        rollouts=solution.rollouts,
        trace=solution.trace,
    )


def _compared(record: Record, reference: float | None, sense: str) -> Record:
    gap = None
    if reference is not None and record.objective is not None and record.feasible:
        gap = gap_percent(record.objective, reference, sense)
    return replace(record, reference=reference, gap_percent=gap)


def _known(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None]


def _sum(values: Any) -> float | None:
    known = _known(values)
    return math.fsum(known) if known else None


def _mean(values: Any) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None
