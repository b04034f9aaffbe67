"""Schedules of shops, read from the order of the operations alone, and what is wrong with them."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.problem import Violation


def look_up(table: Tensor, at: Tensor) -> Tensor:
    """Return entries of ``table`` ``[batch, entries]`` at ``[batch, ...]``."""
    return table.gather(1, at.flatten(1)).view_as(at)


def named(
    instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
) -> Int64[Tensor, "batch rollouts steps"]:
    """Return the number ``job * machines + place`` of each step's operation; ``jobs * machines`` where it is none.

    The n-th time that a job is named stands for its n-th operation; sorted stably, equal jobs lie side by side.
    """
    _, jobs, machines = instance["machine"].shape
    named, order = actions.contiguous().sort(dim=-1, stable=True)
    nth = torch.arange(actions.shape[-1], device=actions.device) - torch.searchsorted(named, named)
    place = torch.empty_like(actions).scatter_(-1, order, nth)
    no_job = (actions < 0) | (actions >= jobs)
    job = actions.masked_fill(no_job, 0)
    lengths = (instance["machine"] >= 0).sum(-1)
    return (job * machines + place).masked_fill(no_job | (place >= look_up(lengths, job)), jobs * machines)


def appended(
    job: Tensor, machine: Tensor, duration: Tensor, num_jobs: int, num_machines: int
) -> Int64[Tensor, "batch rollouts steps"]:
    """Begin one operation after another, as soon as the one before in its job and on its machine has ended.

    Steps that are no operation come on one more machine and without a duration.
    """
    batch, rollouts, _ = job.shape
    free_from = duration.new_zeros(batch, rollouts, num_jobs + num_machines + 1)  # jobs, then machines
    both = torch.stack([job, machine + num_jobs], dim=-1).movedim(2, 0).contiguous()
    ends = []
    for pair, takes in zip(both, duration.movedim(-1, 0).unsqueeze(-1).contiguous(), strict=True):
        end = free_from.gather(-1, pair).amax(-1, keepdim=True) + takes
        free_from.scatter_(-1, pair, end.expand_as(pair))
        ends.append(end)
    return torch.cat(ends, dim=-1) - duration if ends else torch.zeros_like(job)


def inserted(job: Tensor, machine: Tensor, duration: Tensor) -> Int64[Tensor, "batch rollouts steps"]:
    """Begin one operation after another in the first gap of its machine after the end of the one before in its job."""
    begins = torch.full_like(job, -1)
    rows = zip(*(each.flatten(0, 1).tolist() for each in (job, machine, duration)), strict=True)
    for begin, row in zip(begins.flatten(0, 1), rows, strict=True):
        job_end: dict[int, int] = {}
        timelines: dict[int, list[tuple[int, int]]] = {}
        for step, (of_job, on_machine, takes) in enumerate(zip(*row, strict=True)):
            if on_machine < 0:
                continue
            timeline, time = timelines.setdefault(on_machine, []), job_end.get(of_job, 0)
            for busy_from, busy_until in sorted(timeline):
                if time + takes <= busy_from:
                    break
                time = max(time, busy_until)
            timeline.append((time, time + takes))
            job_end[of_job] = time + takes
            begin[step] = time
    return begins


def broken(order: list[int], lengths: list[int]) -> str | None:
    """Say what keeps ``order`` from placing every operation once, or None; later repeats of the last are padding."""
    count = sum(lengths)
    for step, job in enumerate(order):
        if not 0 <= job < len(lengths):
            return f"step {step} places job {job}; jobs are 0 to {len(lengths) - 1}"
    for job, length in enumerate(lengths):
        placed = order[:count].count(job)
        if placed != length:
            return f"job {job} is placed {placed} times in {len(order[:count])} steps; it has {length} operations"
    for step, job in enumerate(order[count:], count):
        if job != order[count - 1]:
            return f"step {step} places job {job} after the last operation, of job {order[count - 1]}"
    return None


def clash(durations: list[list[int]], machines: list[list[int]], starts: list[list[int]]) -> str | None:
    """Say which operations of a schedule begin too early or overlap, or None."""
    timelines: dict[int, list[tuple[int, int, int]]] = {}
    for job, operations in enumerate(zip(durations, machines, starts, strict=True)):
        ended = 0
        for number, (duration, machine, start) in enumerate(zip(*operations, strict=True)):
            if machine < 0:
                continue
            if start < 0:
                return f"operation {number} of job {job} starts at {start}; it must not start before 0"
            if start < ended:
                return f"operation {number} of job {job} starts at {start}; the one before ends at {ended}"
            ended = start + duration
            timelines.setdefault(machine, []).append((start, ended, job))
    for machine, timeline in sorted(timelines.items()):
        timeline.sort()
        for (_, ended, before), (start, _, job) in pairwise(timeline):
            if start < ended:
                return f"machine {machine}: job {job} starts at {start}; job {before} is on it until {ended}"
    return None


def violations(instance: TensorDict, start: Int64[Tensor, "batch rollouts jobs machines"]) -> list[Violation]:
    """Name what first keeps start times ``[batch, rollouts, jobs, machines]`` from being a schedule."""
    found = []
    durations, machines = instance["duration"].tolist(), instance["machine"].tolist()
    for row, rollouts in enumerate(start.tolist()):
        for rollout, begins in enumerate(rollouts):
            reason = clash(durations[row], machines[row], begins)
            if reason:
                found.append(Violation(row, rollout, reason))
    return found
