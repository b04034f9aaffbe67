"""Simulation-guided beam search: a beam of partial solutions, each worth what a greedy rollout makes of it.

A node of the beam is expanded by its likeliest actions, each child is completed by the policy's greedy rollout, and
the children whose completions have the best objectives are the next beam.

References:
    Choo et al. (2022), Simulation-guided Beam Search for Neural Combinatorial Optimization, NeurIPS.

Differs from the paper in:
    - the child that a node's own simulation goes through is one of its gamma children and keeps that simulation, which
      is not made again;
    - the root, a single node, has beta times gamma children, where the paper begins with given first actions;
    - for as long as a budget lasts, passes follow with twice the beam width; there is no turn of active search between.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import Search, gathered
from ncogym.solution import Solutions


class SGBS(Search):
    """Solve by simulation-guided beam search; its first rollout is the greedy one.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import SGBS
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in SGBS(policy, 2, 2)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    It draws nothing, so it ends before its budget where a wider beam does not fit into memory or would keep no more.

    Args:
        policy: in evaluation mode.
        beta: nodes of the beam (4 for vehicle routes, 10 for tours in the paper).
        gamma: children of a node (as beta).
    """

    name = "sgbs"

    def __init__(self, policy: Policy, beta: int = 4, gamma: int = 4) -> None:
        for name, value in (("beta", beta), ("gamma", gamma)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        self.policy, self.beta, self.gamma = policy, beta, gamma

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked simulation of each instance."""
        progress = Progress(env, instances, budget)
        with torch.inference_mode(), progress.abandoning():
            search = _Pass(env, self.policy, progress, rng)
            beta = min(self.beta, search.most)
            while search(beta, self.gamma) and progress.budget.finite and beta < search.most:
                beta = min(2 * beta, search.most)
        return progress.solutions(self.name)


class _Pass:
    """Passes over the same instances; each goes on from the greedy rollout, which is made once.

    Attributes:
        most: widest beam that fits into memory.
    """

    def __init__(self, env: Problem, policy: Policy, progress: Progress, rng: torch.Generator) -> None:
        self.env, self.policy, self.progress, self.rng = env, policy, progress, rng
        self.instances = progress.instances
        self.encoded = encode(env, policy, self.instances, clock=progress)
        self.most = rollouts_in_memory(env, policy, self.instances)
        self.pace = Pace(progress, self.most)
        self.steps = env.horizon(self.instances)
        empty = torch.zeros(progress.batch, 1, 0, dtype=torch.int64, device=env.start(self.instances).done.device)
        self.greedy = self._simulated(empty)

    def __call__(self, beta: int, gamma: int) -> bool:
        """Run a pass, and say whether a wider one could find more and may begin."""
        (paths, scores), dropped = self.greedy, False
        state = self.env.start(self.instances)
        for step in range(self.steps):
            if self.progress.spent:
                return False
            if bool(state.done.all()):
                break
            logits = self.policy.logits(self.encoded, self.env.step_features(state))
            own = paths[..., step]
            # the child on the simulated path is there already, and a stand-in has no children
            logits = logits.float().scatter(-1, own.unsqueeze(-1), -math.inf)
            logits = logits.masked_fill((scores == -math.inf).unsqueeze(-1), -math.inf)
            wanted = min((beta if step == 0 else 1) * gamma - 1, logits.shape[-1])
            if wanted == 0:
                break
            if step == 0:
                dropped = bool(((logits > -math.inf).sum(-1) > wanted).any())
            value, action = logits.topk(wanted, dim=-1)
            alive = (value > -math.inf).flatten(1)
            count = int(alive.sum(1).max())
            order = alive.int().argsort(dim=1, descending=True, stable=True)[:, :count]
            alive, parent = alive.gather(1, order), order // wanted
            # where an instance has fewer children, its first node stands in
            parent = parent.where(alive, 0)
            action = action.flatten(1).gather(1, order).where(alive, own[:, :1])
            given = torch.cat([self._rows(paths, parent)[..., :step], action.unsqueeze(-1)], dim=-1)
            found, worth = self._simulated(given)
            if found.shape[1] < count:
                return False
            nodes = torch.arange(own.shape[1], device=own.device).expand(len(own), -1)
            parent, paths = torch.cat([nodes, parent], dim=1), torch.cat([paths, found], dim=1)
            scores = torch.cat([scores, worth.masked_fill(~alive, -math.inf)], dim=1)
            scores, kept = scores.sort(dim=1, descending=True, stable=True)
            dropped = dropped or bool((scores[:, beta:] > -math.inf).any())
            scores, kept = scores[:, :beta], kept[:, :beta]
            kept = kept.where(scores > -math.inf, kept[:, :1])
            paths, parent = self._rows(paths, kept), parent.gather(1, kept)
            state = self.env.advance(gathered(state, parent), paths[..., step])
        return dropped

    def _simulated(self, given: Int64[Tensor, "batch nodes given"]) -> tuple[Tensor, Tensor]:
        """Complete partial solutions greedily, as many as the budget pays for, and offer them.

        Returns:
            Actions ``[batch, nodes, horizon]``, and objectives ``[batch, nodes]`` by which more is better.
        """
        paths = [given.new_zeros(len(given), 0, self.steps)]
        scores = [torch.zeros(len(given), 0, dtype=torch.float64, device=given.device)]
        while count := self.pace.next(given.shape[1]) if given.shape[1] else 0:
            part, given = given[:, :count], given[:, count:]
            built = act(
                self.env,
                self.policy,
                self.encoded,
                self.instances,
                Greedy(),
                self.rng,
                first_actions=part,
                clock=self.progress,
            )
            objective = self.progress.offer(built.actions)
            paths.append(self.env.padded(self.instances, built.actions, self.steps))
            scores.append(-objective if self.env.sense == "min" else objective)
        return torch.cat(paths, dim=1), torch.cat(scores, dim=1)

    @staticmethod
    def _rows(paths: Int64[Tensor, "batch nodes steps"], index: Int64[Tensor, "batch kept"]) -> Tensor:
        return paths.gather(1, index.unsqueeze(-1).expand(-1, -1, paths.shape[-1]))
