"""What a classical solver may see of a problem: plain data with neutral defaults.

A problem shows its instances as one `Model`, in full: what the model's fields do not say decides nothing about what is
feasible and how good it is. A field at its default asks for nothing (no windows, one depot, closed routes); what is not
at its default is in `Model.needs`, and a solver that has not said that it can do all of it is refused. So a constraint
that no solver knows yet keeps all of them away, whatever the problem looks like or is called.

Fields hold tensors with a leading axis ``batch``. `Model.row` gives one instance as numpy arrays without that axis.

Example:
    >>> import torch
    >>> from ncogym.models import Distances, Routes
    >>> square = Distances(points=torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]]))
    >>> routes = Routes(square, demand=torch.tensor([[0.0, 1.0, 1.0, 1.0]]), capacity=torch.tensor([2.0]))
    >>> sorted(routes.needs)
    []
    >>> routes.answer([1, 2, 0, 3])
    [{'depot': 0, 'visits': [1, 2]}, {'depot': 0, 'visits': [3]}]
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

DECIDES_NOTHING = {"needs": False}  # of a field that no solver has to know
Array = Tensor | NDArray[Any]  # of a batch, or of a `Model.row`
TILE = 256  # nodes by nodes that are compared at a time


@dataclass(frozen=True)
class Distances:
    """Distances of all ordered pairs of nodes, as a matrix or as places on a plane; exactly one of them is given.

    Attributes:
        given: float ``[batch, nodes, nodes]``, or None.
        points: float ``[batch, nodes, 2]``, whose distances are Euclid's, not rounded, or None; the matrix of these is
            made when it is asked for, and is symmetric without being looked at.
    """

    given: Float[Tensor, "batch nodes nodes"] | None = None
    points: Float[Tensor, "batch nodes 2"] | None = None

    @cached_property
    def matrix(self) -> Float64[Tensor, "batch nodes nodes"]:
        """All of them, float64 ``[batch, nodes, nodes]``."""
        if self.given is not None:
            return self.given.double()
        places = self._places.double()
        return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")

    @cached_property
    def symmetric(self) -> bool:
        """Whether all are the same both ways, but for rounding."""
        return self.given is None or _symmetric(self.matrix)

    @property
    def nodes(self) -> int:
        """How many there are."""
        return (self._places if self.given is None else self.given).shape[1]

    @property
    def _places(self) -> Tensor:
        if self.points is None:
            raise TypeError("Distances takes a matrix or points")
        return self.points

    def row(self, number: int) -> Distances:
        """Return those of one instance, as a batch of one."""
        part = slice(number, number + 1)
        return Distances(*(None if value is None else value[part] for value in (self.given, self.points)))


def _symmetric(dists: Float64[Tensor, "batch nodes nodes"]) -> bool:
    """Return whether distances are the same both ways, but for rounding; tile by tile, for the sake of caches."""
    tiles = range(0, dists.shape[1], TILE)
    for i, j in itertools.combinations_with_replacement(tiles, 2):
        there, back = dists[:, i : i + TILE, j : j + TILE], dists[:, j : j + TILE, i : i + TILE].mT
        if not (torch.equal(there, back) or torch.allclose(there, back, rtol=1e-9, atol=0.0)):
            return False
    return True


@dataclass(frozen=True)
class Model:
    """Instances of a problem in the numbers that solvers know.

    Attributes:
        words: what it is, as refusals say it.
    """

    words: ClassVar[str]

    @cached_property
    def needs(self) -> frozenset[str]:
        """What a solver must be able to do: the fields that are not at their neutral default, by name."""
        asked = [each for each in dataclasses.fields(self) if each.default is not dataclasses.MISSING]
        asked = [each for each in asked if each.metadata.get("needs", True)]
        return frozenset(each.name for each in asked if not _same(getattr(self, each.name), each.default))

    def row(self, number: int) -> Self:
        """Return one instance: numpy arrays without the batch axis, and the distances of a batch of one."""
        return dataclasses.replace(
            self, **{each.name: _row(getattr(self, each.name), number) for each in dataclasses.fields(self)}
        )

    def answer(self, actions: Sequence[int]) -> Any:
        """Return a solution of one instance in the words of the problem, as plain lists and numbers.

        Args:
            actions: without padding.
        """
        raise NotImplementedError


def _same(value: Any, default: Any) -> bool:
    return value is None if default is None else bool(value == default)


def _row(value: Any, number: int) -> Any:
    if isinstance(value, Tensor):
        return value[number].cpu().numpy()
    return value.row(number) if isinstance(value, Distances) else value


@dataclass(frozen=True)
class Tour(Model):
    """The shortest closed tour through all nodes; actions are the nodes in their order.

    Attributes:
        distances: of all ordered pairs.
        windows: float64 ``[batch, nodes, 2]``, the first and the last moment at which service of a node may begin, when
            the tour leaves node 0 at its first, waits where it is early, and takes the distances for times; that of
            node 0 ends when the tour must be back. None: any.
        service: float64 ``[batch, nodes]``, how long it stays at each; None: no time.
    """

    words: ClassVar[str] = "closed tours"

    distances: Distances
    windows: Array | None = None
    service: Array | None = None

    @cached_property
    def needs(self) -> frozenset[str]:
        """As `Model.needs`, and "asymmetric" where a distance is another the other way round."""
        return super().needs | (frozenset() if self.distances.symmetric else {"asymmetric"})

    def answer(self, actions: Sequence[int]) -> list[int]:
        """Return the nodes in their order."""
        return list(actions)


@dataclass(frozen=True)
class Routes(Model):
    """The shortest routes of alike vehicles from a depot, node 0, and back, through all other nodes.

    Actions are the nodes in their order, 0 between two routes.

    Attributes:
        distances: of all ordered pairs.
        demand: float64 ``[batch, nodes]``, what each node wants delivered, not negative; 0 at the depot.
        capacity: float64 ``[batch]``, what a vehicle holds, above 0.
        windows: float64 ``[batch, nodes, 2]``, the first and the last moment at which service of a node may begin, when
            vehicles leave the depot at its first, wait where they are early, and take the distances for times; the
            depot's last is when they must be back. None: any.
        service: float64 ``[batch, nodes]``, how long the service of each takes; None: no time.
        depots: how many nodes at the beginning are depots.
        open: whether vehicles stay where they served last.
        limit: float64 ``[batch]``, of each route's length; None: any.
        fleet: int64 ``[batch]``, how many vehicles there are; None: as many as one likes.
        backhauls: bool ``[batch, nodes]``, whether a demand is to be fetched, after all deliveries; None: nowhere.
        prizes: float64 ``[batch, nodes]``, what leaving out a node costs; None: none may be left out.
        pickups: int64 ``[batch, nodes]``, the node from which a delivery comes, on the same route before it; None: all
            come from the depot.
        labels: int64 ``[batch, nodes]``, the numbers that the nodes have in their file, where these are others; they
            decide nothing.
    """

    words: ClassVar[str] = "capacitated routes"

    distances: Distances
    demand: Array
    capacity: Array
    windows: Array | None = None
    service: Array | None = None
    depots: int = 1
    open: bool = False
    limit: Array | None = None
    fleet: Array | None = None
    backhauls: Array | None = None
    prizes: Array | None = None
    pickups: Array | None = None
    labels: Array | None = field(default=None, metadata=DECIDES_NOTHING)

    @cached_property
    def needs(self) -> frozenset[str]:
        """As `Model.needs`, and "asymmetric" where a distance is another the other way round."""
        return super().needs | (frozenset() if self.distances.symmetric else {"asymmetric"})

    def answer(self, actions: Sequence[int]) -> list[dict[str, Any]]:
        """Return one object a route: its depot and the nodes that it visits."""
        labels = range(self.distances.nodes) if self.labels is None else self.labels.tolist()
        parted = itertools.groupby(actions, key=bool)
        return [{"depot": labels[0], "visits": [labels[node] for node in route]} for visits, route in parted if visits]


@dataclass(frozen=True)
class Packing(Model):
    """The items of the most value that fit; actions are their indices, then the number of items.

    Attributes:
        weights: float64 ``[batch, items]``.
        values: float64 ``[batch, items]``.
        capacity: float64 ``[batch]``.
    """

    words: ClassVar[str] = "0-1 knapsacks"

    weights: Array
    values: Array
    capacity: Array

    def answer(self, actions: Sequence[int]) -> list[int]:
        """Return the items chosen, the smallest index first."""
        return sorted(item for item in actions if item < self.weights.shape[-1])


@dataclass(frozen=True)
class Graph(Model):
    """Undirected graphs, of different sizes in one batch; what is wanted of them is said by the classes below.

    Attributes:
        nodes: int64 ``[batch]``, how many there are.
        edges: int64 ``[batch, edges, 2]``, each once; -1 is none, at the end.
        weights: float64 ``[batch, nodes]``, of the nodes; None: all count 1.
        edge_weights: float64 ``[batch, edges]``; None: all count 1.
    """

    words: ClassVar[str] = "graphs"

    nodes: Array
    edges: Array
    weights: Array | None = None
    edge_weights: Array | None = None

    def answer(self, actions: Sequence[int]) -> Any:
        """Return the nodes chosen, in ascending order."""
        return sorted({node for node in actions if 0 <= node < int(self.nodes)})


@dataclass(frozen=True)
class IndependentSet(Graph):
    """The nodes of most weight of which no two are joined; actions are the nodes of the set, in any order.

    Weights of edges decide nothing.
    """

    words: ClassVar[str] = "independent sets"

    edge_weights: Array | None = field(default=None, metadata=DECIDES_NOTHING)


@dataclass(frozen=True)
class Clique(Graph):
    """The nodes of most weight of which each two are joined; actions are these. Weights of edges decide nothing."""

    words: ClassVar[str] = "cliques"

    edge_weights: Array | None = field(default=None, metadata=DECIDES_NOTHING)


@dataclass(frozen=True)
class VertexCover(Graph):
    """The nodes of least weight that every edge has an end of; actions are these. Weights of edges decide nothing."""

    words: ClassVar[str] = "vertex covers"

    edge_weights: Array | None = field(default=None, metadata=DECIDES_NOTHING)


@dataclass(frozen=True)
class DominatingSet(Graph):
    """The nodes of least weight that all others are beside; actions are those *not* among them.

    Weights of edges decide nothing.
    """

    words: ClassVar[str] = "dominating sets"

    edge_weights: Array | None = field(default=None, metadata=DECIDES_NOTHING)

    def answer(self, actions: Sequence[int]) -> list[int]:
        """Return the nodes of the set, in ascending order."""
        left = set(actions)
        return [node for node in range(int(self.nodes)) if node not in left]


@dataclass(frozen=True)
class Cut(Graph):
    """Two sides of the nodes with the most weight of edges between them; actions are the nodes of one side.

    Weights of nodes decide nothing.
    """

    words: ClassVar[str] = "cuts"

    weights: Array | None = field(default=None, metadata=DECIDES_NOTHING)


@dataclass(frozen=True)
class Shop(Model):
    """The shortest job shop schedule; actions are the jobs whose next operations are placed.

    Attributes:
        durations: int64 ``[batch, jobs, operations]``.
        machines: int64 ``[batch, jobs, operations]``, -1 where a job has no such operation.
    """

    words: ClassVar[str] = "job shops"

    durations: Array
    machines: Array

    def answer(self, actions: Sequence[int]) -> list[list[int]]:
        """Return rows of job, operation, machine, start and end, by job and operation.

        Each operation begins as soon as those before it, of its job and on its machine, have ended.
        """
        durations, machines = self.durations.tolist(), self.machines.tolist()
        operations = [iter([place for place, machine in enumerate(row) if machine >= 0]) for row in machines]
        job_ready, machine_ready = dict[int, int](), dict[int, int]()
        rows = []
        for job in actions:
            operation = next(operations[job])
            machine, duration = machines[job][operation], durations[job][operation]
            start = max(job_ready.get(job, 0), machine_ready.get(machine, 0))
            job_ready[job] = machine_ready[machine] = start + duration
            rows.append([job, operation, machine, start, start + duration])
        return sorted(rows)
