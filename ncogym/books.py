"""The books of one call of a solver: its clock, its count of rollouts, and the best solution of each instance.

Time and rollouts are counted in one place, `Progress`, which every solver opens first, and which alone may build a
`Solution`: each is scored by ``objective`` and checked by ``violations`` of the problem, from the actions alone, never
by the solver's own word.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.budget import OVERRUN, Budget
from ncogym.errors import Abandoned, NoSolutionFound
from ncogym.problem import Referee
from ncogym.solution import Solution, Solutions, TracePoint, picked, stacked


class Progress:
    """The clock, the counter and the best solutions of one call of a solver over a batch of instances.

    Example:
        >>> import torch
        >>> from ncogym.books import Progress
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> env = build_task("tsp", num_nodes=5)
        >>> progress = Progress(env, env.seeded(1, seed=0), MaxRollouts(2))
        >>> _ = progress.offer(torch.tensor([[[0, 1, 2, 3, 4], [0, 2, 1, 3, 4]]]))
        >>> progress.spent, progress.solutions("by hand")[0].feasible
        (True, True)

    Args:
        env: the problem; scores and checks.
        instances: a TensorDict of batch size ``[batch]``.
        budget: the limits; None sets none, and the solver ends of its own accord.
    """

    def __init__(self, env: Referee, instances: TensorDict, budget: Budget | None) -> None:
        self.env: Any = env  # searches ask more of it than the books do
        self.instances, self.budget = instances, budget or Budget()
        self.batch = instances.batch_size[0]
        self.rollouts = 0
        self.actions: Tensor | None = None
        self.best: Tensor | None = None
        self._since_improvement = 0
        self._proven: set[int] = set()
        self._doubted: set[int] = set()
        self._curves: list[_Mark | list[list[TracePoint]]] = []  # in the order of time
        self._ahead = [(0.0, 0)] * self.batch  # seconds and rollouts of each row beyond those that are told of all
        self._first: float | None = None
        self._offered = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far, per instance."""
        return (time.perf_counter() - self._start) / max(self.batch, 1)

    @property
    def rollouts_left(self) -> float:
        """Rollouts per instance that the budget still allows."""
        return self.budget.rollouts - self.rollouts

    def left(self, share: float = 1.0) -> Budget:
        """Return what is left of the budget, or that ``share`` of it, for a solver inside a solver.

        Once there is a solution, the inner solver need not come to one: its first ends with its seconds, too.
        """
        budget = self.budget
        seconds = max(budget.seconds - self.seconds, 1e-3) * share
        return Budget(
            seconds,
            max((budget.rollouts - self.rollouts) * share, 1),
            budget.patience,
            budget.cancel,
            first=budget.first - self.seconds if self.actions is None else seconds,
        )

    @property
    def spent(self) -> bool:
        """Whether the budget is used up or the search was cancelled."""
        return (
            self.budget.cancel.is_set()
            or self.seconds >= self.budget.seconds
            or self.rollouts >= self.budget.rollouts
            or self._since_improvement >= self.budget.patience
        )

    @property
    def allowed(self) -> float:
        """Wall-clock seconds that a rollout may still take, all instances together.

        What would be the first solution has all the time that it needs, unless the budget says otherwise (`first`).
        """
        limit = self.budget.first if self.actions is None else self.budget.seconds
        if self.budget.cancel.is_set() and (self.actions is not None or self.budget.first < math.inf):
            return 0.0
        return max(limit - self.seconds, 0.0) * self.batch

    def look(self) -> None:
        """Look at the clock within a rollout.

        Raises:
            Abandoned: no time is `allowed` any more.
        """
        if self.allowed <= 0.0:
            raise Abandoned(f"no solution of {self.env.name} within the budget")

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Throw away what is under way when the time is over: the best so far is the answer, where there is one.

        Raises:
            Abandoned: there is none.
        """
        try:
            yield
        except Abandoned:
            if self.actions is None:
                raise

    @contextmanager
    def part(self, share: float, rollouts: float | None = None) -> Iterator[None]:
        """Narrow the budget to a share of what is left of it while a stage runs, then give the whole back.

        Patience begins anew with each stage.

        Args:
            share: of the seconds, above 0 and at most 1.
            rollouts: share of the rollouts; None is ``share``.
        """
        whole = self.budget
        self.budget = replace(
            whole,
            seconds=self.seconds + share * max(whole.seconds - self.seconds, 0.0),
            rollouts=self.rollouts + (share if rollouts is None else rollouts) * max(self.rollouts_left, 0.0),
        )
        self._since_improvement = 0
        try:
            yield
        finally:
            self.budget = whole

    def offer(
        self, actions: Int64[Tensor, "batch rollouts steps"], rollouts: int | None = None
    ) -> Float64[Tensor, "batch rollouts"]:
        """Score candidate solutions and keep the best of each instance.

        Args:
            actions: int64 ``[batch, rollouts, steps]``; fewer steps than an earlier offer are padded by the env.
            rollouts: complete solutions that these cost per instance, where that is not their number.

        Returns:
            Their objectives, float64 ``[batch, rollouts]``.
        """
        objective = self.env.objective(self.instances, actions)
        value, chosen = self._best_of(actions, objective)
        improved = (
            torch.ones_like(value, dtype=torch.bool) if self.best is None else _better(value, self.best, self.env.sense)
        )
        rows = improved.nonzero().flatten()
        some = self.instances if len(rows) == self.batch else picked(self.instances, rows)  # which copies them
        broken = sorted({v.row for v in self.env.violations(some, chosen[rows][:, None])})
        if broken:
            # a broken solution may score well; among the candidates of its row it counts as the worst
            rows, ranked = rows[broken], objective.clone()
            self._doubted.update(rows.tolist())
            for each in self.env.violations(picked(self.instances, rows), actions[rows]):
                ranked[rows[each.row], each.rollout] = self._worst
            value, chosen = self._best_of(actions, ranked)
            improved = torch.ones_like(improved) if self.best is None else _better(value, self.best, self.env.sense)
        cost = actions.shape[1] if rollouts is None else rollouts
        self.rollouts += cost
        if self.best is None or self.actions is None:
            self.best, self.actions = value, chosen
        else:
            steps = max(chosen.shape[-1], self.actions.shape[-1])
            self.best = torch.where(improved, value, self.best)
            chosen, kept = (self.env.padded(self.instances, actions, steps) for actions in (chosen, self.actions))
            self.actions = torch.where(improved[:, None], chosen, kept)
        moved = bool(improved.any())
        if moved and self._proven:
            self._proven.difference_update(improved.nonzero().flatten().tolist())
        self._since_improvement = 0 if moved else self._since_improvement + cost
        if moved:
            self._curves.append(_Mark(self.seconds, self.rollouts, self.best, self._ahead))
        self._offered = self.seconds
        if self._first is None:
            self._first = self._offered
        return objective

    def take(self, found: Solutions) -> None:
        """Offer what a solver inside has found by now, and make its books a part of these.

        Its anytime curve is counted from when it began, by its own clock. Where that went beyond this one (worker
        processes, side by side), this one is put forward. Rollouts count as those of the instance that took most; each
        instance's solution tells its own.

        Args:
            found: a solution per instance.
        """
        taken = sum(solution.seconds for solution in found) / self.batch
        began, before, ahead = max(self.seconds - taken, self._offered), self.rollouts, self._ahead
        self._start -= max(began + taken - self.seconds, 0.0) * self.batch
        most, place = max(solution.rollouts for solution in found), len(self._curves)
        self._ahead = [(s + f.seconds - taken, r + f.rollouts - most) for (s, r), f in zip(ahead, found, strict=True)]
        if self._first is None:
            self._first = began + max(s.trace[0].seconds if s.trace else s.seconds for s in found)
        actions = stacked(self.env, self.instances, [solution.actions for solution in found])
        values = self.offer(actions[:, None], rollouts=most)[:, 0].tolist()
        curves: list[list[TracePoint]] = []
        for solution, value, (seconds, rollouts) in zip(found, values, ahead, strict=True):
            # an image of the instance may round otherwise, and the last point must be what was offered
            points = [p for p in solution.trace[:-1] if _better(value, p.objective, self.env.sense)]
            points += [p._replace(objective=value) for p in solution.trace[-1:]]
            curves.append([TracePoint(began + seconds + s, before + rollouts + r, value) for s, r, value in points])
        self._curves.insert(place, curves)
        self.prove(row for row, solution in enumerate(found) if solution.proven and self._matched(row, values[row]))

    def prove(self, rows: Iterable[int]) -> None:
        """Take note that the solver has proven for these instances that nothing is better than what it has offered.

        The proof is dropped where something better is offered later, and where anything that was offered as the best
        broke a constraint: whoever took that for a solution has proven something about another problem.
        """
        self._proven.update(rows)

    @property
    def settled(self) -> bool:
        """Whether the best solution of every instance is proven to be one."""
        return len(self._proven - self._doubted) == self.batch

    def _matched(self, row: int, value: float) -> bool:
        return self.best is not None and not _better(float(self.best[row]), value, self.env.sense)

    @property
    def _worst(self) -> float:
        return math.inf if self.env.sense == "min" else -math.inf

    def _best_of(self, actions: Tensor, objective: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best value ``[batch]`` and its actions ``[batch, steps]``."""
        value, index = objective.min(1) if self.env.sense == "min" else objective.max(1)
        return value, actions[torch.arange(self.batch, device=actions.device), index]

    def solutions(self, solver: str) -> Solutions:
        """Close the call: check the best actions of every instance and return them.

        Raises:
            NoSolutionFound: nothing was offered, or too late for a strict budget that nobody cancelled.
        """
        if self.actions is None or self.best is None or self._first is None:
            raise NoSolutionFound(f"{solver}: no solution of {self.env.name} within the budget")
        allowed = self.budget.seconds
        if self.budget.strict and self._first > OVERRUN * allowed and not self.budget.cancel.is_set():
            took = f"its first solution was complete after {self._first:.3g} s"
            raise NoSolutionFound(f"{solver}: {allowed:g} s is too small a budget; {took}")
        seconds = self.seconds
        reasons = {v.row: v.reason for v in reversed(self.env.violations(self.instances, self.actions[:, None]))}
        actions = self.actions.cpu()
        best = self.env.objective(self.instances, self.actions[:, None])[:, 0].tolist()
        curves = [curve.points() if isinstance(curve, _Mark) else curve for curve in self._curves]
        return [
            Solution(
                actions=actions[row],
                objective=best[row],
                feasible=row not in reasons,
                violation=reasons.get(row),
                seconds=seconds + more,
                rollouts=self.rollouts + rollouts,
                trace=_improvements((curve[row] for curve in curves), self.env.sense),
                solver=solver,
                proven=row in self._proven - self._doubted,
            )
            for row, (more, rollouts) in enumerate(self._ahead)
        ]


