"""Solvers x instances -> records: who found what on which instance, in what time, and how far from a reference.

Every solver gets the same instances in the same batches under the same budget per instance, one after the other within
a batch, so that what is done at an interrupt is comparable, and a change of the machine's speed meets all. What a
solver draws depends on the seed and the batch alone, not on who else takes part. Objectives and feasibility are the
environment's word, as `ncogym.solver` has it. With a journal, what is done survives a kill, and the same call goes on.

Where several processes were started (`ncogym.distributed`), each takes its share of the batches and all of them get
everybody's records, so each of them must call. But for the seconds, these are the records of one process.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
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
from ncogym.journal import Journal
from ncogym.problem import Problem
from ncogym.references import References
from ncogym.sets import InstanceSet, unnamed
from ncogym.solution import Solution, Solutions, TracePoint, gap_percent
from ncogym.solver import Solver
from ncogym.task import Task

WARM_UP_SECONDS = 1.0
SOLVED_PERCENT = 1e-6  # a gap below it is none: objectives are sums of float64 in one order or another

Tick = Callable[[str, int, int], None]
"""Told after each batch: the solver that did it, how many solver-instance pairs are done, and how many there are."""


# ---------------------------------------------------------------------- instances


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
        proven: whether the solver has proven that nothing is better.
        seconds: wall-clock seconds of this instance (of a batch: its equal share).
        rollouts: complete solutions that were built.
        trace: the anytime curve, one point per improvement.
        actions: the solution without padding (``env.plain_actions``), from which it can be scored and checked again.
    """

    solver: str
    instance: int
    objective: float | None = None
    reference: float | None = None
    gap_percent: float | None = None
    feasible: bool | None = None
    violation: str | None = None
    proven: bool = False
    seconds: float | None = None
    rollouts: int | None = None
    trace: tuple[TracePoint, ...] = ()
    actions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Summary:
    """One line of the table; the fields are those of ``ncogym evaluate --format json``, in their order.

    Attributes:
        solver: its name.
        env: the problem's name.
        instances: how many were given to it and came back.
        mean_objective: over its feasible solutions.
        mean_gap_percent: over its feasible solutions whose reference is known.
        ci95_gap_percent: ``[low, high]``, the 95 % interval of that mean (`mean_ci95`); None for fewer than two.
        reference: name of what the gaps are to.
        feasible: share of its instances with a feasible solution, 0 to 1; the means are blind to the others.
        seconds_total: summed over the instances.
        seconds_per_instance: their mean.
        seed: of all that was drawn.
        instances_sha256: fingerprint of the whole set, see `instances_sha256`.
        set: name of the instances.
        budget_seconds: allowed for each instance, or None.
        budget_rollouts: allowed for each instance, or None.
        rollouts_per_instance: mean number of complete solutions that it built.
        worst_gap_percent: the largest gap.
        worst_instance: index of the instance that has it.
        solved: share of the instances with a known reference whose gap is 0 (below 1e-6 %) or negative.
        better: number of solutions that are better than their reference.
        proven: share of its instances whose solution it has proven to be the best.
        primal_integral_percent: mean of `primal_integral` over the instances with a known reference; None for a solver
            that told one solution an instance, when it ended (`Evaluation.reported_once`).
        versus: name of the solver that the differences are to.
        mean_difference_percent: mean, over the instances that both solved, of the gap to the solution of ``versus``.
        ci95_difference_percent: its 95 % interval (`mean_ci95`); 0 outside of it says that the two differ.
        device: where it ran, in words.
        threads: CPU threads, the same for every solver.
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
    set: str
    budget_seconds: float | None
    budget_rollouts: float | None
    rollouts_per_instance: float | None
    worst_gap_percent: float | None
    worst_instance: int | None
    solved: float | None
    better: int
    proven: float | None
    primal_integral_percent: float | None
    versus: str | None
    mean_difference_percent: float | None
    ci95_difference_percent: list[float] | None
    device: str | None
    threads: int | None


@dataclass(frozen=True)
class Evaluation:
    """The records of one set under one budget, solver by solver in the order of the instances.

    Attributes:
        instances: the set.
        solvers: names, in the order instances.
        records: without those that an interrupt cut off.
        references: what the gaps are to, or None.
        budget: the limits of each instance: ``seconds``, ``rollouts``, ``patience``, those that are set.
        seed: of all that was drawn.
        versus: name of the solver that paired differences are to, or None.
        warm_up_seconds: of each solver's first call, on one instance, which counts nowhere else.
        sessions: what is known of each process that made records, as the caller told: commit, machine, command, ...
        interrupted: whether it ended before all was done.
    """

    instances: InstanceSet
    solvers: tuple[str, ...]
    records: tuple[Record, ...]
    references: References | None
    budget: dict[str, float]
    seed: int
    versus: str | None
    warm_up_seconds: dict[str, float]
    sessions: tuple[dict[str, Any], ...] = ()
    interrupted: bool = False

    @property
    def env(self) -> str:
        """The problem's name."""
        name: str = self.instances.env.name
        return name

    @property
    def sense(self) -> str:
        """Whether objectives are to be small, "min", or large, "max"."""
        sense: str = self.instances.env.sense
        return sense

    @property
    def reference(self) -> str | None:
        """Name of what the gaps are to, or None."""
        return None if self.references is None else self.references.name

    @property
    def horizon(self) -> float:
        """Seconds that the anytime measures span, the same for all solvers: the budget's, else the slowest record's."""
        return self.budget.get("seconds") or max((r.seconds or 0.0 for r in self.records), default=0.0)

    @cached_property
    def by_solver(self) -> dict[str, dict[int, Record]]:
        """The records of each solver, by instance."""
        found: dict[str, dict[int, Record]] = {name: {} for name in self.solvers}
        for record in self.records:
            found[record.solver][record.instance] = record
        return found

    @cached_property
    def reported_once(self) -> frozenset[str]:
        """Those solvers that told one solution an instance, when they ended: their primal integral says only when."""
        once = {}
        for name, records in self.by_solver.items():
            solved = [record for record in records.values() if record.feasible]
            once[name] = bool(solved) and all(
                len(r.trace) <= 1 and all(point.rollouts == r.rollouts for point in r.trace) for r in solved
            )
        return frozenset(name for name, alone in once.items() if alone)

    def groups(self) -> dict[str, list[int]]:
        """Return the instances of each size, where there are several: at most eight groups, larger ones by halves.

        Returns:
            By the group's name, ``"51"`` or ``"51 to 100"``, indices in the set; empty where all are of one size.
        """
        sizes = self.instances.sizes
        values = sorted(set(sizes))
        if len(values) == 1:
            return {}
        if len(values) <= 8:
            bounds = [(value, value) for value in values]
        else:  # octaves
            low = 2 ** int(math.log2(values[0]))
            bounds = [(low * 2**k, low * 2 ** (k + 1) - 1) for k in range(int(math.log2(values[-1] / low)) + 1)]
        named = {
            f"{a}" if a == b else f"{a} to {b}": [row for row, size in enumerate(sizes) if a <= size <= b]
            for a, b in bounds
        }
        return {name: rows for name, rows in named.items() if rows}

    def summaries(self, rows: Sequence[int] | None = None) -> list[Summary]:
        """Return one summary a solver, in the order of `solvers`.

        Args:
            rows: indices of the instances that count; None takes all.
        """
        return [self._summary(name, rows) for name in self.solvers]

    def _summary(self, name: str, rows: Sequence[int] | None) -> Summary:
        wanted = None if rows is None else set(rows)
        records = [r for row, r in self.by_solver[name].items() if wanted is None or row in wanted]
        judged = [r for r in records if r.gap_percent is not None]
        gaps = [r.gap_percent for r in judged if r.gap_percent is not None]
        worst = max(judged, key=lambda r: r.gap_percent or 0.0, default=None)
        differences = [] if self.versus is None else self._differences(records, self.by_solver[self.versus])
        told = self.sessions[-1] if self.sessions else {}
        return Summary(
            solver=name,
            env=self.env,
            instances=len(records),
            mean_objective=_mean(r.objective for r in records if r.feasible),
            mean_gap_percent=_mean(gaps),
            ci95_gap_percent=mean_ci95(torch.tensor(gaps, dtype=torch.float64)),
            reference=self.reference,
            feasible=_mean(r.feasible for r in records),
            seconds_total=_sum(r.seconds for r in records),
            seconds_per_instance=_mean(r.seconds for r in records),
            seed=self.seed,
            instances_sha256=self.instances.sha256,
            set=self.instances.name,
            budget_seconds=self.budget.get("seconds"),
            budget_rollouts=self.budget.get("rollouts"),
            rollouts_per_instance=_mean(r.rollouts for r in records),
            worst_gap_percent=None if worst is None else worst.gap_percent,
            worst_instance=None if worst is None else worst.instance,
            solved=_mean(gap <= SOLVED_PERCENT for gap in gaps),
            better=sum(gap < -SOLVED_PERCENT for gap in gaps),
            proven=_mean(r.proven for r in records if r.feasible is not None),
            primal_integral_percent=None
            if name in self.reported_once
            else _mean(self._integral(r) for r in records if r.reference is not None),
            versus=self.versus,
            mean_difference_percent=_mean(differences),
            ci95_difference_percent=mean_ci95(torch.tensor(differences, dtype=torch.float64)),
            device=told.get("device"),
            threads=told.get("threads"),
        )

    def _differences(self, records: Sequence[Record], others: Mapping[int, Record]) -> list[float]:
        pairs = [(r, others[r.instance]) for r in records if r.feasible and r.instance in others]
        found = [
            gap_percent(r.objective, other.objective, self.sense)
            for r, other in pairs
            if other.feasible and r.objective is not None and other.objective is not None
        ]
        return _known(found)

    def _integral(self, record: Record) -> float | None:
        if record.feasible is None or record.reference is None or not self.horizon:
            return None
        return primal_integral(record.trace if record.feasible else (), record.reference, self.sense, self.horizon)


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


