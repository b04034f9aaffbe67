"""The training algorithms, in one literal table."""

from ncogym.algorithms.base import Algorithm
from ncogym.algorithms.bopo import BOPO
from ncogym.algorithms.compass import Compass
from ncogym.algorithms.flow import FlowBalance
from ncogym.algorithms.imitation import Imitation
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.poppy import Poppy
from ncogym.algorithms.ppo import PPO
from ncogym.algorithms.preference import PO
from ncogym.algorithms.reinforce import Reinforce
from ncogym.algorithms.self_labelling import SelfLabelling

ALGORITHMS: dict[str, type[Algorithm]] = {
    "Reinforce": Reinforce,
    "POMO": POMO,
    "Imitation": Imitation,
    "SelfLabelling": SelfLabelling,
    "PO": PO,
    "BOPO": BOPO,
    "PPO": PPO,
    "Poppy": Poppy,
    "Compass": Compass,
    "FlowBalance": FlowBalance,
}

__all__ = [
    "ALGORITHMS",
    "BOPO",
    "PO",
    "POMO",
    "PPO",
    "Algorithm",
    "Compass",
    "FlowBalance",
    "Imitation",
    "Poppy",
    "Reinforce",
    "SelfLabelling",
]
