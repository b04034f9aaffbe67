r"""Sampling without replacement: stochastic beam search.

Of all sequences, the k with the highest perturbed log-probabilities are a sample without replacement. A beam finds
them without listing the others, since the perturbed log-probability of a partial solution is the maximum of those of
its children: a parent of key G draws, for each child of log-probability :math:`\phi_c`,

.. math:: G_c \sim \mathrm{Gumbel}(\phi_c), \quad Z = \max_c G_c, \quad
          \tilde{G}_c = -\log(\exp(-G) - \exp(-Z) + \exp(-G_c)).

References:
    Kool, van Hoof and Welling (2019), Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling
    Sequences Without Replacement, ICML.

Differs from the paper in:
    - the key of the root is 0 and not drawn: it moves all keys, and never their order;
    - rounds with new randomness follow for as long as a budget lasts; sequences are distinct within a round.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Sample
from ncogym.problem import Problem
from ncogym.rollout import encode, rollouts_in_memory
from ncogym.search.base import Search, grow
from ncogym.solution import Solutions


class StochasticBeam(Search):
    """Solve by sampling a policy without replacement, one round of distinct sequences after another.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import StochasticBeam
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> search = StochasticBeam(policy, width=3)
        >>> [found.feasible for found in search(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: in evaluation mode.
        width: sequences of a round, fewer where memory or the budget do not pay for them; one round where no budget
            limits them (1,280 is the number of samples in Kool et al. 2019, as in `Sampling`).
        decoding: temperature, top-k and top-p.
    """

    name = "stochastic-beam"

    def __init__(self, policy: Policy, width: int = 1280, decoding: Sample | None = None) -> None:
        if width < 1:
            raise ArgumentError(f"width: {width} is not allowed; it must be at least 1")
        self.policy, self.width, self.decoding = policy, width, decoding or Sample()

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked sequence of each instance."""
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))

        def keys(parents: Tensor, log_prob: Tensor) -> Tensor:
            return perturbed(parents, log_prob, rng)

        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            while width := pace.next(self.width):
                actions, _, _ = grow(env, self.policy, encoded, instances, width, keys, self.decoding, clock=progress)
                progress.offer(actions)
                if not progress.budget.finite or actions.shape[1] < width:
                    break  # fewer are all there are
        return progress.solutions(self.name)


def perturbed(
    key: Float64[Tensor, "batch beams"], log_prob: Float64[Tensor, "batch beams actions"], rng: torch.Generator
) -> Float64[Tensor, "batch beams actions"]:
    """Draw Gumbel-perturbed log-probabilities of children whose maximum is the key of their parent.

    Args:
        key: of the parents.
        log_prob: of the children; -inf is no child.
        rng: what is drawn from.
    """
    uniform = torch.rand(log_prob.shape, dtype=log_prob.dtype, generator=rng, device=rng.device).to(log_prob.device)
    gumbel = log_prob - (-uniform.clamp_min(1e-300).log()).log()
    highest = gumbel.amax(-1, keepdim=True)
    # the formula above without its exponentials, which overflow (appendix B.3 of the paper)
    excess = key.unsqueeze(-1) - gumbel + torch.log1p(-(gumbel - highest).exp())
    return key.unsqueeze(-1) - excess.clamp_min(0) - torch.log1p((-excess.abs()).exp())
