"""The classical solvers, in one literal table; a package that is missing is missed when its solver is called."""

from __future__ import annotations

from collections.abc import Callable

from ncogym.baselines.fast_tsp import FastTSP
from ncogym.baselines.heuristics import FarthestInsertion, NearestNeighbour, RandomInsertion, TwoOpt
from ncogym.baselines.lkh import LKH
from ncogym.baselines.ortools_routing import OrToolsRouting
from ncogym.solver import Solver

SOLVERS: dict[str, Callable[..., Solver]] = {  # each can be called without arguments
    "nearest-neighbour": NearestNeighbour,
    "farthest-insertion": FarthestInsertion,
    "random-insertion": RandomInsertion,
    "two-opt": TwoOpt,
    "ortools": OrToolsRouting,
    "fast-tsp": FastTSP,
    "lkh": LKH,
}

__all__ = [
    "LKH",
    "SOLVERS",
    "FarthestInsertion",
    "FastTSP",
    "NearestNeighbour",
    "OrToolsRouting",
    "RandomInsertion",
    "TwoOpt",
]
