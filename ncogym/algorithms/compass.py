r"""COMPASS: a policy that is steered by a latent, trained where each latent wins.

.. math:: L = -\frac{1}{|W|} \sum_{(i,p) \in W}
          \big(R(\tau^{z^*}_{i,p}) - b_{i,p}\big)\, \log p(\tau^{z^*}_{i,p} \mid z^*),
          \quad z^* = \arg\max_{z \in \{z_1, \dots, z_N\}} R(\tau^z_{i,p})

N latents are drawn at each update, the same for all instances, and the policy begins at the same P starts under each of
them. Of the rollouts from a start only the best has a gradient, and none where two latents are equally good: W are the
pairs of an instance and a start with a single winner. It is Poppy with latents in place of members, which makes a
continuum of policies to search at inference.

References:
    Chalumeau, Surana, Bonnet, Grinsztajn, Pretorius, Laterre, Barrett (2023), Combinatorial Optimization with Policy
    Adaptation using Latent Space Search, NeurIPS.

Differs from the paper in:
    - two rewards tie where they differ by less than a millionth, since the two ways round a tour have lengths that
      differ in the last bits;
    - ``starts`` that are fewer than the problem offers are drawn without replacement, and for each instance;
    - ``normalise`` divides the advantages (off by default);
    - the job shop has no critic: its baselines are those of the other problems.
"""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from ncogym.algorithms.base import Compared, WinnerTakesAll
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies.base import Policy
from ncogym.rollout import Outcome, Work


@runtime_checkable
class Draws(Protocol):
    """A policy under latents."""

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw latents, ``[1, count, ...]``."""


class Compass(WinnerTakesAll):
    """COMPASS's estimator, for a policy that draws latents (`Latent.draw`).

    Args:
        latents: drawn per update (128 for routing and 16 for the job shop in the paper).
        reward_baseline: ``pomo`` is the mean over the starts of the same latent, ``analytic`` what the second best
            latent reached from the same start, ``members`` the mean over the latents from the same start.
        starts: starts per instance, at most, the same for all latents; 0 takes every one that the problem offers.
        samples: rollouts per latent from the policy's own first action instead, for problems without good starts; 0
            takes starts.
        normalise: divide each instance's advantages by the standard deviation of all its rewards, for instances whose
            objectives are of different sizes.
    """

    def __init__(
        self,
        latents: int = 16,
        reward_baseline: Compared = "pomo",
        starts: int = 0,
        samples: int = 0,
        normalise: bool = False,
    ) -> None:
        super().__init__(reward_baseline, starts, samples, normalise)
        if latents < 2:
            raise ArgumentError(f"latents: {latents} is not allowed; it must be at least 2")
        self.latents = latents

    def attach(self, policy: Policy) -> None:
        """Refuse a policy that draws no latents."""
        if not isinstance(policy, Draws):
            raise UnsupportedFeatures(f"{type(policy).__name__} draws no latents; COMPASS trains a policy that does")

    def step(self, work: Work) -> Outcome:
        policy = cast(Draws, work.policy)
        latents = work.each(lambda part: policy.draw(self.latents, part.rng))
        found = self.act(work, latents)
        shape = (self.latents, -1)
        reward = found.reward.unflatten(1, shape)
        # of an instance no more rollouts than starts have a gradient
        log_prob = work.score(found, carrying=reward.shape[2]).unflatten(1, shape)
        advantage, chosen, alone = self.best(reward, log_prob)
        # 0 with a graph where there is no winner, for the optimiser's and DDP's sake
        loss = -(advantage * chosen * alone).sum() / alone.sum().clamp_min(1)
        return Outcome(loss, self.metrics(reward, work.env.sense))
