"""The problems, in one literal table, and `make`."""

from __future__ import annotations

from typing import Any

from ncogym.envs.atsp import ATSPEnv
from ncogym.envs.base import ConstructiveEnv
from ncogym.envs.cvrp import CVRPEnv
from ncogym.envs.jssp import JSSPEnv
from ncogym.envs.knapsack import KnapsackEnv
from ncogym.envs.tsp import TSPEnv
from ncogym.errors import ArgumentError

PROBLEMS: dict[str, type[ConstructiveEnv]] = {
    "tsp": TSPEnv,
    "atsp": ATSPEnv,
    "cvrp": CVRPEnv,
    "knapsack": KnapsackEnv,
    "jssp": JSSPEnv,
}


def make(name: str, **arguments: Any) -> ConstructiveEnv:
    """Build an environment by its name.

    Args:
        name: a key of `PROBLEMS`.
        arguments: the constructor's arguments, such as ``num_nodes=50``.

    Raises:
        ArgumentError: the name or an argument is unknown, its value not allowed, or too large for this machine.
    """
    if name not in PROBLEMS:
        raise ArgumentError(f"problem: {name!r} is not known; allowed are {', '.join(sorted(PROBLEMS))}")
    try:
        return PROBLEMS[name](**arguments)
    except (TypeError, OverflowError, MemoryError, RuntimeError) as error:  # torch: RuntimeError for lack of memory
        raise ArgumentError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


__all__ = ["PROBLEMS", "ConstructiveEnv", "make"]
