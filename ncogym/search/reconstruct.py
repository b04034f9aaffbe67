"""Re-construction: a large neighbourhood search that lets the policy build anew what it takes from good solutions.

Several solutions of each instance live side by side. In each round the problem opens a part of every one, decisions
that belong together: a stretch of a tour, routes close to each other, a window of time (``neighbourhood`` of the
environment). The policy rebuilds it several times, and the best takes the solution's place
unless it is worse.

References:
    Shaw (1998), Using Constraint Programming and Local Search Methods to Solve Vehicle Routing Problems, CP (large
    neighbourhood search; parts that belong together).
    Luo, Lin, Liu, Zhang, Wang (2023), Neural Combinatorial Optimization with Heavy Decoder: Toward Large Scale
    Generalization (LEHD), NeurIPS (random re-construct).

Differs from the papers in:
    - a part is rebuilt several times by sampling; there once, by a tree search or greedily;
    - several solutions live side by side, and one that is as good as where it comes from takes its place;
    - parts are of a few lengths, drawn anew each round; there of any length, or longer and longer;
    - each round looks at another symmetric image of the instance, on which the policy makes other mistakes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory, search_memory
from ncogym.search.base import Search, starts
from ncogym.solver import Improver

LENGTHS = (15, 25, 40, 60)  # decisions of a part
ROUNDS = 48  # that a finite budget shall pay for, if parts cost as much as whole rollouts; else rounds are smaller
FEWEST = 4  # rollouts of each solution in a round; where it has less, the best solutions alone are rebuilt
STARTS = 2  # samples for each solution that is kept, where solutions may not begin anywhere


class Reconstruct(Search, Improver):
    """Improve solutions by rebuilding parts of them.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import Reconstruct
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in Reconstruct(policy, rounds=2)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: in evaluation mode.
        solutions: that live side by side, of each instance: the incumbent, and the best of a greedy rollout from each
            start where solutions may begin anywhere, else of ``STARTS`` samples each.
        rollouts: that rebuild a part of each solution, in a round.
        images: symmetric images that the policy sees in turn, where the problem has them; fewer where memory is short.
        temperature: of the rebuilding.
        rounds: after which it ends where no budget limits it.
        share: of a finite budget that the first solutions may use.
    """

    name = "reconstruct"

    def __init__(
        self,
        policy: Policy,
        *,
        solutions: int = 16,
        rollouts: int = 8,
        images: int = 8,
        temperature: float = 0.6,
        rounds: int = 50,
        share: float = 0.25,
    ) -> None:
        counts = {"solutions": solutions, "rollouts": rollouts, "images": images, "rounds": rounds}
        for name, value in counts.items():
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if not 0 < share < 1:
            raise ArgumentError(f"share: {share} is not allowed; it must be between 0 and 1")
        self.decoding = Sample(temperature)
        self.policy, self.solutions, self.rollouts, self.images = policy, solutions, rollouts, images
        self.rounds, self.share = rounds, share

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        env: Problem = progress.env
        instances = progress.instances
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        # small problems are not rebuilt whole
        lengths = [max(1, min(length, env.horizon(instances) // 2)) for length in LENGTHS]
        with torch.inference_mode(), progress.abandoning():
            views = _Views(env, self.policy, progress, self.images)
            seconds, rollouts = progress.seconds, progress.rollouts
            current, cost = self._first(progress, views, pace, rng)
            price = (progress.seconds - seconds) / max(progress.rollouts - rollouts, 1)
            left = min(progress.rollouts_left, (progress.budget.seconds - progress.seconds) / price)
            wanted = max(FEWEST, min(current.shape[1] * self.rollouts, left / ROUNDS))
            for done in itertools.count():
                count = pace.next(wanted)
                if not count or done >= (math.inf if progress.budget.finite else self.rounds):
                    break
                several = max(1, min(count // FEWEST, current.shape[1]))
                cost, chosen = cost.sort(dim=1)
                current = _picked(current, chosen)
                origin = current[:, :several].repeat_interleave(count // several, dim=1)
                free = lengths[int(torch.randint(len(lengths), (), generator=rng, device=rng.device))]
                built = self._rebuilt(env, origin, free, views.next(), progress, rng)
                found, best = self._cost(progress, built).unflatten(1, (several, -1)).min(-1)
                best = best + torch.arange(0, built.shape[1], count // several, device=best.device)
                steps = max(built.shape[-1], current.shape[-1])
                current, built = (env.padded(instances, each, steps) for each in (current, _picked(built, best)))
                worse = found > cost[:, :several]
                built = torch.where(worse.unsqueeze(-1), current[:, :several], built)
                current = torch.cat([built, current[:, several:]], dim=1)
                cost = torch.cat([torch.minimum(found, cost[:, :several]), cost[:, several:]], dim=1)

    def _rebuilt(
        self,
        env: Problem,
        solutions: Int64[Tensor, "batch rollouts steps"],
        free: int,
        view: tuple[int, TensorDict, Any],
        progress: Progress,
        rng: torch.Generator,
    ) -> Int64[Tensor, "batch rollouts steps_after"]:
        """Return solutions of which a part of ``free`` decisions is the policy's, as it sees it in an image."""
        number, image, encoded = view
        part = env.neighbourhood(image, env.imaged(image, solutions, number), free, rng)
        kept, last = part.actions[..., : part.begin], part.actions[..., part.end :]
        built = act(
            part.env, self.policy, encoded, image, self.decoding, rng, first_actions=kept, clock=progress
        ).actions
        back: Tensor = env.imaged(image, torch.cat([built, last], dim=-1), number)
        return back

    def _first(
        self, progress: Progress, views: _Views, pace: Pace, rng: torch.Generator
    ) -> tuple[Int64[Tensor, "batch solutions steps"], Tensor]:
        """Return the incumbents and the best of some rollouts, and what each costs: less is better."""
        env: Problem = progress.env
        instances = progress.instances
        pool, costs = [], []
        if progress.actions is not None:
            pool.append(progress.actions.unsqueeze(1))
            costs.append(self._cost(progress, pool[0], rollouts=0))
        wanted = env.first_actions(instances).shape[1] if env.multi_start else STARTS * self.solutions
        _, image, encoded = views.next()
        first = starts(env, instances, wanted, rng)
        with progress.part(self.share), progress.abandoning():
            while wanted and (count := pace.next(wanted)):
                given = None if first is None else first[:, wanted - count : wanted]
                decoding = Sample() if first is None else Greedy()
                built = act(
                    env,
                    self.policy,
                    encoded,
                    image,
                    decoding,
                    rng,
                    rollouts=count,
                    first_actions=given,
                    clock=progress,
                )
                pool.append(built.actions)
                costs.append(self._cost(progress, built.actions))
                wanted -= count
        steps, cost = max(each.shape[-1] for each in pool), torch.cat(costs, dim=1)
        joined = torch.cat([env.padded(instances, each, steps) for each in pool], dim=1)
        cost, best = cost.topk(min(self.solutions, cost.shape[1]), dim=1, largest=False)
        return _picked(joined, best), cost

    def _cost(self, progress: Progress, actions: Tensor, rollouts: int | None = None) -> Tensor:
        objective = progress.offer(actions, rollouts)
        return objective if progress.env.sense == "min" else -objective


class _Views:
    """The images of instances, one after the other and round again, each encoded when it is first looked at."""

    def __init__(self, env: Problem, policy: Policy, progress: Progress, count: int) -> None:
        self.env, self.policy, self.progress, self.turn = env, policy, progress, itertools.count()
        self.images = env.symmetries(progress.instances, min(count, 8))
        self.encoded: list[Any] = []

    def next(self) -> tuple[int, TensorDict, Any]:
        """Return the number of an image, the image and its encoding."""
        number = next(self.turn) % len(self.images)
        if number == len(self.encoded):
            self.encoded.append(encode(self.env, self.policy, self.images[number], clock=self.progress))
            each = sum(value.nbytes for value in self.encoded[0] if isinstance(value, Tensor))
            device = next(iter(self.images[0].values())).device
            del self.images[max(1, int(search_memory(device) / each)) :]
        return number, self.images[number], self.encoded[number]


def _picked(
    actions: Int64[Tensor, "batch rollouts steps"], index: Int64[Tensor, "batch picked"]
) -> Int64[Tensor, "batch picked steps"]:
    return actions.gather(1, index.unsqueeze(-1).expand(-1, -1, actions.shape[-1]))
