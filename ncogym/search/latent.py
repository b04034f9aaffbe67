"""Search in the latent space of a policy: the latents that steer it best on an instance, by CMA-ES.

Each instance has a CMA-ES of its own, all of a batch side by side. An attempt is a latent: a greedy rollout from every
start under it, of which the best is its fitness, or one sampled rollout where starts do not pay.

References:
    Chalumeau, Surana, Bonnet, Grinsztajn, Pretorius, Laterre, Barrett (2023), Combinatorial Optimization with Policy
    Adaptation using Latent Space Search, NeurIPS (COMPASS).

Differs from the paper in:
    - latents are in units of the box that they are drawn from in training, and the policy itself scales them;
    - a budget that does not pay for a whole generation goes to as many of its latents as it pays for.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float64
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies import Latent
from ncogym.policies.decoding import Greedy, Sample
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import Search, stretch
from ncogym.search.cmaes import CMAES, centroids
from ncogym.solution import Solutions


class LatentSearch(Search):
    """Solve under the latents that a CMA-ES tries, or random ones (the control), for as long as the budget lasts.

    Args:
        policy: in evaluation mode.
        attempts: latents of an instance where no budget limits them.
        generation: latents between two updates.
        elites: latents of a generation that decide the next; None is 8, or 12 where there are no starts and a latent's
            fitness is a draw.
        components: searches of an instance that take turns, begun at centroids of the box.
        sigma: first step size, in units of the box, which goes from -1 to 1.
        adapted: False draws every latent from the prior instead: the control.
    """

    policies = (Latent,)

    def __init__(
        self,
        policy: Latent,
        *,
        attempts: int = 160,
        generation: int = 16,
        elites: int | None = None,
        components: int = 3,
        sigma: float = 1.0,
        adapted: bool = True,
    ) -> None:
        counts = {"attempts": attempts, "generation": generation, "components": components}
        for name, value in counts.items():
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if elites is not None and not 1 <= elites <= generation:
            raise ArgumentError(f"elites: {elites} is not allowed; it must be from 1 to {generation}, the generation")
        self.policy, self.attempts, self.generation, self.elites = policy, attempts, generation, elites
        self.sigma, self.name = sigma, "compass" if adapted else "compass-random"
        self.means = _centroids(components, policy.latent_dim) if adapted else None

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked rollout of each instance."""
        limited = budget is not None and budget.finite
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        starts = env.first_actions(instances, rng if limited else None) if env.multi_start else None
        each = 1 if starts is None else starts.shape[1]
        left = math.inf if limited else self.attempts * each
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            search = self._search(env, instances)
            while left > 0:
                latents = self._latents(search, instances, rng)
                found: list[Tensor] = []
                done, whole = 0, min(self.generation * each, left)
                while done < whole and (count := pace.next(whole - done)):
                    columns, rows = stretch(done, count, each)
                    tried = rows.stop - rows.start
                    built = act(
                        env,
                        self.policy,
                        encoded,
                        instances,
                        Sample() if starts is None else Greedy(),
                        rng,
                        rollouts=tried * (columns.stop - columns.start),
                        first_actions=None if starts is None else starts[:, columns].repeat(1, tried),
                        condition=latents[:, rows],
                        clock=progress,
                    )
                    found.append(progress.offer(built.actions))
                    done += found[-1].shape[1]
                left -= done
                if done < self.generation * each:
                    break
                if search is not None:
                    # parts of a latent lie side by side, as whole ones do
                    value = torch.cat(found, dim=1).unflatten(1, (self.generation, each))
                    search.tell(value.amin(2) if env.sense == "min" else -value.amax(2))
        return progress.solutions(self.name)

    def _search(self, env: Problem, instances: TensorDict) -> CMAES | None:
        if self.means is None:
            return None
        elites = self.elites or min(8 if env.multi_start else 12, self.generation)
        means = self.means.to(next(iter(instances.values())).device)
        return CMAES(means, instances.batch_size[0], elites=elites, sigma=self.sigma)

    def _latents(self, search: CMAES | None, instances: TensorDict, rng: torch.Generator) -> Tensor:
        """Return the latents of a generation, ``[batch, generation, dim]``."""
        if search is not None:
            return search.ask(self.generation, rng).float()
        drawn = self.policy.draw(len(instances) * self.generation, rng).unflatten(1, (len(instances), -1))[0]
        return drawn.to(next(iter(instances.values())).device)


@functools.cache
def _centroids(count: int, dim: int) -> Float64[Tensor, "{count} {dim}"]:
    # the same for all instances and seeds, found before any clock starts
    return centroids(count, dim, torch.Generator().manual_seed(0))
