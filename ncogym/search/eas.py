r"""Efficient active search: a few numbers are tuned to each instance, and the policy stays as it is.

``embeddings`` (EAS-Emb) and ``layer`` (EAS-Lay) descend the gradient of

.. math:: L = -\frac{1}{P} \sum_{i=1}^{P} (R(\tau^i) - b) \log p(\tau^i) - \lambda \log p(\bar\tau),
          \quad b = \frac{1}{P} \sum_j R(\tau^j)

where :math:`\bar\tau` is the incumbent, the best solution so far: with respect to what the decoder reads of each node,
or to a residual layer :math:`g + W_2\,\mathrm{relu}(W_1 g + b_1) + b_2` between glimpse and pointer (in the graph
policy, before an operation's score), which begins with :math:`W_2 = b_2 = 0`. ``table`` (EAS-Tab) needs no gradient: it
draws from

.. math:: q(a \mid s) \propto p(a \mid s)^\alpha \, \sigma^{[(node(s),\, a) \in \bar\tau]}

where node(s) is the node that a rollout is at, and the power says whether the incumbent goes from there to a.

References:
    Hottung, Kwon, Tierney (2022), Efficient Active Search for Combinatorial Optimization Problems, ICLR.

Differs from the paper in:
    - rewards are divided by the incumbent's, so that the unit of an instance does not matter, and lambda with them: it
      is that of EAS-Emb for the TSP, 0.0058, divided by 7.76, the length of tours of 100 nodes;
    - every number of a policy's encoding is an embedding that is tuned, not the pointer's keys alone, and a step takes
      fewer rollouts: both found better solutions of routing problems in as many rollouts;
    - the pointer's keys have the glimpse's output projection in them, and the layer comes before that projection;
      at the paper's learning rate it first unlearns, so that a third of it is the default;
    - ``alpha`` is 1, since policies of a short training are less sure of themselves than the paper's;
    - symmetric images of an instance are a matter of `ncogym.search.Symmetry`, each with numbers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ncogym.books import Progress
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Sample
from ncogym.problem import Problem
from ncogym.rollout import encode, steps_seen
from ncogym.search.base import Search, apart, descend, recording, rounds
from ncogym.solver import Improver

Variant = Literal["embeddings", "layer", "table"]
NAMES = {"embeddings": "eas", "layer": "eas-lay", "table": "eas-tab"}
LAYER = ("inner", "inner_bias", "outer", "outer_bias")
SHARED = ("scalars", *LAYER)  # weights of layers, which are the same for all instances, and no embeddings
RATES = {"embeddings": 3.2e-3, "layer": 1e-3}  # of learning; a table has none


class EAS(Search, Improver):
    """Solve by tuning to each instance what a policy's decoder reads of it.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import EAS
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in EAS(policy)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: what every instance starts from; it is not changed.
        variant: ``embeddings``, ``layer`` or ``table``.
        rollouts: per step (of every start, in the paper).
        steps: after which it ends where no budget limits it (200 in the paper).
        learning_rate: of Adam; None is 0.0032 for embeddings, as in the paper for the TSP, and 0.001 for a layer.
        imitation: lambda, the weight of the incumbent, relative to rewards of about 1.
        tuned: fields of the policy's encoding that are the embeddings, ``("logit_keys",)`` in the paper; None is all.
        alpha: power of the policy's probabilities beside the table (0.505 in the paper, for the TSP).
        sigma: how much likelier the table makes the incumbent's actions (8.57 in the paper, for the TSP).
    """

    def __init__(
        self,
        policy: Policy,
        variant: Variant = "embeddings",
        *,
        rollouts: int = 25,
        steps: int = 200,
        learning_rate: float | None = None,
        imitation: float = 7.5e-4,
        tuned: tuple[str, ...] | None = None,
        alpha: float = 1.0,
        sigma: float = 8.57,
    ) -> None:
        if variant not in get_args(Variant):
            raise ArgumentError(f"variant: {variant!r} is not allowed; it must be one of {', '.join(NAMES)}")
        for name, value in (("rollouts", rollouts), ("steps", steps)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        rate = RATES.get(variant, 1.0) if learning_rate is None else learning_rate
        for name, number in (("learning_rate", rate), ("alpha", alpha)):
            if not 0 < number < math.inf:
                raise ArgumentError(f"{name}: {number} is not allowed; it must be above 0")
        for name, number, least in (("imitation", imitation, 0), ("sigma", sigma, 1)):
            if not least <= number < math.inf:
                raise ArgumentError(f"{name}: {number} is not allowed; it must be at least {least}")
        self.policy, self.variant, self.rollouts, self.steps = policy, variant, rollouts, steps
        self.learning_rate, self.imitation, self.tuned = rate, imitation, tuned
        self.alpha, self.sigma, self.name = alpha, sigma, NAMES[variant]

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        """Tune to what there is, or to its own first rollouts.

        Raises:
            UnsupportedFeatures: the policy or the problem offers nothing that this variant could tune.
        """
        with recording(), progress.abandoning():
            progress.instances, env = progress.instances.clone(), progress.env  # what autograd may keep
            policy = apart(self.policy)
            encoded = _owned(encode(env, policy, progress.instances, clock=progress))
            if self.variant == "layer":
                encoded = _layered(policy, encoded, rng)
            search = self._table if self.variant == "table" else self._descent
            search(env, policy, encoded, progress, rng)

    def _rounds(self, *args: Any) -> Iterator[tuple[Any, Any]]:
        """Return `rounds` of ``(env, policy, encode, decoding, progress, rng)``."""
        most = math.inf if args[4].budget.finite else self.steps
        return rounds(*args, rollouts=self.rollouts, most=most)

    def _descent(self, env: Problem, policy: Policy, encoded: Any, progress: Progress, rng: torch.Generator) -> None:
        leaves = [getattr(encoded, name).requires_grad_() for name in self._fields(policy, encoded)]
        optimizer = torch.optim.Adam(leaves, self.learning_rate)
        for shown, drawn in self._rounds(env, policy, lambda: encoded, Sample(), progress, rng):
            optimizer.zero_grad()
            descend(env, policy, shown, drawn, progress, self.imitation)
            optimizer.step()

    def _fields(self, policy: Policy, encoded: Any) -> tuple[str, ...]:
        """Return the names of the tensors to tune."""
        if self.variant == "layer":
            return LAYER
        offered = tuple(
            name
            for name, value in encoded._asdict().items()
            if name not in SHARED and isinstance(value, Tensor) and value.is_floating_point()
        )
        for name in self.tuned or ():
            if name not in offered:
                what = f"{type(policy).__name__} encodes {', '.join(offered)}"
                raise UnsupportedFeatures(f"tuned: {name!r} is not allowed; {what}")
        return offered if self.tuned is None else self.tuned

    def _table(self, env: Problem, policy: Policy, encoded: Any, progress: Progress, rng: torch.Generator) -> None:
        instances, pointer, walk = progress.instances, policy.as_pointer(encoded), env.walk(progress.instances)
        if pointer is None or "bias" not in encoded._fields:
            raise _refused("table", f"here {type(policy).__name__} is no pointer with a bias")
        if walk is None or "current" not in walk.roles:
            raise _refused("table", f"{env.name} offers no walk from node to node")
        role, (batch, roles, rows, _) = walk.roles.index("current"), pointer.queries.shape
        plain = pointer.bias
        if plain is None:
            plain = pointer.logit_keys.new_zeros(batch, roles, rows, rows - 1, dtype=torch.float32)
        # the decoding's temperature, 1 / alpha, divides this as it does the policy's logits
        more, instance = math.log(self.sigma) / (self.alpha * pointer.clip), torch.arange(batch, device=plain.device)

        shown: Any = encoded
        known: Tensor | None = None

        def tabled() -> Any:
            nonlocal shown, known
            best, path = progress.best, progress.actions
            if best is None or path is None or (known is not None and torch.equal(best, known)):
                return shown
            steps = steps_seen(env, instances, path.unsqueeze(1))
            at = torch.stack([step.nodes[:, 0, role] for step in steps], dim=-1)
            table = torch.zeros_like(plain)
            table[instance.unsqueeze(1), role, torch.where(at < 0, rows - 1, at), path] = more
            shown, known = encoded._replace(bias=plain + table), best
            return shown

        for _ in self._rounds(env, policy, tabled, Sample(temperature=1 / self.alpha), progress, rng):
            pass


def _refused(variant: Variant, reason: str) -> UnsupportedFeatures:
    return UnsupportedFeatures(f"variant: {variant!r} is not allowed; {reason}")


def _owned(encoded: Any) -> Any:
    """Return an encoding whose tensors may have gradients: what a search encodes may not."""
    return type(encoded)(*(value.detach().clone() if isinstance(value, Tensor) else value for value in encoded))


def _layered(policy: Policy, encoded: Any, rng: torch.Generator) -> Any:
    """Give an encoding a residual layer, which does nothing until it is tuned.

    Args:
        policy: whose encoding it is.
        encoded: of the instances.
        rng: what the first matrix is drawn from, the same for all instances.

    Raises:
        UnsupportedFeatures: the policy has no place for a layer.
    """
    if "inner" not in encoded._fields:
        raise _refused("layer", f"{type(policy).__name__} has no place for one")
    numbers, dim = encoded[0], policy.width
    batch = numbers.shape[0]
    drawn = torch.rand(dim, dim, generator=rng, device=rng.device).to(numbers) * 2 - 1
    return encoded._replace(
        inner=(drawn / math.sqrt(dim)).repeat(batch, 1, 1),
        inner_bias=numbers.new_zeros(batch, 1, dim),
        outer=numbers.new_zeros(batch, dim, dim),
        outer_bias=numbers.new_zeros(batch, 1, dim),
    )
