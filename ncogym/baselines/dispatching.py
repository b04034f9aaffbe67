"""Priority dispatching rules for job shops, one rule or the best of many randomised ones, on whole batches at once.

The literature's numbers come from dispatching in time without delay: whenever a machine falls free it takes, of the
operations that wait for it, the one that the rule puts first, and never stays idle while one waits. Rules that choose
among all jobs instead, with no regard to time (as those in the tables of Zhang et al., 2020), are far weaker.

References:
    Haupt (1989), A Survey of Priority Rule-Based Scheduling, OR Spektrum 11. Giffler and Thompson (1960), Algorithms
    for Solving Production-Scheduling Problems, Operations Research 8. Corsini, Porrello, Calderara and Dell'Amico
    (2024), Self-Labeling the Job Shop Scheduling Problem, NeurIPS (the randomisation). Zhang et al. (2020), Learning to
    Dispatch for Job Shop Scheduling via Deep Reinforcement Learning, NeurIPS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import pad

from ncogym.baselines.base import Baseline
from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.models import Shop
from ncogym.problem import Problem
from ncogym.solution import Solutions

CELLS = 2**18  # jobs looked at per step: enough to amortise its overhead, few enough for caches
SAMPLES = 128  # schedules of a randomised rule without a budget, as published
WINDOW = 3  # jobs among which a randomised rule draws, as published
TAIL = 16  # draws beyond the last job, after which the few that may be left keep their order
LOOK_EVERY = 16  # operations between two looks at the clock
NEVER = 2**62


class Waiting(NamedTuple):
    """What a rule may know of each job, int64 ``[batch, rollouts, jobs]``.

    Attributes:
        duration: of its next operation.
        ready: when its previous operation ends.
        operations: how many are left, the next one counted.
        work: sum of their durations.
    """

    duration: Tensor
    ready: Tensor
    operations: Tensor
    work: Tensor


RULES: dict[str, Callable[[Waiting], Tensor]] = {  # the largest first, equal ones by job index
    "SPT": lambda jobs: -jobs.duration,  # shortest processing time
    "LPT": lambda jobs: jobs.duration,  # longest processing time
    "FIFO": lambda jobs: -jobs.ready,  # first in, first out: the job that has been ready for longest
    "MOR": lambda jobs: jobs.operations,  # most operations remaining
    "LOR": lambda jobs: -jobs.operations,  # least operations remaining
    "MWKR": lambda jobs: jobs.work,  # most work remaining
    "LWKR": lambda jobs: -jobs.work,  # least work remaining
}


class Dispatching(Baseline):
    """Dispatch operations in time by a priority rule.

    The rule itself is deterministic. Randomised as Corsini et al. (2024) do it, the first schedule is that of the rule;
    for any other, each time that something can be dispatched the jobs are put into a new order, drawn one after the
    other, each from the three of highest priority that are left. That is the best of 128 schedules without a budget;
    under one, it goes on until that is spent.

    Args:
        rule: one of `RULES`.
        randomised: build many schedules and keep the best.
    """

    reads = (Shop,)

    def __init__(self, rule: str = "MWKR", randomised: bool = False) -> None:
        if rule not in RULES:
            raise ArgumentError(f"rule: {rule!r} is not allowed; it must be one of {', '.join(RULES)}")
        self.rule, self.randomised = rule, randomised
        self.name = f"dispatch:{'random-' if randomised else ''}{rule}"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        model = self.model(env, instances)
        progress = Progress(env, instances, budget)
        durations, machines = model.durations, model.machines
        progress.offer(self._dispatch(durations, machines, 1, None, progress.look))
        if self.randomised:
            pace = Pace(progress, CELLS // (durations.shape[0] * durations.shape[1]))
            wanted = math.inf if progress.budget.finite else SAMPLES
            while rollouts := pace.next(wanted - progress.rollouts):
                with progress.abandoning():
                    progress.offer(self._dispatch(durations, machines, rollouts, rng, progress.look))
        return progress.solutions(self.name)

    def _dispatch(
        self,
        durations: Int64[Tensor, "batch jobs operations"],
        machines: Int64[Tensor, "batch jobs operations"],
        rollouts: int,
        rng: torch.Generator | None,
        look: Callable[[], None],
    ) -> Int64[Tensor, "batch {rollouts} steps"]:
        """Return the job of each operation in the order of dispatch, at random if ``rng`` is given.

        It calls ``look`` now and then, to look at the clock.

        An instance with fewer operations than others of the batch repeats its last action.
        """
        (batch, num_jobs, num_operations), device = durations.shape, durations.device
        exists, num_machines = machines >= 0, int(machines.max()) + 1
        # what a rule knows of each operation; one more stands for a finished job, and one machine more is always free
        table = torch.stack(
            [
                pad(durations, (0, 1)),
                pad(machines.where(exists, num_machines), (0, 1), value=num_machines),
                pad(exists.long().flip(-1).cumsum(-1).flip(-1), (0, 1)),
                pad(durations.flip(-1).cumsum(-1).flip(-1), (0, 1)),
            ],
            dim=-1,
        )
        rows = torch.arange(batch, device=device)[:, None, None]
        jobs = torch.arange(num_jobs, device=device)
        following = torch.zeros(batch, rollouts, num_jobs, dtype=torch.int64, device=device)
        ready, order = following, jobs.expand_as(following)
        free = following.new_zeros(batch, rollouts, num_machines + 1)
        now, job, actions = following.new_full((batch, rollouts, 1), -1), following[..., :1], []
        for number in range(int(exists.sum((1, 2)).max())):
            if number % LOOK_EVERY == 0:
                look()
            duration, machine, operations, work = table[rows, jobs, following].unbind(-1)
            start = torch.maximum(ready, free.gather(-1, machine)).masked_fill(operations == 0, NEVER)
            earliest, end = start.amin(-1, keepdim=True), start + duration
            priority = RULES[self.rule](Waiting(duration, ready, operations, work)).masked_fill(operations == 0, -NEVER)
            place = priority.argsort(dim=-1, descending=True, stable=True).argsort(-1)
            if rng is not None:
                place = _shuffled(place, rng)
            order = place.where(earliest > now, order) if rng is not None else place
            now = earliest
            chosen = order.masked_fill(start > earliest, NEVER).argmin(-1, keepdim=True)
            job = chosen.where(earliest < NEVER, job)
            actions.append(job)
            done = end.gather(-1, job)
            ready, free = ready.scatter(-1, job, done), free.scatter(-1, machine.gather(-1, job), done)
            following = following.scatter_add(-1, job, torch.ones_like(job)).clamp_(max=num_operations)
        return torch.cat(actions, dim=-1)


def _shuffled(
    place: Int64[Tensor, "batch rollouts jobs"], rng: torch.Generator
) -> Int64[Tensor, "batch rollouts jobs"]:
    """Return new places (a later one is larger) for jobs drawn one after the other from a window over the old places.

    The window has three slots. A draw picks one, and the job that leaves it makes room for the next job outside. So the
    job of place p enters at draw p - 3, into the slot then picked, and leaves when the same slot is picked next. Draws
    after the last job has entered pick empty slots, too, which moves none.
    """
    num_draws = place.shape[-1] + TAIL
    shape = (*place.shape[:-1], num_draws)
    slots = torch.randint(WINDOW, shape, generator=rng, device=rng.device).to(place.device)
    draws = torch.arange(num_draws, device=place.device)
    first = torch.arange(WINDOW, device=place.device).expand(*place.shape[:-1], WINDOW)
    entered = torch.cat([first, slots], dim=-1).gather(-1, place)  # slot of the job at each place
    # the first draw of each slot from any draw on; past the end, those that are left keep their order of slots
    each = torch.where(slots[..., None, :] == first[..., None], draws, num_draws)
    after = pad(each.flip(-1).cummin(-1).values.flip(-1), (0, 1), value=num_draws)
    leaves = after.flatten(-2).gather(-1, entered * (num_draws + 1) + (place - WINDOW + 1).clamp(min=0))
    return torch.where(leaves == num_draws, num_draws + entered, leaves)
