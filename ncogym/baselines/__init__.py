"""The classical solvers, in one literal table; a package that is missing is missed when its solver is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ncogym.baselines.degree_greedy import DegreeGreedy
from ncogym.baselines.dispatching import RULES, Dispatching
from ncogym.baselines.fast_tsp import FastTSP
from ncogym.baselines.heuristics import FarthestInsertion, NearestNeighbour, RandomInsertion, TwoOpt
from ncogym.baselines.hgs import HGS
from ncogym.baselines.knapsack import KnapsackDP, RatioGreedy, ValueGreedy
from ncogym.baselines.lkh import LKH
from ncogym.baselines.ortools import OrTools
from ncogym.baselines.ortools_cpsat import CpSat
from ncogym.baselines.ortools_knapsack import OrToolsKnapsack
from ncogym.baselines.ortools_routing import OrToolsRouting
from ncogym.baselines.pyvrp import PyVRP
from ncogym.baselines.savings import NearestNeighbourRoutes, Savings
from ncogym.baselines.tabu_cut import TabuCut
from ncogym.solver import Solver

SOLVERS: dict[str, Callable[..., Solver]] = {  # each can be called without arguments
    "nearest-neighbour": NearestNeighbour,
    "farthest-insertion": FarthestInsertion,
    "random-insertion": RandomInsertion,
    "savings": Savings,
    "two-opt": TwoOpt,
    "ortools": OrTools,
    "fast-tsp": FastTSP,
    "lkh": LKH,
    "hgs": HGS,
    "pyvrp": PyVRP,
    "cp-sat": CpSat,
    "ratio-greedy": RatioGreedy,
    "value-greedy": ValueGreedy,
    "knapsack-dp": KnapsackDP,
    "degree-greedy": DegreeGreedy,
    "random-degree-greedy": partial(DegreeGreedy, randomised=True),
    "tabu-cut": TabuCut,
    **{f"dispatch:{rule}": partial(Dispatching, rule) for rule in RULES},
    **{f"dispatch:random-{rule}": partial(Dispatching, rule, randomised=True) for rule in RULES},
}

__all__ = [
    "HGS",
    "LKH",
    "SOLVERS",
    "CpSat",
    "DegreeGreedy",
    "Dispatching",
    "FarthestInsertion",
    "FastTSP",
    "KnapsackDP",
    "NearestNeighbour",
    "NearestNeighbourRoutes",
    "OrTools",
    "OrToolsKnapsack",
    "OrToolsRouting",
    "PyVRP",
    "RandomInsertion",
    "RatioGreedy",
    "Savings",
    "TabuCut",
    "TwoOpt",
    "ValueGreedy",
]
