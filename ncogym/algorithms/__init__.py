"""The training algorithms, in one literal table."""

from ncogym.algorithms.base import Algorithm
from ncogym.algorithms.imitation import Imitation
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.reinforce import Reinforce

ALGORITHMS: dict[str, type[Algorithm]] = {
    "Reinforce": Reinforce,
    "POMO": POMO,
    "Imitation": Imitation,
}

__all__ = ["ALGORITHMS", "POMO", "Algorithm", "Imitation", "Reinforce"]
