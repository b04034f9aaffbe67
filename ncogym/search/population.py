"""Search with a population: each member solves greedily, then those that did best are sampled.

References:
    Grinsztajn, Furelos-Blanco, Surana, Bonnet, Barrett (2023), Winner Takes It All: Training Performant RL Populations
    for Combinatorial Optimization, NeurIPS: greedy rollouts in its main tables; of its large budgets, what these leave
    goes to the best pairs of a member and a start.
    Hottung, Mahajan, Tierney (2025), PolyNet: Learning Diverse Solution Strategies for Neural Combinatorial
    Optimization, ICLR: its vectors are sampled in turn, and no first action is forced.

Differs from the papers in:
    - where a budget does not pay for every pair, the pairs that are tried are spread over members and starts;
    - where there are no starts, a greedy rollout of each member goes before its samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies import PolyNet, Population
from ncogym.policies.decoding import Decoding, Greedy, Sample
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import Search, stretch
from ncogym.solution import Solutions


class PopulationSearch(Search):
    """Solve by all members of a population.

    Each member makes a greedy rollout from each start, or one where starts do not pay. What a finite budget leaves is
    sampled evenly: from the pairs of a member and a start that did best on an instance, as many as there are members,
    or from all members where there are no starts. A `PolyNet` is sampled from the first rollout on, without starts.

    Args:
        policy: in evaluation mode.
        samples: rollouts of an instance, all members together, that are sampled without starts where no budget limits
            them.
        decoding: of the sampled rollouts: temperature, top-k and top-p.
    """

    policies = (Population, PolyNet)

    name = "poppy"

    def __init__(self, policy: Population | PolyNet, samples: int = 128, decoding: Sample | None = None) -> None:
        if samples < 1:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be at least 1")
        self.policy, self.samples, self.decoding = policy, samples, decoding or Sample()

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked rollout of each instance."""
        limited = budget is not None and budget.finite
        greedy = not isinstance(self.policy, PolyNet)
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)

            def build(decoding: Decoding, members: Tensor, each: int, first: Tensor | None) -> Tensor:
                count = members.shape[1] * each
                given: dict[str, Any] = {"rollouts": count, "first_actions": first, "condition": members}
                built = act(env, self.policy, encoded, instances, decoding, rng, clock=progress, **given)
                return progress.offer(built.actions)

            starts = env.first_actions(instances, rng if limited else None) if greedy and env.multi_start else None
            members: Any = self.policy.everyone
            width, lines, done = members.shape[1], 1 if starts is None else starts.shape[1], 0
            pair, first, tried = torch.arange(lines * width, device=members.device).view(-1, width), None, []
            while greedy and done < lines * width and (count := pace.next(lines * width - done)):
                columns, rows = stretch(done, count, width)
                each = rows.stop - rows.start
                cells = pair[rows, columns].T.flatten()
                if starts is not None:
                    # any so many pairs in a row have each member and each start equally often, to within one
                    first = starts[:, (cells + cells // math.lcm(lines, width)) % lines]
                value = build(Greedy(), members[:, columns], each, first)
                if first is not None:
                    tried.append((value, first, (cells % width).expand_as(first)))
                done += value.shape[1]

            most = math.inf if limited else self.samples
            if starts is not None:
                value, first, who = (torch.cat(parts, dim=1) for parts in zip(*tried, strict=True))
                best = value.topk(min(width, done), dim=1, largest=env.sense == "max").indices
                members, first = members[0][who.gather(1, best)], first.gather(1, best)
                most = most if limited else 0
            done = 0
            while done < most and (count := pace.next(most - done)):
                columns, rows = stretch(done, count, members.shape[1])
                each = rows.stop - rows.start
                again = None if first is None else first[:, columns].repeat_interleave(each, dim=1)
                done += build(self.decoding, members[:, columns], each, again).shape[1]
        return progress.solutions(self.name)