# ---------------------------------------------------------------------- statistics


def mean_ci95(values: Float64[Tensor, " values"]) -> list[float] | None:
    """Return the 95 % interval of a mean: by Student's t and by Hall's t for skewed values, at each end the wider one.

    Gaps are skewed (many zeros and a long tail), so that the mean of few is mostly too small, and the more so the
    smaller their spread; Hall's transformation takes this out of the t statistic. How often the interval holds the true
    mean in fact, of gaps and of their differences, is in docs/decisions/intervals.md: of 5 or 10 instances it can be
    less often than it says.

    Args:
        values: whose mean is meant.

    Returns:
        ``[low, high]``, around the mean but not symmetric; None for fewer than two values, which tell nothing of their
        spread. Values that are all equal have an interval of no width.

    References:
        Hall (1992), On the Removal of Skewness by Transformation, Journal of the Royal Statistical Society B 54.
    """
    count = len(values)
    if count < 2:
        return None
    mean, spread = values.mean(), values.std()
    if float(spread) <= 1e-12 * float(values.abs().max()):  # nothing but rounding
        return [float(mean), float(mean)]
    skewness = float(((values - mean) / spread).pow(3).mean())
    reach = student_quantile(count - 1) / math.sqrt(count)

    def untransformed(value: float) -> float:
        """Return the t statistic, over the root of the count, that Hall's transformation takes to ``value``."""
        if abs(skewness) < 1e-6:  # where the root below would be all rounding
            return value
        return 3 / skewness * (math.cbrt(1 + skewness * (value - skewness / (6 * count))) - 1)

    low = float(mean - spread * max(reach, untransformed(reach)))
    return [low, float(mean + spread * max(reach, -untransformed(-reach)))]


