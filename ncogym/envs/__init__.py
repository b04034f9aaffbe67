"""The problems, in one literal table, and `make`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ncogym.envs.atsp import ATSP
from ncogym.envs.cvrp import CVRP
from ncogym.envs.jssp import JSSP
from ncogym.envs.knapsack import Knapsack
from ncogym.envs.tsp import TSP
from ncogym.errors import ArgumentError
from ncogym.problem import Problem

if TYPE_CHECKING:  # at run time only `make` imports it, and with it TorchRL
    from ncogym.envs.env import Env

PROBLEMS: dict[str, type[Problem]] = {
    "tsp": TSP,
    "atsp": ATSP,
    "cvrp": CVRP,
    "knapsack": Knapsack,
    "jssp": JSSP,
}


def build_problem(name: str, **arguments: Any) -> Problem:
    """Build a problem by its name: rules and the distribution of its instances, without TorchRL.

    Args:
        name: a key of `PROBLEMS`.
        arguments: the constructor's arguments, such as ``num_nodes=50``.

    Raises:
        ArgumentError: the name or an argument is unknown, or its value not allowed.
    """
    if name not in PROBLEMS:
        raise ArgumentError(f"problem: {name!r} is not known; allowed are {', '.join(sorted(PROBLEMS))}")
    try:
        return PROBLEMS[name](**arguments)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


def make(name: str, *, batch_size: tuple[int, ...] = (), device: str = "cpu", **arguments: Any) -> Env:
    """Build a TorchRL environment by its problem's name.

    Args:
        name: a key of `PROBLEMS`.
        batch_size: TorchRL's batch size, ``()`` or ``(batch,)``: the instances that ``reset()`` draws.
        device: where ``reset()`` draws its instances.
        arguments: the problem's own, such as ``num_nodes=50``.

    Raises:
        ArgumentError: the name or an argument is unknown, its value not allowed, or too large for this machine.

    Example:
        >>> import ncogym
        >>> env = ncogym.make("tsp", num_nodes=5)
        >>> env.rollout(3)["action"].shape
        torch.Size([3])
    """
    from ncogym.envs.env import Env

    problem = build_problem(name, **arguments)
    try:
        return Env(problem, batch_size=batch_size, device=device)
    except (TypeError, OverflowError, MemoryError, RuntimeError) as error:  # torch: RuntimeError for lack of memory
        raise ArgumentError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


__all__ = ["PROBLEMS", "Problem", "build_problem", "make"]
