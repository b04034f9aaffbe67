"""Searches that use a policy; each is a `ncogym.solver.Solver`."""

import functools
from collections.abc import Callable
from typing import Any

from ncogym.search.active import Active
from ncogym.search.base import Search
from ncogym.search.beam import Beam
from ncogym.search.compose import Compose
from ncogym.search.eas import EAS
from ncogym.search.greedy import Greedy
from ncogym.search.latent import Compass
from ncogym.search.multistart import MultiStart
from ncogym.search.population import Poppy
from ncogym.search.reconstruct import Reconstruct
from ncogym.search.sampling import Sampling
from ncogym.search.sgbs import SGBS
from ncogym.search.stochastic_beam import StochasticBeam
from ncogym.search.symmetry import Symmetry

SEARCHES: dict[str, Callable[..., Any]] = {  # each is built from a policy; what it is, its class says (`Search`)
    "greedy": Greedy,
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
    "poppy": Poppy,
    "compass": Compass,
    "compass-random": functools.partial(Compass, adapted=False),
}

__all__ = [
    "EAS",
    "SEARCHES",
    "SGBS",
    "Active",
    "Beam",
    "Compass",
    "Compose",
    "Greedy",
    "MultiStart",
    "Poppy",
    "Reconstruct",
    "Sampling",
    "Search",
    "StochasticBeam",
    "Symmetry",
]
