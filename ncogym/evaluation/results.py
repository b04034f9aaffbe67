"""What an evaluation found: records, summaries and all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ncogym.evaluation.intervals import known_values, mean_ci95, mean_of, primal_integral, sum_of
from ncogym.references import References
from ncogym.sets import InstanceSet
from ncogym.solution import TracePoint, gap_percent

SOLVED_PERCENT = 1e-6  # a gap below it is none: objectives are sums of float64 in one order or another


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
            mean_objective=mean_of(r.objective for r in records if r.feasible),
            mean_gap_percent=mean_of(gaps),
            ci95_gap_percent=mean_ci95(torch.tensor(gaps, dtype=torch.float64)),
            reference=self.reference,
            feasible=mean_of(r.feasible for r in records),
            seconds_total=sum_of(r.seconds for r in records),
            seconds_per_instance=mean_of(r.seconds for r in records),
            seed=self.seed,
            instances_sha256=self.instances.sha256,
            set=self.instances.name,
            budget_seconds=self.budget.get("seconds"),
            budget_rollouts=self.budget.get("rollouts"),
            rollouts_per_instance=mean_of(r.rollouts for r in records),
            worst_gap_percent=None if worst is None else worst.gap_percent,
            worst_instance=None if worst is None else worst.instance,
            solved=mean_of(gap <= SOLVED_PERCENT for gap in gaps),
            better=sum(gap < -SOLVED_PERCENT for gap in gaps),
            proven=mean_of(r.proven for r in records if r.feasible is not None),
            primal_integral_percent=None
            if name in self.reported_once
            else mean_of(self._integral(r) for r in records if r.reference is not None),
            versus=self.versus,
            mean_difference_percent=mean_of(differences),
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
        return known_values(found)

    def _integral(self, record: Record) -> float | None:
        if record.feasible is None or record.reference is None or not self.horizon:
            return None
        return primal_integral(record.trace if record.feasible else (), record.reference, self.sense, self.horizon)
