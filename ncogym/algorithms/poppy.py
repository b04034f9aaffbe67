r"""Poppy: a population whose members are trained where they win.

.. math:: L = -\frac{1}{B\,P} \sum_{i=1}^{B} \sum_{p=1}^{P}
          \big(R(\tau^{k^*}_{i,p}) - b_{i,p}\big)\, \log p_{k^*}(\tau^{k^*}_{i,p}),
          \quad k^* = \arg\max_k R(\tau^k_{i,p})

All K members begin at the same P starts of each of B instances, and of the K rollouts from a start only the best has a
gradient: that of the best of K, not of the mean. The baseline b is the mean over the starts of the winner's own
rollouts, or what the second best member reached, which is exact (theorem 1), since it does not depend on what the
winner drew. The second phase of the paper trains a population that begins as clones of a trained policy.

The mean member as the objective makes an ensemble of it: every rollout has its member's own loss, that of POMO. It is
the ablation of the paper, and how it begins on the knapsack, where no policy is trained before the population.

References:
    Grinsztajn, Furelos-Blanco, Surana, Bonnet, Barrett (2023), Winner Takes It All: Training Performant RL Populations
    for Combinatorial Optimization, NeurIPS, algorithm 2 and theorem 1.
    Hottung, Mahajan, Tierney (2025), PolyNet: Learning Diverse Solution Strategies for Neural Combinatorial
    Optimization, ICLR: the mean over the members as the baseline.

Differs from the papers in:
    - ``starts`` that are fewer than the problem offers are drawn without replacement, and for each instance;
    - without starts, ``samples`` larger than 1 repeat the estimator;
    - ``normalise`` divides the advantages (off by default);
    - the job shop has no critic: its baselines are those of the other problems.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor

from ncogym.algorithms.base import Compared, WinnerTakesAll
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies.base import Policy
from ncogym.rollout import Outcome, Work


class Poppy(WinnerTakesAll):
    """Poppy's estimator, for a policy that has members (`Policy.everyone`).

    Args:
        reward_baseline: ``pomo`` is the mean over the starts of the same member, ``analytic`` what the second best
            member reached from the same start, ``members`` the mean over the members from the same start (PolyNet's).
        starts: starts per instance, at most, the same for all members; 0 takes every one that the problem offers.
        samples: rollouts per member from its own first action instead, for problems without good starts; 0 takes
            starts. With 1, an instance has one winner.
        objective: ``best`` trains the winners, ``mean`` every member by itself.
        normalise: divide each instance's advantages by the standard deviation of all its rewards, for instances whose
            objectives are of different sizes.
    """

    def __init__(
        self,
        reward_baseline: Compared = "pomo",
        starts: int = 0,
        samples: int = 0,
        objective: Literal["best", "mean"] = "best",
        normalise: bool = False,
    ) -> None:
        super().__init__(reward_baseline, starts, samples, normalise)
        if objective not in ("best", "mean"):
            raise ArgumentError(f"objective: {objective!r} is not allowed; it must be one of best, mean")
        if objective == "mean" and reward_baseline == "analytic":
            raise ArgumentError("reward_baseline: 'analytic' is not allowed where objective is 'mean', only for 'best'")
        self.objective = objective

    def attach(self, policy: Policy) -> None:
        """Refuse a policy without members."""
        if policy.everyone is None:
            raise UnsupportedFeatures(f"{type(policy).__name__} has no members; Poppy trains a policy that has some")
        if policy.everyone.shape[1] == 1 and self.compared != "pomo":
            raise ArgumentError(f"reward_baseline: {self.compared!r} is not allowed for 1 member; it must be 'pomo'")

    def step(self, work: Work) -> Outcome:
        members = cast(Tensor, work.policy.everyone)
        found = self.act(work, members)
        shape = (members.shape[1], -1)
        reward = found.reward.unflatten(1, shape)
        if self.objective == "best":
            # of an instance no more rollouts than starts have a gradient
            log_prob = work.score(found, carrying=reward.shape[2]).unflatten(1, shape)
            advantage, chosen, _ = self.best(reward, log_prob)
            loss = -(advantage * chosen).mean()
        else:
            loss = -(self.advantages(reward) * work.score(found).unflatten(1, shape)).mean()
        return Outcome(loss, self.metrics(reward, work.env.sense))