def seeds_ci95(values: Float64[Tensor, "seeds instances"]) -> list[float] | None:
    """Return the 95 % interval of a mean over training seeds and instances, both of which might have been others.

    Each seed's policy solves the same instances, so that seeds and instances are crossed, and the variance of the mean
    is that of a two-way layout of random effects. With few seeds that differ, it is mostly theirs, of few degrees of
    freedom (Satterthwaite's), and the interval is wide. It is never narrower than `mean_ci95` of the instances' means.

    Args:
        values: of each seed and instance, gaps or paired differences.

    Returns:
        ``[low, high]``; None for fewer than two seeds or instances, which tell nothing of their spread.

    References:
        Satterthwaite (1946), An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2.
    """
    seeds, count = values.shape
    if seeds < 2 or count < 2:
        return None
    mean, by_seed, by_instance = values.mean(), values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_instance + mean
    free = (seeds - 1, count - 1, (seeds - 1) * (count - 1))
    squares = (count * by_seed.var(), seeds * by_instance.var(), rest.square().sum() / free[2])
    of_seeds, of_instances, of_rest = map(float, squares)
    low, high = mean_ci95(by_instance) or [float(mean)] * 2
    total = max(of_seeds + of_instances - of_rest, of_seeds, of_instances)  # no component is negative
    if total > 0:
        spread = sum(square**2 / each for square, each in zip((of_seeds, of_instances, of_rest), free, strict=True))
        half = student_quantile(max(total**2 / spread, 1.0)) * math.sqrt(total / (seeds * count))
        low, high = min(low, float(mean) - half), max(high, float(mean) + half)
    return [low, high]


@lru_cache(maxsize=4096)
def student_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, which bounds a two-sided 95 % interval.

    Args:
        freedom: degrees of freedom, at least 1; they need not be whole.
    """
    # t is sqrt(freedom) times the tangent of an angle whose density is a power of its cosine
    angles = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(angles.cos().pow(freedom - 1), angles)
    place = int(torch.searchsorted(mass, 0.95 * mass[-1]))
    below, above = float(mass[place - 1]), float(mass[place])
    share = (0.95 * float(mass[-1]) - below) / (above - below)
    return math.sqrt(freedom) * math.tan(float(angles[place]) + share * float(angles[1]))


def primal_integral(trace: Sequence[TracePoint], reference: float, sense: str, horizon: float) -> float:
    """Return the mean over ``[0, horizon]`` of the primal gap of the best solution so far, in percent.

    The primal gap is ``(objective - reference) / max(|objective|, |reference|)``, or its mirror where more is better; 1
    before the first solution; negative where the reference is beaten. It rewards both good solutions and early ones.

    Args:
        trace: improvements in the order of time.
        reference: best objective known.
        sense: "min" or "max".
        horizon: seconds, above 0.

    References:
        Berthold (2013), Measuring the impact of primal heuristics, Operations Research Letters 41.
    """
    area, gap, since = 0.0, 1.0, 0.0
    for point in trace:
        now = min(point.seconds, horizon)
        area += gap * (now - since)
        scale = max(abs(point.objective), abs(reference))
        worse = point.objective - reference if sense == "min" else reference - point.objective
        gap, since = (min(worse / scale, 1.0) if scale else 0.0), now
    return 100 * (area + gap * (horizon - since)) / horizon


# ---------------------------------------------------------------------- helpers


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


def _known(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None]


def _sum(values: Any) -> float | None:
    known = _known(values)
    return math.fsum(known) if known else None


def _mean(values: Any) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None