class _Mark(NamedTuple):
    """The best value of each row after so many seconds and rollouts, and by how much each row is ahead of these."""

    seconds: float
    rollouts: int
    best: Tensor
    ahead: list[tuple[float, int]]

    def points(self) -> list[list[TracePoint]]:
        """Return a point of the curve for each row."""
        return [
            [TracePoint(self.seconds + seconds, self.rollouts + rollouts, value)]
            for value, (seconds, rollouts) in zip(self.best.tolist(), self.ahead, strict=True)
        ]


def _better(value: Any, than: Any, sense: str) -> Any:
    return value < than if sense == "min" else value > than


def _improvements(curves: Iterable[Sequence[TracePoint]], sense: str) -> tuple[TracePoint, ...]:
    points: list[TracePoint] = []
    for point in itertools.chain.from_iterable(curves):
        if math.isfinite(point.objective) and (not points or _better(point.objective, points[-1].objective, sense)):
            points.append(point)
    return tuple(points)


class Pace:
    """How many rollouts to start at once: bounded by memory, and by what the time that is left can pay for.

    A round is taken to cost a fixed time and a time per rollout, as its smallest and its last ones did.

    Args:
        progress: of the search.
        most: largest number of rollouts per instance at once, from memory.
        first: rollouts of the first round where time is limited, so that an answer exists soon; by default 8, or 1
            where ``most`` says that rollouts are large.
        share: of the time that is left that a round may take: should the machine slow down meanwhile, little is
            overdrawn. In the last fifth of a budget it is 0.9.
    """

    def __init__(self, progress: Progress, most: int, first: int | None = None, share: float = 0.5) -> None:
        self.progress, self.most, self.share = progress, max(1, most), share
        self.first = first or (8 if most >= 1000 else 1)
        self._mark: tuple[float, int] | None = None
        self._smallest: tuple[int, float] | None = None  # rollouts and seconds
        self._last = (0, 0.0)

    def next(self, wanted: float) -> int:
        """Return the size of the next round; call it once per round, before the round.

        Returns:
            At least 1 where nothing was offered yet. Else 0 where the budget is spent, or would be before a single
            rollout is complete.

        Raises:
            Abandoned: nothing was offered and nothing needs to be (`Budget.first`).
        """
        progress = self.progress
        if progress.actions is None:
            progress.look()
        now = (progress.seconds, progress.rollouts)
        if self._mark is not None and now[1] > self._mark[1]:
            self._last = (now[1] - self._mark[1], now[0] - self._mark[0])
            (rollouts, seconds), known = self._last, self._smallest or self._last
            self._smallest = (min(rollouts, known[0]), min(seconds, known[1]))
        self._mark = now
        if progress.spent and progress.actions is not None:
            return 0
        fits = min(self.most, wanted, max(progress.rollouts_left, 1), self.affordable())
        return int(fits if progress.actions is not None else max(fits, 1))

    def affordable(self) -> float:
        """Return how many rollouts of one round the time that is left pays for; a round is at most 8 times the last."""
        progress = self.progress
        if progress.budget.seconds == math.inf:
            return math.inf
        if self._smallest is None:
            return self.first
        left, (few, least), (rollouts, seconds) = progress.budget.seconds - progress.seconds, self._smallest, self._last
        if left < least:
            return 0
        share = self.share if left > 0.2 * progress.budget.seconds else 0.9
        rate, fixed = seconds / rollouts, 0.0
        if rollouts > few and least / few > rate:
            rate = max(seconds - least, 0.0) / (rollouts - few)
            fixed = least - rate * few
        fits = (share * left - fixed) / rate if rate else math.inf
        return max(1, min(fits, 8 * rollouts))
