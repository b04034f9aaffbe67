r"""Imitation of labelled solutions: the cross-entropy of each decision.

.. math:: L = -\frac{1}{R} \sum_{i=1}^{R} \frac{1}{T_i - 1} \sum_{t=2}^{T_i} \log p(a^i_t \mid a^i_{1:t-1})

A solution can be written as many action sequences (a tour from any node, either way round); R of them are drawn, and
their first action is given, as in POMO's multi-start. T counts a sequence's actions without padding.

References:
    Vinyals, Fortunato, Jaitly (2015), Pointer Networks, NeurIPS; Drakulic et al. (2023), BQ-NCO, NeurIPS.

Differs from the papers in:
    - a whole sequence is scored in one pass with a light decoder, and the labels come from a heuristic within
      milliseconds instead of an exact solver;
    - of repetitions of an action at the end, as in padding, one counts as a decision.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Int64
from torch import Tensor

from ncogym.algorithms.base import Algorithm, decisions, per_decision
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Part, Work


class Imitation(Algorithm):
    """Cross-entropy on labels.

    Args:
        sequences: action sequences drawn per label.
        forced: leading actions that are given: 1 for a policy that will be used with multi-start, else 0.
    """

    imitates = True

    def __init__(self, sequences: int = 8, forced: Literal[0, 1] = 1) -> None:
        super().__init__()
        if sequences < 1:
            raise ArgumentError(f"sequences: {sequences} is not allowed; it must be at least 1")
        if forced not in (0, 1):
            raise ArgumentError(f"forced: {forced} is not allowed; it must be 0 or 1")
        self.sequences, self.forced = sequences, forced

    def step(self, work: Work) -> Outcome:
        shown = work.replay(work.each(self._sequences), forced=self.forced)
        return Outcome(-per_decision(work.score(shown), decisions(shown.actions, shown.forced)))

    def _sequences(self, part: Part) -> Int64[Tensor, "batch sequences steps"]:
        if part.labels is None:
            raise ArgumentError("instances: they have no labels, which imitation learns from")
        return part.env.equivalent_actions(part.instances, part.labels[:, 0], self.sequences, part.rng)
