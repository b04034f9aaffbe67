"""Searches that use a policy; each is a `ncogym.solver.Solver`."""

import functools
from collections.abc import Callable
from typing import Any

from ncogym.search.active import Active
from ncogym.search.base import Search
from ncogym.search.beam import Beam
from ncogym.search.compose import Compose
from ncogym.search.eas import EAS
from ncogym.search.greedy import GreedySearch
from ncogym.search.latent import LatentSearch
from ncogym.search.multistart import MultiStart
from ncogym.search.population import PopulationSearch
from ncogym.search.reconstruct import Reconstruct
from ncogym.search.sampling import Sampling
from ncogym.search.sgbs import SGBS
from ncogym.search.stochastic_beam import StochasticBeam
from ncogym.search.symmetry import Symmetry

SEARCHES: dict[str, Callable[..., Any]] = {  # each is built from a policy; what it is, its class says (`Search`)
    "greedy": GreedySearch,
    "sampling": Sampling,
    "multistart": MultiStart,
    "symmetry": Symmetry,
    "stochastic-beam": StochasticBeam,
    "beam": Beam,
    "sgbs": SGBS,
    "reconstruct": Reconstruct,
    "active": Active,
    "eas": EAS,
    "eas-lay": functools.partial(EAS, variant="layer"),
    "eas-tab": functools.partial(EAS, variant="table"),
    "poppy": PopulationSearch,
    "compass": LatentSearch,
    "compass-random": functools.partial(LatentSearch, adapted=False),
}

__all__ = [
    "EAS",
    "SEARCHES",
    "SGBS",
    "Active",
    "Beam",
    "Compose",
    "GreedySearch",
    "LatentSearch",
    "MultiStart",
    "PopulationSearch",
    "Reconstruct",
    "Sampling",
    "Search",
    "StochasticBeam",
    "Symmetry",
]
