"""The training algorithms, in one literal table."""

from ncogym.algorithms.base import Algorithm
from ncogym.algorithms.imitation import Imitation
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.reinforce import Reinforce
from ncogym.algorithms.self_labelling import SelfLabelling

ALGORITHMS: dict[str, type[Algorithm]] = {
    "Reinforce": Reinforce,
    "POMO": POMO,
    "Imitation": Imitation,
    "SelfLabelling": SelfLabelling,
}

__all__ = ["ALGORITHMS", "POMO", "Algorithm", "Imitation", "Reinforce", "SelfLabelling"]
