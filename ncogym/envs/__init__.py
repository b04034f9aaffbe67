"""The problems, in one literal table, and `make`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ncogym.envs.graph.clique import MaxClique
from ncogym.envs.graph.dominating_set import MDS
from ncogym.envs.graph.independent_set import MIS
from ncogym.envs.graph.max_cut import MaxCut
from ncogym.envs.graph.vertex_cover import MVC
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.envs.routing.vrptw import VRPTW
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError
from ncogym.problem import Problem
from ncogym.task import Task

if TYPE_CHECKING:  # at run time only `make` imports it, and with it TorchRL
    from ncogym.envs.env import Env

PROBLEMS: dict[str, type[Problem]] = {
    "tsp": TSP,
    "atsp": ATSP,
    "cvrp": CVRP,
    "vrptw": VRPTW,
    "knapsack": Knapsack,
    "jssp": JSSP,
    "mis": MIS,
    "mvc": MVC,
    "clique": MaxClique,
    "mds": MDS,
    "maxcut": MaxCut,
}


def kind_of(name: str) -> type[Problem]:
    """Return what `PROBLEMS` has under a name.

    Raises:
        ArgumentError: the name is unknown.
    """
    if name not in PROBLEMS:
        raise ArgumentError(f"problem: {name!r} is not known; allowed are {', '.join(sorted(PROBLEMS))}")
    return PROBLEMS[name]


def build_task(name: str, **arguments: Any) -> Task:
    """Build a problem and a distribution of its instances by the problem's name, without TorchRL.

    Args:
        name: a key of `PROBLEMS`.
        arguments: of the distribution, such as ``num_nodes=50``, and of the problem, such as ``insertion=True``.

    Raises:
        ArgumentError: the name or an argument is unknown, or its value not allowed.

    Example:
        >>> build_task("tsp", num_nodes=5).arguments()
        {'num_nodes': 5, 'distribution': 'uniform'}
    """
    kind = kind_of(name)
    try:
        return Task.of(kind, **arguments)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


def make(name: str, *, batch_size: tuple[int, ...] = (), device: str = "cpu", **arguments: Any) -> Env:
    """Build a TorchRL environment by its problem's name.

    Args:
        name: a key of `PROBLEMS`.
        batch_size: TorchRL's batch size, ``()`` or ``(batch,)``: the instances that ``reset()`` draws.
        device: where ``reset()`` draws its instances.
        arguments: as of `build_task`.

    Raises:
        ArgumentError: the name or an argument is unknown, its value not allowed, or too large for this machine.

    Example:
        >>> import ncogym
        >>> env = ncogym.make("tsp", num_nodes=5)
        >>> env.rollout(3)["action"].shape
        torch.Size([3])
    """
    from ncogym.envs.env import Env

    task = build_task(name, **arguments)
    try:
        return Env(task, batch_size=batch_size, device=device)
    except (TypeError, OverflowError, MemoryError, RuntimeError) as error:  # torch: RuntimeError for lack of memory
        raise ArgumentError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


__all__ = ["PROBLEMS", "Problem", "Task", "build_task", "kind_of", "make"]
