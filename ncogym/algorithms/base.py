"""The contract of a training algorithm, one step of training, and what several share."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies.base import Policy
from ncogym.rollout import Outcome, Part, Rollouts, Work
from ncogym.task import Task


class Critic(nn.Module):
    """A value head, and the running mean and deviation of rewards, so that what it learns is free of their unit.

    At first it says 0 of everything, which stands for the mean.

    Args:
        policy: whose words it reads (`Policy.summary`, `Policy.reading`).
        states: read both, for the value of states; else the summary alone, for that of instances.
        hidden: width of its hidden layer.

    Raises:
        UnsupportedFeatures: the policy offers no such words.
    """

    SHARE = 0.01  # of a batch in the running statistics, once a hundred were seen

    moments: Tensor
    batches: Tensor

    def __init__(self, policy: Policy, *, states: bool, hidden: int = 128) -> None:
        super().__init__()
        if not policy.width:
            raise UnsupportedFeatures(f"{type(policy).__name__} offers a value head nothing to read")
        width = policy.width * (2 if states else 1)
        # no bias, which is the running mean: the gradient of one would be 0 but for rounding, which Adam blows up
        last = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), last)
        self.register_buffer("moments", torch.zeros(2, dtype=torch.float64))  # mean, and mean of squares
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))

    def observe(self, reward: Float[Tensor, "batch rollouts"]) -> Float64[Tensor, " 2"]:
        """Mix new rewards into the running statistics, and return these, for the processes to average in place."""
        new, share = reward.double(), (1 / (self.batches + 1)).clamp_min(self.SHARE)
        self.moments.lerp_(torch.stack([new.mean(), new.square().mean()]), share)
        self.batches += 1
        return self.moments

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The running mean of rewards."""
        return self.moments[0].float()

    @property
    def deviation(self) -> Float[Tensor, ""]:
        """Their running standard deviation; at least a thousandth of the mean, should all be alike."""
        mean, square = self.moments.unbind()
        least = (1e-3 * mean.abs()).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.maximum((square - mean**2).clamp_min(0).sqrt(), least).float()

    def forward(self, read: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape"]:
        """Return values in deviations from the mean."""
        value: Tensor = self.head(read.float())
        return value.squeeze(-1).float()


class Algorithm(nn.Module, abc.ABC):
    """What is done in one training step: rollouts, a loss on them, and what the log shall say.

    It never searches and steps no optimiser. Its parameters that take a gradient are trained beside the policy's, so
    the loss must reach each of them.

    Attributes:
        imitates: True where it learns from labelled solutions, so that instances must come with labels.
        epochs: steps on the same instances and labels, in which `Work.once` keeps what the first has made.
    """

    imitates: ClassVar[bool] = False
    epochs: int = 1

    def attach(self, policy: Policy) -> None:
        """Meet the policy before training and before a checkpoint is loaded, to build what depends on it."""

    @abc.abstractmethod
    def step(self, work: Work) -> Outcome:
        """Return the loss to descend, and what the log shall say."""

    def epoch_end(self, env: Task, policy: Policy, rng: torch.Generator) -> None:
        """Update what changes between the epochs of a run, such as a baseline policy.

        Args:
            env: draws instances (``generate``).
            policy: as it is now.
            rng: what is drawn from.
        """


Compared = Literal["pomo", "analytic", "members"]


class WinnerTakesAll(Algorithm):
    """What Poppy and COMPASS share: each start is rolled out under all conditions, and only the best rollout learns.

    A condition is a member of a population or a latent. All of them have the same starts, and noise of their own.

    Args:
        reward_baseline: what the best rollout's reward is compared with: ``pomo`` is the mean of the rollouts from all
            starts under its condition, ``analytic`` the second best rollout from its start, ``members`` the mean of all
            rollouts from its start.
        starts: starts per instance, at most, drawn without replacement; 0 takes every one that the problem offers.
        samples: rollouts under each condition from the policy's own first action instead; the n-th of all conditions
            are compared with one another as those from a start are. 0 takes starts.
        normalise: divide each instance's advantages by the standard deviation of all its rewards.
    """

    TOLERANCE = 1e-6  # relative; the two ways round a tour have lengths that differ in the last bits

    def __init__(self, reward_baseline: Compared, starts: int, samples: int, normalise: bool) -> None:
        super().__init__()
        if reward_baseline not in get_args(Compared):
            allowed = ", ".join(get_args(Compared))
            raise ArgumentError(f"reward_baseline: {reward_baseline!r} is not allowed; it must be one of {allowed}")
        self.least = 2 if reward_baseline == "pomo" else 1  # rollouts that have a mean to be compared with
        for name, value, none in (("starts", starts, "all"), ("samples", samples, "starts")):
            if value < 0 or 0 < value < self.least:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be 0 ({none}) or at least {self.least}")
        if starts and samples:
            raise ArgumentError(f"starts: {starts} is not allowed with samples, {samples}; one of them must be 0")
        self.compared, self.starts, self.samples, self.normalise = reward_baseline, starts, samples, normalise

    def act(self, work: Work, condition: Tensor) -> Rollouts:
        """Roll out every start, or so many samples, under each condition; by condition, then by start."""
        count = condition.shape[1]
        if self.samples:
            return work.act(rollouts=count * self.samples, condition=condition)
        starts = work.each(self._starts)
        return work.act(starts=starts.repeat(1, count), condition=condition)

    def _starts(self, part: Part) -> Tensor:
        offered: Tensor = part.env.first_actions(part.instances, part.rng if self.starts else None)
        each = min(self.starts or offered.shape[1], offered.shape[1])
        if each < self.least:
            raise ArgumentError(f"instances: {each} start is not allowed; at least {self.least} must be there")
        return offered[:, :each]

    def advantages(self, reward: Float[Tensor, "batch conditions starts"]) -> Float[Tensor, "batch conditions starts"]:
        """Return how much better each rollout is than what it is compared with."""
        if self.compared == "analytic":
            advantage = reward - reward.topk(2, dim=1).values[:, 1:]
        else:
            advantage = reward - reward.mean(2 if self.compared == "pomo" else 1, keepdim=True)
        if self.normalise:
            advantage = advantage / reward.flatten(1).std(1).clamp_min(1e-6).view(-1, 1, 1)
        return advantage

    def best(
        self, reward: Float[Tensor, "batch conditions starts"], log_prob: Float[Tensor, "batch conditions starts"]
    ) -> tuple[Float[Tensor, "batch starts"], Float[Tensor, "batch starts"], Bool[Tensor, "batch starts"]]:
        """Return the advantage and the log-probability of the best rollout from each start, and whether no other ties.

        Of rollouts that tie it is the first.
        """
        first = reward.argmax(1, keepdim=True)
        advantage, chosen = (each.gather(1, first).squeeze(1) for each in (self.advantages(reward), log_prob))
        return advantage, chosen, self._reaching(reward).sum(1) == 1

    def metrics(
        self, reward: Float[Tensor, "batch conditions starts"], sense: Literal["min", "max"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Say who wins, of all pairs of an instance and a start.

        Returns:
            By name, in the objective's own sense ``best_of_members`` (mean of the best) and ``mean_member``;
            ``leave_one_out``, how much worse the best is without a member, on average over them;
            ``share_won_most`` and ``share_won_least``, the largest and the smallest share of pairs that a member wins
            (the first of those that tie); ``unique_winners``, the share whose best is reached by one member alone; and
            ``ties``, how many further members reach it, on average. Members are latents where these are the conditions.
        """
        sign = -1 if sense == "min" else 1
        count = reward.shape[1]
        best = reward.max(1).values
        reaching = self._reaching(reward)
        number = torch.arange(count, device=reward.device).view(-1, 1)
        won = (reaching.long().argmax(1, keepdim=True) == number).float().mean((0, 2))
        second = reward.topk(2, dim=1).values[:, 1] if count > 1 else best
        return {
            "best_of_members": sign * best.mean(),
            "mean_member": sign * reward.mean(),
            "leave_one_out": (best - second).mean() / count,
            "share_won_most": won.max(),
            "share_won_least": won.min(),
            "unique_winners": (reaching.sum(1) == 1).float().mean(),
            "ties": reaching.sum(1).float().mean() - 1,
        }

    def _reaching(self, reward: Float[Tensor, "batch conditions starts"]) -> Bool[Tensor, "batch conditions starts"]:
        best = reward.max(1, keepdim=True).values
        return reward >= best - self.TOLERANCE * best.abs()


def samples_or_starts(work: Work, samples: int, *, log_prob: bool = True) -> Rollouts:
    """Roll out from the policy's own first action so many times, or, for 0, once from every start, as POMO does."""
    if samples:
        return work.act(rollouts=samples, log_prob=log_prob)
    starts = work.each(lambda part: part.env.first_actions(part.instances))
    return work.act(starts=starts, log_prob=log_prob)


def decisions(actions: Int64[Tensor, "batch rollouts steps"], forced: int) -> Int64[Tensor, "batch rollouts"]:
    """Count the decisions of each rollout, int64 ``[batch, rollouts]``: without those given and without padding.

    How far a record is padded depends on the way of acting. What only repeats the last action is padding; in a schedule
    it may also be the rest of the last job, where there is as little to decide.
    """
    repeats = (actions == actions[..., -1:]).long().flip(-1).cumprod(-1).sum(-1) - 1
    return (actions.shape[-1] - repeats - forced).clamp_min(1)


def per_decision(log_prob: Float[Tensor, "*shape"], counts: Int64[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean over rollouts of their log-probability per decision.

    Args:
        log_prob: of rollouts.
        counts: their `decisions`.
    """
    most = counts.max()
    return (log_prob * (most / counts)).mean() / most  # where all are alike, by a factor that is exactly 1
