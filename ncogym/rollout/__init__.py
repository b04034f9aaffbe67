"""Acting and scoring: the one loop in which a policy acts, and the one parallel pass that scores what it did.

Acting is sequential and without gradients. It gives the log-probability of what was done, so that an algorithm can say
first which rollouts carry a gradient; only these are then walked through again, all their steps at once, in chunks of
bounded memory.
"""

from ncogym.rollout.acting import LOOK_EVERY, Acting, Clock, Precision
from ncogym.rollout.conditions import act, log_probs
from ncogym.rollout.memory import (
    MEMORY_SHARE,
    check_memory,
    encode,
    encoding_memory,
    free_memory,
    rollouts_in_memory,
    scoring_memory,
    search_memory,
)
from ncogym.rollout.scoring import Decisions, score_steps
from ncogym.rollout.trajectories import Rollouts, decision_rewards, parents_seen, replay, reward_of, steps_seen
from ncogym.rollout.work import Outcome, Part, Work

__all__ = [
    "LOOK_EVERY",
    "MEMORY_SHARE",
    "Acting",
    "Clock",
    "Decisions",
    "Outcome",
    "Part",
    "Precision",
    "Rollouts",
    "Work",
    "act",
    "check_memory",
    "decision_rewards",
    "encode",
    "encoding_memory",
    "free_memory",
    "log_probs",
    "parents_seen",
    "replay",
    "reward_of",
    "rollouts_in_memory",
    "score_steps",
    "scoring_memory",
    "search_memory",
    "steps_seen",
]
