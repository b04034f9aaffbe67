"""Quality and time of the classical solvers on random TSP instances, as gaps to fast-tsp with a second an instance.

    python benchmarks/baselines.py --num-nodes 100 --instances 20 --seconds 1

Solvers whose package is not installed are listed as such. One thread; solvers that stop by themselves get no budget.
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch

from ncogym.baselines import LKH, FarthestInsertion, FastTSP, NearestNeighbour, OrToolsRouting, RandomInsertion, TwoOpt
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import SolverNotInstalled
from ncogym.search import Compose
from ncogym.solver import Solver
from ncogym.task import Task


def main() -> None:
    """Read the arguments, solve and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-nodes", type=int, default=100)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of those that use all of them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    env = Task.of(TSP, arguments.num_nodes)
    instances = env.generate(arguments.instances, torch.Generator().manual_seed(arguments.seed))
    limit = MaxSeconds(arguments.seconds)
    entries: list[tuple[str, Solver, Budget | None]] = [
        ("fast-tsp, 1 s", FastTSP(), MaxSeconds(1.0)),  # the reference
        ("fast-tsp, default", FastTSP(), None),
        ("lkh, 10 runs", LKH(), None),
        (f"ortools, guided local search, {arguments.seconds:g} s", OrToolsRouting(), limit),
        ("ortools, local search", OrToolsRouting(metaheuristic=None), None),
        ("nearest-neighbour", NearestNeighbour(), None),
        ("nearest-neighbour, all starts", NearestNeighbour("all"), None),
        ("farthest-insertion", FarthestInsertion(), None),
        ("random-insertion", RandomInsertion(), None),
        ("random-insertion, 100 rollouts", RandomInsertion(), MaxRollouts(100)),
        ("two-opt", TwoOpt(), None),
        ("farthest-insertion+two-opt", Compose(FarthestInsertion(), TwoOpt()), None),
        ("random-insertion+two-opt, 100 rollouts", Compose(RandomInsertion(), TwoOpt()), MaxRollouts(100)),
    ]
    reference: list[float] = []
    print(f"{'solver':42} {'objective':>10} {'gap %':>8} {'s/instance':>10}")
    for label, solver, budget in entries:
        try:
            solutions = solver(env, instances, budget, torch.Generator().manual_seed(arguments.seed))
        except SolverNotInstalled:
            print(f"{label:42} {'not installed':>10}")
            continue
        objectives = [solution.objective for solution in solutions]
        reference = reference or objectives
        gap = mean(100 * (ours / best - 1) for ours, best in zip(objectives, reference, strict=True))
        seconds = mean(solution.seconds for solution in solutions)
        print(f"{label:42} {mean(objectives):10.4f} {gap:8.3f} {seconds:10.4f}")


if __name__ == "__main__":
    main()
