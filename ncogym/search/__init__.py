"""Searches that use a policy; each is a `ncogym.solver.Solver`."""

from ncogym.search.greedy import Greedy
from ncogym.search.multistart import MultiStart
from ncogym.search.sampling import Sampling
from ncogym.search.symmetry import Symmetry

SEARCHES: dict[str, type] = {
    "greedy": Greedy,
    "sampling": Sampling,
    "multistart": MultiStart,
    "symmetry": Symmetry,
}

__all__ = ["SEARCHES", "Greedy", "MultiStart", "Sampling", "Symmetry"]
