"""OR-Tools under one name: its routing solver for tours and routes, its knapsack solver for items."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from ncogym.baselines.base import ANY_WAY, OutsideImprover, OutsideSolver, Run
from ncogym.baselines.ortools_knapsack import OrToolsKnapsack
from ncogym.baselines.ortools_routing import OrToolsRouting
from ncogym.budget import Budget
from ncogym.models import Model, Packing, Routes, Tour
from ncogym.problem import Problem


class OrTools(OutsideImprover):
    """OR-Tools: its routing solver with guided local search, or its knapsack solver.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "ortools"
    reads = (Routes, Tour, Packing)
    can = ANY_WAY

    def __init__(self, *, workers: int = 1, progress_bar: bool = True) -> None:
        super().__init__(workers=workers, progress_bar=progress_bar)
        self.routing, self.knapsack = OrToolsRouting(), OrToolsKnapsack()

    def settings(self, model: Model) -> str:
        return self._part(model).settings(model)

    def _part(self, model: Model) -> OutsideSolver:
        return self.knapsack if isinstance(model, Packing) else self.routing

    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> Any:
        part = self._part(self.model(env, one))
        return part, part._view(env, one, budget, rng)

    def _job(self, problem: Any, run: Run) -> None:
        part, shown = problem
        part._job(shown, run)

    def _solve(self, problem: Any, run: Run) -> None:
        part, shown = problem
        part._solve(shown, run)
