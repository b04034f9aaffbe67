r"""Detailed balance: solutions are sampled in proportion to the exponential of their reward (a GFlowNet).

.. math:: L = \mathrm{mean}_t \big( \log \tilde F(s_t) + \log P(a_t \mid s_t) - \log \tilde F(s_{t+1})
          - \log P_B(s_t \mid s_{t+1}) - \beta\, r_t \big)^2, \quad \log \tilde F = 0 \text{ at the end}

A head says the flow of a state beyond the reward so far (forward-looking), and the backward policy is uniform over the
parents that a state has (`ncogym.problem.Problem.log_parents`). Where the loss is 0 everywhere, a finished solution x
is sampled with a probability in proportion to :math:`\exp(\beta R(x))`, however many orders lead to it.

References:
    Bengio, Lahlou, Deleu, Hu, Tiwari, Bengio (2023), GFlowNet Foundations, JMLR 24.
    Pan, Malkin, Zhang, Bengio (2023), Better Training of GFlowNets with Local Credit and Incomplete Trajectories, ICML.
    Zhang, Dai, Malkin, Courville, Bengio, Pan (2023), Let the Flows Tell: Solving Graph Combinatorial Problems with
    GFlowNets, NeurIPS.

Differs from the papers in:
    - the flow is a head on what the policy reads of a state, in place of a network of its own;
    - all transitions of the newest rollouts are learnt from, once; there is no replay of older ones;
    - only parents that can be reached count, so that a problem says how many there are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ncogym.algorithms.base import Algorithm
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies.base import Policy
from ncogym.rollout import Decisions, Outcome, Work, decision_rewards, parents_seen


class FlowBalance(Algorithm):
    """Detailed balance, forward-looking.

    Args:
        samples: rollouts per instance, from the policy's own first action.
        beta: of the reward in the exponent: 0 samples all solutions alike, a large one the best alone.
        hidden: width of the head's hidden layer.
    """

    def __init__(self, samples: int = 8, beta: float = 1.0, hidden: int = 128) -> None:
        super().__init__()
        if samples < 1:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be at least 1")
        if not 0 <= beta < math.inf:
            raise ArgumentError(f"beta: {beta} is not allowed; it must be 0 (all alike) or more")
        if hidden < 1:
            raise ArgumentError(f"hidden: {hidden} is not allowed; it must be at least 1")
        self.samples, self.beta, self.hidden = samples, beta, hidden
        self.head: nn.Module | None = None

    def attach(self, policy: Policy) -> None:
        """Build the head."""
        if not policy.width:
            raise UnsupportedFeatures(f"{type(policy).__name__} offers a head of flows nothing to read")
        self.head = nn.Sequential(nn.Linear(2 * policy.width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def step(self, work: Work) -> Outcome:
        if self.head is None:
            raise RuntimeError("FlowBalance takes steps once it has met a policy (`attach`)")
        head = self.head
        found = work.act(rollouts=self.samples, log_prob=False)
        summary = work.policy.summary(work.encoded).unsqueeze(1)

        def read(decision: Decisions) -> tuple[Tensor, Tensor]:
            reading = decision.reading
            read = torch.cat([summary.expand_as(reading), reading], dim=-1).float()
            flow: Tensor = head(read)
            return decision.chosen, flow.squeeze(-1)

        forward, flow = work.score_steps(found, read)
        reward, is_open = decision_rewards(work.env, found)
        flow = flow * is_open  # 0 once a solution is finished
        successor = torch.cat([flow[..., 1:], torch.zeros_like(flow[..., :1])], dim=-1)
        backward = -parents_seen(work.env, found)
        error = (flow + forward - successor - backward - self.beta * reward).square() * is_open
        return Outcome(error.sum() / is_open.sum(), {"log_flow": flow[..., 0].mean().detach()})
