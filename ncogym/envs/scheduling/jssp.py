"""The job shop: order the operations of jobs on machines so that the last one is finished as early as possible.

Each job is a fixed sequence of operations, each on a machine of its own for a whole number of time units; a machine
does one operation at a time, without interruption. An action is the job whose next operation is placed; it begins as
soon as its job and its machine are free (semi-active schedules, among which there is an optimal one). Objective: the
makespan, to be minimised, in the instance's own time units, exact in whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs.formats.arrays import holds, refuse, whole
from ncogym.envs.formats.jobshop import matrices_fault
from ncogym.envs.scheduling import schedule as schedules
from ncogym.envs.scheduling.instances import JSSPDistribution, shop
from ncogym.envs.scheduling.moves import Window
from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims, InstanceFeatures, OperationGraph, StepFeatures
from ncogym.models import Shop
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, Violation, as_int64
from ncogym.sketch import Bar, Sketch

TABLES = ("lengths", "duration_at", "machine_at", "work_left_at", "machine_load", "bound")
NEVER = 2**60  # later than any time; sums with it stay within int64


class JSSPState(NamedTuple):
    """State of each rollout; see `JSSP`."""

    instance: TensorDict
    next_operation: Tensor
    job_ready: Tensor
    machine_ready: Tensor
    machine_work: Tensor
    starts: Tensor
    num_left: Tensor
    action_mask: Tensor
    done: Tensor


class JSSP(Problem):
    """Job shop scheduling problem.

    Instance keys:
        duration: int64 ``[jobs, machines]``, time units of each operation, in processing order; 0 is allowed.
        machine: int64 ``[jobs, machines]``, the machine of each, from 0; -1 is no operation (at the end of a row, with
            duration 0), so that jobs of different length, and instances of different sizes, are one tensor
            (`ncogym.distribution.stack`). A job may come back to a machine.

    State keys, each ``[batch, rollouts, ...]``:
        next_operation: int64 ``[jobs]``, place in its job of the operation that comes next; its length once all are.
        job_ready: int64 ``[jobs]``, when the job's last placed operation ends; the largest is the makespan so far.
        machine_ready: int64 ``[machines]``, when the machine's last operation ends.
        machine_work: int64 ``[machines]``, durations placed on the machine.
        starts: int64 ``[jobs * machines]``, when each operation begins, `NEVER` as long as it is not placed; only
            with ``insertion``, whose gaps cannot be known from less; else ``[0]``.
        num_left: int64, operations not placed yet.
        action_mask: bool ``[jobs]``, True = allowed: the job has an operation left (and, with ``non_delay``, none could
            begin earlier); once none has, the job placed last (padding).
        done: bool, True = every operation is placed.

    The state's instance also holds tables that `start` derives: those of `_tables`.

    Args:
        non_delay: allow only operations that begin at the earliest time at which any can (non-delay schedules, a
            smaller set, which may lack the optimum). Giffler and Thompson, Operations Research 8, 1960.
        insertion: an operation takes the earliest idle gap of its machine that is long enough, not only the end;
            slower, since the state grows from jobs + machines to jobs * machines.
    """

    name = "jssp"
    sense = "min"
    suffixes = (".jsp", ".jssp", ".txt")
    solution_suffix = ".schedule"
    multi_start = False
    state_type = JSSPState
    distribution_type = JSSPDistribution
    instance_keys = ("duration", "machine", *TABLES)

    padding: ClassVar[Mapping[str, float]] = {"duration": 0, "machine": -1}

    def __init__(self, *, non_delay: bool = False, insertion: bool = False) -> None:
        if non_delay and insertion:
            raise ArgumentError("insertion: True is not allowed with non_delay, whose schedules have no gap to fill")
        self.non_delay, self.insertion = non_delay, insertion

    def arguments(self) -> dict[str, Any]:
        return {"non_delay": self.non_delay, "insertion": self.insertion}

    def instance_size(self, instance: TensorDict) -> int:
        return int(instance["duration"].shape[1])

    # ------------------------------------------------------------------ instances

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read ``duration`` and ``machine`` ``[batch, jobs, machines]``, in processing order; machine -1 is none.

        With them, ``ref_makespan`` and ``ref_lower_bound``, -1 where nothing is known, and ``ref_start``, a schedule
        of that makespan.
        """
        axes = "batch jobs machines"
        known = {"ref_makespan": "batch", "ref_lower_bound": "batch", "ref_start": axes}
        if not holds(arrays, {"duration": axes, "machine": axes}, known):
            return None
        keys = {name: whole(arrays, name) for name in ("duration", "machine")}
        refuse(map(matrices_fault, keys["duration"].numpy(), keys["machine"].numpy()))
        instances = TensorDict(keys, batch_size=[len(keys["duration"])])
        if "ref_makespan" not in arrays:
            return Contents(instances)
        makespan = whole(arrays, "ref_makespan")
        actions = proven = None
        if "ref_start" in arrays:
            actions = cls().actions_from_start(instances, whole(arrays, "ref_start").unsqueeze(1)).squeeze(1)
        if "ref_lower_bound" in arrays:
            proven = whole(arrays, "ref_lower_bound") == makespan
        return Contents(instances, makespan.double().masked_fill(makespan < 0, torch.nan), actions, proven)

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.jobshop import read_jobshop

        return shop(*read_jobshop(path))

    def write(self, instance: TensorDict, path: str | Path) -> None:
        from ncogym.envs.formats.jobshop import write_jobshop

        write_jobshop(path, instance["duration"][0].numpy(), instance["machine"][0].numpy())

    def write_solution(self, instance: TensorDict, actions: Tensor, path: str | Path, name: str) -> Path | None:
        """Write start times to a ``.schedule`` file: a line a job, in processing order, below one with the makespan."""
        target = Path(path).with_suffix(self.solution_suffix)
        rows = self.schedule(instance, actions[None, None])[0, 0].tolist()
        makespan = int(self.objective(instance, actions[None, None]))
        lines = [f"# {name}: makespan {makespan}; a line a job, start times of its operations in processing order"]
        lines += [" ".join(str(start) for start in row if start >= 0) for row in rows]
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return target

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> JSSPState:
        batch, jobs, machines = instance["duration"].shape
        instance = instance.select("duration", "machine").update(_tables(instance))
        lengths = instance["lengths"]
        job_ready = lengths.new_zeros(batch, rollouts, jobs)
        machine_ready = lengths.new_zeros(batch, rollouts, machines)
        return JSSPState(
            instance=instance,
            next_operation=job_ready.clone(),
            job_ready=job_ready,
            machine_ready=machine_ready,
            machine_work=machine_ready.clone(),
            starts=lengths.new_full((batch, rollouts, jobs * machines if self.insertion else 0), NEVER),
            num_left=lengths.sum(-1, keepdim=True).expand(-1, rollouts).clone(),
            action_mask=(lengths > 0).unsqueeze(1).repeat(1, rollouts, 1),
            done=torch.zeros(batch, rollouts, dtype=torch.bool, device=lengths.device),
        )

    def advance(self, state: JSSPState, action: Int64[Tensor, "batch rollouts"]) -> JSSPState:
        instance, job, starts = state.instance, action.unsqueeze(-1), state.starts
        place = state.next_operation.gather(-1, job)
        length = instance["lengths"].gather(1, action).unsqueeze(-1)
        at = _flat(state, job, place).squeeze(-1)
        # behind a job's last operation the tables go on with the same machine and duration 0: a finished row, whose
        # last job has just left that machine, stays as it is
        duration = instance["duration_at"].gather(1, at).unsqueeze(-1)
        machine = instance["machine_at"].gather(1, at).unsqueeze(-1)
        ready, free = state.job_ready.gather(-1, job), state.machine_ready.gather(-1, machine)
        if self.insertion:
            begin = torch.where(state.done.unsqueeze(-1), ready, self._earliest_gap(state, machine, ready, duration))
            number = torch.where(place < length, job * state.machine_ready.shape[-1] + place, 0)
            starts = starts.scatter(-1, number, torch.where(place < length, begin, starts[..., :1]))
        else:
            begin = torch.maximum(ready, free)
        end = begin + duration
        following = torch.minimum(place + 1, length)
        next_operation = state.next_operation.scatter(-1, job, following)
        job_ready = state.job_ready.scatter(-1, job, end)
        machine_ready = state.machine_ready.scatter(-1, machine, torch.maximum(free, end) if self.insertion else end)
        machine_work = state.machine_work.scatter_add(-1, machine, duration)
        num_left = (state.num_left - 1).clamp_min(0)
        done = num_left == 0
        if self.non_delay:
            left = next_operation < instance["lengths"].unsqueeze(1)
            left = left.scatter(-1, job, left.gather(-1, job) | done.unsqueeze(-1))
        else:
            left = state.action_mask.scatter(-1, job, (following < length) | done.unsqueeze(-1))
        successor = JSSPState(
            instance, next_operation, job_ready, machine_ready, machine_work, starts, num_left, left, done
        )
        return self._without_delay(successor) if self.non_delay else successor

    def _without_delay(self, state: JSSPState) -> JSSPState:
        """Allow only those jobs whose next operation can begin as early as any."""
        machine = schedules.look_up(state.instance["machine_at"], _next_flat(state))
        begin = torch.maximum(state.job_ready, state.machine_ready.gather(-1, machine))
        begin = begin.masked_fill(~state.action_mask, NEVER)
        return state._replace(action_mask=state.action_mask & (begin == begin.amin(-1, keepdim=True)))

    def _earliest_gap(self, state: JSSPState, machine: Tensor, ready: Tensor, duration: Tensor) -> Tensor:
        """Return when the machine first has ``duration`` units of idle time after ``ready``; all ``[.., .., 1]``."""
        instance = state.instance
        used = (instance["machine"].flatten(1).unsqueeze(1) == machine) & (state.starts < NEVER)
        begins = torch.where(used, state.starts, NEVER)
        ends = torch.where(used, begins + instance["duration"].flatten(1).unsqueeze(1), NEVER)
        # operations of a machine do not overlap, so begins and ends have one order
        closes = torch.cat([begins.sort(-1).values, torch.full_like(ready, NEVER)], dim=-1)
        opens = torch.maximum(torch.cat([torch.zeros_like(ready), ends.sort(-1).values], dim=-1), ready)
        return opens.masked_fill((opens + duration > closes) & (closes < NEVER), NEVER).amin(-1, keepdim=True)

    def reward(
        self, state: JSSPState, action: Int64[Tensor, "batch rollouts"], successor: JSSPState
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return by how much the makespan grew, negated."""
        return (state.job_ready.amax(-1) - successor.job_ready.amax(-1)).float()

    def horizon(self, instance: TensorDict) -> int:
        return int(instance["duration"].shape[1:].numel())

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        start = self.schedule(instance, as_int64(actions))
        end = start + instance["duration"].unsqueeze(1)
        return end.masked_fill(start < 0, 0).amax((-2, -1)).double()

    def schedule(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
    ) -> Int64[Tensor, "batch rollouts jobs machines"]:
        """Return when each operation begins, read from the actions alone; -1 where there is none or it is not placed.

        Args:
            instance: batch size ``[batch]``.
            actions: int64 ``[batch, rollouts, steps]``; what is too much or no job is passed over.
        """
        jobs, machines = instance["duration"].shape[1:]
        number = schedules.named(instance, actions)
        nothing = torch.nn.functional.pad  # a step that is no operation looks up what stands behind the last one
        durations = schedules.look_up(nothing(instance["duration"].flatten(1), (0, 1)), number)
        used = schedules.look_up(nothing(instance["machine"].flatten(1), (0, 1), value=-1), number)
        if self.insertion:
            begins = schedules.inserted(actions, used, durations)
        else:
            on = used.masked_fill(used < 0, machines)
            begins = schedules.appended(actions.clamp(0, jobs - 1), on, durations, jobs, machines)
        start = number.new_full((*actions.shape[:2], jobs * machines + 1), -1).scatter_(-1, number, begins)
        return start[..., :-1].unflatten(-1, (jobs, machines))

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        actions = as_int64(actions)
        lengths = (instance["machine"] >= 0).sum(-1).tolist()
        found = []
        for row, rollouts in enumerate(actions.tolist()):
            for rollout, order in enumerate(rollouts):
                reason = schedules.broken(order, lengths[row])
                if reason:
                    found.append(Violation(row, rollout, reason))
        broken = {(each.row, each.rollout) for each in found}
        clashes = self.schedule_violations(instance, self.schedule(instance, actions))
        return sorted(found + [each for each in clashes if (each.row, each.rollout) not in broken])

    def schedule_violations(
        self, instance: TensorDict, start: Int64[Tensor, "batch rollouts jobs machines"]
    ) -> list[Violation]:
        """Name what first keeps start times ``[batch, rollouts, jobs, machines]`` from being a schedule."""
        return schedules.violations(instance, start)

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=0, operation=13, scalars=3, candidates=14)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return 13 numbers of each operation, free of the time unit; of all jobs, side by side in processing order.

        Its duration over the mean duration; that less the mean of its job, the mean of its machine, and less the
        largest of either; its place in the job; the share of the job's work before it and after it. In units of the
        trivial lower bound, the largest total of a job or a machine: the work before it and after it, the total of its
        job and of its machine, and the work before it less the mean of that on its machine. After Corsini et al.,
        Self-Labeling the Job Shop Scheduling Problem, NeurIPS 2024.
        """
        batch, jobs, machines = instance["duration"].shape
        exists = (instance["machine"] >= 0).float()
        tables = _tables(instance)
        bound = tables["bound"][:, None, None]
        machine = instance["machine"].clamp_min(0).flatten(1)
        duration = instance["duration"].float()
        mean = (duration.sum((1, 2)) / exists.sum((1, 2)).clamp_min(1)).clamp_min(1e-9)[:, None, None]

        def on_machine(values: Tensor, reduce: str = "sum") -> Tensor:
            table = values.new_zeros(batch, machines).scatter_reduce(1, machine, values.flatten(1), reduce)
            return table.gather(1, machine).view_as(values)

        total = duration.sum(-1, keepdim=True)
        after = tables["work_left_at"].view(batch, jobs, -1)[..., :-1].float() - duration
        before = total - duration - after
        count, number = on_machine(exists).clamp_min(1), exists.sum(-1, keepdim=True)
        load, share = on_machine(duration), total.clamp_min(1e-9)
        place = torch.arange(machines, device=duration.device) / (number - 1).clamp_min(1)
        columns = [
            duration / mean,
            (duration - total / number.clamp_min(1)) / mean,
            (duration - load / count) / mean,
            (duration - duration.amax(-1, keepdim=True)) / mean,
            (duration - on_machine(duration, "amax")) / mean,
            place.expand_as(duration),
            before / share,
            after / share,
            before / bound,
            after / bound,
            total.expand_as(duration) / bound,
            load / bound,
            (before - on_machine(before * exists) / count) / bound,
        ]
        values = torch.stack(columns, dim=-1) * exists.unsqueeze(-1)
        job = torch.arange(jobs, device=duration.device).repeat_interleave(machines).expand(batch, -1)
        return (OperationGraph(values.flatten(1, 2), job, instance["machine"].flatten(1)),)

    def step_features(self, state: JSSPState) -> StepFeatures:
        """Return 14 numbers of each job's next operation, in units of the trivial lower bound, 0 where there is none.

        When its job is free, when its machine is, and when it would end, each less the makespan so far; when it could
        begin and when it would end, each less the earliest over jobs; when it could begin, the work left in its job and
        on its machine, each less the mean over jobs; the lower bounds by its job and by its machine, less that of the
        whole; how long its machine is free later than its job; its duration; the work left in its job and on its
        machine. Scalars: share of the operations that are placed, makespan so far, lower bound so far less the trivial
        one. With ``insertion`` gaps are not looked at.
        """
        instance, at = state.instance, _next_flat(state)
        unit, shut = instance["bound"][:, None, None], state.next_operation >= instance["lengths"].unsqueeze(1)
        duration, left, machine = (
            schedules.look_up(instance[key], at) for key in ("duration_at", "work_left_at", "machine_at")
        )
        machine_left = instance["machine_load"].unsqueeze(1) - state.machine_work
        free, load = state.machine_ready.gather(-1, machine), machine_left.gather(-1, machine)
        # differences of times are small beside the unit, so that float32 is enough from here on
        ready, free, duration, left, load = (torch.stack([state.job_ready, free, duration, left, load]) / unit).unbind()
        begin = torch.maximum(ready, free)
        end, makespan = begin + duration, ready.amax(-1, keepdim=True)
        total = (state.machine_ready + machine_left).amax(-1, keepdim=True) / unit
        bound = torch.maximum((ready + left).amax(-1, keepdim=True), total)
        num_open = (~shut).sum(-1, keepdim=True).clamp_min(1)

        def earliest(values: Tensor) -> Tensor:
            return values.masked_fill(shut, torch.inf).amin(-1, keepdim=True)

        def mean(values: Tensor) -> Tensor:
            return values.masked_fill(shut, 0.0).sum(-1, keepdim=True) / num_open

        numbers = [
            ready - makespan,
            free - makespan,
            end - makespan,
            begin - earliest(begin),
            end - earliest(end),
            begin - mean(begin),
            left - mean(left),
            load - mean(load),
            begin + left - bound,
            free + load - bound,
            free - ready,
            duration,
            left,
            load,
        ]
        candidates = torch.stack(numbers, dim=-1).masked_fill_(shut.unsqueeze(-1), 0.0)
        placed = 1 - state.num_left / instance["lengths"].sum(-1, keepdim=True).clamp_min(1)
        scalars = torch.cat([placed.unsqueeze(-1), makespan, bound - 1], dim=-1)
        batch, rollouts, jobs = ready.shape
        operation = torch.arange(jobs, device=at.device) * state.machine_ready.shape[-1] + state.next_operation
        nodes = ready.new_empty(batch, rollouts, 0)
        return StepFeatures(nodes, state.action_mask, scalars, candidates, operation.masked_fill(shut, -1))

    # ------------------------------------------------------------------ multi-start, symmetries, views, picture

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        """Return every job that has an operation; rows with fewer of them than others go round again."""
        empty = (instance["machine"] < 0).all(-1)
        key = empty.double()
        if rng is not None:
            key = key * 2 + torch.rand(key.shape, generator=rng, device=rng.device).to(key)
        order = key.argsort(dim=-1, stable=True)
        steps = torch.arange(order.shape[1], device=order.device)
        return order.gather(1, steps % (~empty).sum(-1, keepdim=True).clamp_min(1))

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw orders of the same schedule: by start time, at random among operations that begin together."""
        batch, horizon = actions.shape[0], self.horizon(instance)
        one, lasts = actions.unsqueeze(1), (instance["duration"] > 0).flatten(1).unsqueeze(1)
        start = self.schedule(instance, one).expand(-1, count, -1, -1)
        # operations of no duration go before those that begin with their end, in the order in which they came
        turn = torch.arange(-actions.shape[-1], 0, device=actions.device, dtype=torch.float32).expand_as(one)
        turn = turn.new_zeros(batch, 1, horizon + 1).scatter(-1, schedules.named(instance, one), turn)[..., :-1]
        drawn = torch.rand(batch, count, horizon, generator=rng, device=rng.device).to(actions.device)
        tie = torch.where(lasts, drawn, turn).view_as(start)
        found = self._ordered(instance, start, tie)[..., : actions.shape[-1]]
        return self.padded(instance, found, actions.shape[-1])

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open a window of time: operations that begin one after the other; later ones keep their order.

        The window is the same count of operations after the first in all solutions, and lies within the shortest of
        them. With ``non_delay`` what is built in it need not be without delay.
        """
        tie = torch.rand(*actions.shape[:2], self.horizon(instance), generator=rng, device=rng.device)
        start = self.schedule(instance, actions)
        order = self._ordered(instance, start, tie.to(start.device).view_as(start))
        length = int((instance["machine"] >= 0).sum((1, 2)).amin())
        free = min(free, length)
        # drawn with an overhang at both ends, so that the first and the last are opened as often as others
        first = int(torch.randint(length + 1, (), generator=rng, device=rng.device)) - free // 2
        first = min(max(first, 0), length - free)
        placed = order[..., : first + free]
        until = order.new_zeros(*order.shape[:2], instance["duration"].shape[1])
        until = until.scatter_add(-1, placed, torch.ones_like(placed))
        return Neighbourhood(Window(self, until, first + free), order, first, first + free)

    def actions_from_start(
        self, instance: TensorDict, start: Int64[Tensor, "batch rollouts jobs machines"]
    ) -> Int64[Tensor, "batch rollouts steps"]:
        """Return actions in the order of given start times; their semi-active schedule starts nothing later.

        Args:
            instance: batch size ``[batch]``.
            start: int64 ``[batch, rollouts, jobs, machines]``, a schedule without violations.
        """
        return self._ordered(instance, start, (instance["duration"] > 0).unsqueeze(1).expand_as(start))

    def _ordered(self, instance: TensorDict, start: Tensor, tie: Tensor) -> Int64[Tensor, "batch rollouts steps"]:
        """Return jobs by start time, then by ``tie``, then the last of them over and over as padding."""
        exists = (instance["machine"] >= 0).flatten(1).unsqueeze(1)
        by_tie = tie.flatten(2).argsort(dim=-1, stable=True)
        begins = start.flatten(2).masked_fill(~exists, NEVER).gather(-1, by_tie)
        order = by_tie.gather(-1, begins.argsort(dim=-1, stable=True))
        last = (exists.sum(-1, keepdim=True) - 1).clamp_min(0)
        steps = torch.arange(order.shape[-1], device=order.device)
        return order.gather(-1, torch.minimum(steps, last).expand_as(order)) // instance["duration"].shape[-1]

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return ``actions`` ``[steps]`` without padding, in an order whose semi-active schedule has their makespan."""
        count = int((instance["machine"] >= 0).sum())
        if self.insertion:
            actions = self.actions_from_start(instance, self.schedule(instance, actions[None, None]))[0, 0]
        return [int(action) for action in actions[:count]]

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return the instance and itself in reversed time, in which the operations of every job come backwards.

        A schedule and its mirror are one graph of precedences, so their semi-active makespans are the same; with
        ``non_delay`` and ``insertion`` they need not be, and the instance stands alone. Other names of the machines
        are no image to a policy that sees none.
        """
        if count == 1 or self.non_delay or self.insertion:
            return [instance]
        exists = instance["machine"] >= 0
        place = torch.arange(exists.shape[-1], device=exists.device)
        place = torch.where(exists, exists.sum(-1, keepdim=True) - 1 - place, place)
        return [
            instance,
            instance.replace(**{name: instance[name].gather(-1, place) for name in ("duration", "machine")}),
        ]

    def imaged(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], number: int
    ) -> Int64[Tensor, "batch rollouts steps"]:
        """Return the jobs in reversed order for the image in reversed time."""
        if number % 2 == 0:
            return actions
        last = (instance["machine"] >= 0).flatten(1).sum(-1).view(-1, 1, 1) - 1
        steps = torch.arange(actions.shape[-1], device=actions.device)
        return actions.gather(-1, (last - steps).clamp_min(0).expand_as(actions))

    def model(self, instance: TensorDict) -> Shop:
        return Shop(instance["duration"], instance["machine"])

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the Gantt chart: a row a machine, the first on top, a bar an operation, a colour a job."""
        start = self.schedule(instance, actions[None, None])[0, 0]
        keys = (start, instance["duration"][0], instance["machine"][0])
        rows = int(instance["machine"].max()) + 1
        bars = [
            Bar(begin, rows - 1 - machine, duration, 1, job, str(job))
            for job, operations in enumerate(zip(*(key.tolist() for key in keys), strict=True))
            for begin, duration, machine in zip(*operations, strict=True)
            if begin >= 0 and duration > 0
        ]
        makespan, names = max((bar.x + bar.width for bar in bars), default=0), [str(row) for row in range(rows)]
        return Sketch(makespan, rows, False, [], [], [], bars, "time", "machine", names[::-1])


# ---------------------------------------------------------------------- helpers


def _tables(instance: TensorDict) -> dict[str, Tensor]:
    """Return what steps look up, each ``[batch, ...]``.

    Where a place in a job is one of ``machines + 1``, the last one, and those behind a shorter job, have duration 0
    and the machine of the job's last operation.

    Returns:
        lengths: int64 ``[jobs]``, operations of each job.
        duration_at: int64 ``[jobs * (machines + 1)]``.
        machine_at: int64 ``[jobs * (machines + 1)]``.
        work_left_at: int64 ``[jobs * (machines + 1)]``, durations of the job from this place on.
        machine_load: int64 ``[machines]``, all durations of the machine.
        bound: float32 ``[]``, the largest total of a job or a machine, at least 1: no schedule is shorter.
    """
    duration, machine = instance["duration"], instance["machine"]
    lengths = (machine >= 0).sum(-1)
    places = torch.arange(machine.shape[-1] + 1, device=machine.device)
    last = (lengths - 1).clamp_min(0).unsqueeze(-1)
    machines = machine.gather(-1, torch.minimum(places, last)).clamp_min(0)
    durations = torch.nn.functional.pad(duration, (0, 1))
    work_left = durations.flip(-1).cumsum(-1).flip(-1)
    load = torch.zeros_like(duration[:, 0]).scatter_add(1, machine.clamp_min(0).flatten(1), duration.flatten(1))
    bound = torch.maximum(work_left[..., 0].amax(-1), load.amax(-1)).clamp_min(1)
    return {
        "lengths": lengths,
        "duration_at": durations.flatten(1),
        "machine_at": machines.flatten(1),
        "work_left_at": work_left.flatten(1),
        "machine_load": load,
        "bound": bound.float(),
    }


def _flat(state: JSSPState, job: Tensor, place: Tensor) -> Tensor:
    """Return the index of places in jobs in the tables of ``jobs * (machines + 1)``."""
    return torch.add(place, job, alpha=state.machine_ready.shape[-1] + 1)


def _next_flat(state: JSSPState) -> Int64[Tensor, "batch rollouts jobs"]:
    jobs = torch.arange(state.job_ready.shape[-1], device=state.job_ready.device)
    return _flat(state, jobs, state.next_operation)
