"""References: for each instance of a set a solution by a strong solver, which gaps are measured to.

They are computed instance by instance, side by side in several processes if wanted, and each is remembered on disk as
soon as it is there, so that a kill costs what was under way. What is drawn for an instance follows from that instance
alone, so who computes what in which order, and what was remembered, changes nothing. References of the named sets ship
with the package. No file is trusted: each solution that is read is scored and checked anew by the referee.

Where several processes were started (`ncogym.distributed`), each takes its share of the instances and all of them get
all references, so each of them must call.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64, Integer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tensordict import TensorDict
from torch import Tensor

from ncogym import _resources
from ncogym.budget import Budget
from ncogym.distributed import gather, share
from ncogym.errors import ArgumentError, InvalidSolution, NoSolutionFound, SolverError
from ncogym.journal import append_line, mend, read_lines
from ncogym.problem import Problem
from ncogym.solution import instances_sha256, stacked
from ncogym.solver import Solver
from ncogym.workers import interrupts_held

SHIPPED = Path(__file__).parent / "data" / "references"
HANDED_SECONDS = 0.5  # of work that a worker process is handed at a time, where instances are quick
TOLERANCE = 1e-9  # relative: a sum of float64 may be taken in another order
UNTOLD = ("progress_bar", "workers", "reads", "can")  # attributes of a solver that change nothing of what it finds


class References(NamedTuple):
    """What the instances of a set are compared with, in their order.

    Attributes:
        name: in tables, such as "cp-sat", "hgs (shipped)" or "best known".
        objective: NaN where nothing is known.
        proven: whether nothing is better, as far as is known.
        actions: int64 ``[steps]`` each; None where no more than the objective is known.
    """

    name: str
    objective: Float64[Tensor, " count"]
    proven: tuple[bool, ...]
    actions: tuple[Tensor | None, ...]


class _Found(NamedTuple):
    """A reference in plain numbers; with the instance's fingerprint, these are the fields of a line in the cache."""

    objective: float
    proven: bool
    actions: list[int]
    seconds: float


class _Task(NamedTuple):
    """An instance of batch size ``[1]``, its index in the set and the seed of what is drawn for it."""

    row: int
    instance: TensorDict
    seed: int


_Solved = Iterator[tuple[int, _Found]]


def cache_folder() -> Path:
    """Return where references are remembered in the user's cache."""
    return _resources.cache_folder() / "references"


def compute(
    env: Problem,
    blocks: Sequence[TensorDict],
    solver: Solver,
    budget: Budget | None = None,
    *,
    cache: Path | None = None,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> References:
    """Return the solutions that a strong solver finds, or has found before.

    The cache has a file for each problem with its arguments, which may say what actions mean, solver (its settings as
    far as public attributes tell them, the weights of its policy included) and budget, with a line for each instance.
    Several calls may use it at the same time. A solution that comes too late for the budget counts all the same.

    Args:
        env: the problem; scores and checks.
        blocks: all instances of the set in order, each block of batch size ``[n]``.
        solver: called with one instance at a time.
        budget: for each instance, as in `Solver`.
        cache: folder of the files, made if need be; None remembers nothing.
        workers: processes that solve instances side by side, each on one thread; 1 solves in this process.
        progress: told, after each instance, the solver's name, how many are done and how many this process shall do;
            first of all of those that were remembered.

    Raises:
        ArgumentError: a line of the cache is broken, or its solution is not what it says; the solver cannot be sent to
            worker processes; ``workers`` is below 1.
        InvalidSolution: a solution of the solver breaks a constraint, so that it is no reference.
        NoSolutionFound: the solver finds none for an instance.
        SolverError: a worker process died.
        KeyboardInterrupt: the budget was cancelled; what was done before is in the cache.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ArgumentError(f"workers: {workers} is not allowed; it must be a whole number of at least 1")
    budget = budget or Budget()
    instances = [one for block in blocks for one in block.split(1)]
    blocks = [block.cpu() for block in blocks]
    names = [instances_sha256(one) for block in blocks for one in block.split(1)]
    path = None if cache is None else Path(cache) / _file_name(env, solver, budget)
    known = {} if path is None else _remembered(path, env, blocks, names)
    own = [row for rows in share(len(names), 1) for row in rows]
    missing = {names[row]: row for row in reversed(own) if names[row] not in known}
    tasks = [_Task(row, instances[row], int(name[:15], 16)) for name, row in reversed(missing.items())]
    done = len(own) - len(tasks)
    if progress is not None and done:
        progress(solver.name, done, len(own))
    if tasks and path is not None:
        mend(path)
    workers = min(workers, len(tasks))
    solved = _in_workers(env, solver, budget, tasks, workers) if workers > 1 else _here(env, solver, budget, tasks)
    for row, found in solved:
        if path is not None:
            append_line(path, {"instance": names[row], **found._asdict()})
        known[names[row]] = found
        done += 1
        if progress is not None:
            progress(solver.name, done, len(own))
    everybodys: dict[str, _Found] = {}
    for part in gather({names[row]: known[names[row]] for row in own}):
        everybodys |= part
    all_found = [everybodys[name] for name in names]
    actions = tuple(torch.tensor(found.actions, dtype=torch.int64) for found in all_found)
    objective, broken = _scored(env, blocks, actions)
    for row, reason in broken.items():
        raise InvalidSolution(f"reference by {solver.name}, instance {row}: {reason}")
    return References(solver.name, objective, tuple(found.proven for found in all_found), actions)


def shipped(env: Problem, set_name: str, blocks: Sequence[TensorDict]) -> References | None:
    """Return the references of a named set's first instances that ship with the package, or None where none do.

    Args:
        env: the problem; scores and checks.
        set_name: the set's name; what follows a colon, the count, does not matter.
        blocks: its first instances, in order.

    Raises:
        InvalidSolution: the file is broken, or these are other instances than those that it is of.
    """
    path, count = SHIPPED / f"{set_name.partition(':')[0]}.safetensors", sum(len(block) for block in blocks)
    if path.parent != SHIPPED or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            actions, told, proven = (file.get_tensor(name) for name in ("actions", "objective", "proven"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidSolution(f"{path}: the references cannot be read ({error}); install ncogym again") from error
    if len(actions) < count:
        return None
    blocks = [block.cpu() for block in blocks]
    solutions = tuple(actions[:count].long().unbind())
    objective, broken = _scored(env, blocks, solutions)
    for row, (found, said) in enumerate(zip(objective.tolist(), told.tolist(), strict=False)):
        reason = broken.get(row) or _differs(found, said)
        if reason:
            raise InvalidSolution(f"{path}: it is broken or of other instances than these (instance {row}: {reason})")
    if len(actions) == count and _fingerprint(blocks) != about["instances_sha256"]:
        raise InvalidSolution(f"{path}: it is of other instances than these, whose objectives are the same")
    return References(f"{about['solver']} (shipped)", objective, tuple(proven[:count].tolist()), solutions)


def ship(path: Path, env: Any, blocks: Sequence[TensorDict], references: References, about: dict[str, Any]) -> None:
    """Write references to a file that `shipped` reads: one row of actions for each instance, in as few bits as hold it.

    Args:
        path: of the file, the set's name with the suffix ".safetensors"; it is replaced.
        env: the problem.
        blocks: the instances, in order.
        references: of them.
        about: how they came about, which becomes the file's metadata; "solver" must be in it.

    Raises:
        ArgumentError: an instance has no solution.
    """
    solutions = [actions for actions in references.actions if actions is not None]
    if len(solutions) < len(references.actions):
        row = next(row for row, actions in enumerate(references.actions) if actions is None)
        raise ArgumentError(f"references: instance {row} has no solution; all must have one to be shipped")
    tensors = {
        "actions": in_one(env, blocks, solutions),
        "objective": references.objective,
        "proven": torch.tensor(references.proven),
    }
    told = json.dumps({**about, "instances_sha256": _fingerprint(blocks)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, {"about": told}))


# ---------------------------------------------------------------------- solutions in files


def in_one(env: Problem, blocks: Sequence[TensorDict], solutions: Sequence[Tensor]) -> Integer[Tensor, "count steps"]:
    """Return solutions as one tensor: a padded row of actions for each instance, in as few bits as hold them.

    Args:
        env: the problem.
        blocks: the instances, in order.
        solutions: int64 ``[steps]`` of each.
    """
    steps = max(map(len, solutions))
    rest = iter(solutions)
    actions = torch.cat([stacked(env, block, list(itertools.islice(rest, len(block))), steps) for block in blocks])
    dtype = next(kind for kind in (torch.uint8, torch.int16, torch.int32) if actions.max() <= torch.iinfo(kind).max)
    return actions.to(dtype)


def check_solutions(
    env: Problem,
    instances: TensorDict,
    actions: Int64[Tensor, "batch steps"],
    said: Float64[Tensor, " batch"],
    where: object,
) -> None:
    """Have the referee check and score the solutions that a file holds, all at once.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, steps]``.
        said: their objectives, as the file has them.
        where: the file, for the words.

    Raises:
        InvalidSolution: a solution breaks a constraint, or has another objective; the words name the first such one.
    """
    broken = env.violations(instances, actions[:, None])
    if broken:
        first = min(broken, key=lambda each: each.row)
        raise InvalidSolution(f"{where}: instance {first.row}: {first.reason}")
    found = env.objective(instances, actions[:, None])[:, 0]
    same = torch.isclose(found, said, rtol=TOLERANCE, atol=0.0)
    if not same.all():
        row = int(same.int().argmin())
        raise InvalidSolution(f"{where}: instance {row}: {_differs(float(found[row]), float(said[row]))}")


# ---------------------------------------------------------------------- the cache


def _file_name(env: Problem, solver: Solver, budget: Budget) -> str:
    limits = _limits(budget)
    about = json.dumps([env.name, env.arguments(), solver.name, told_settings(solver), limits], sort_keys=True)
    words = "-".join([env.name, solver.name, *(f"{name}{value:g}" for name, value in limits.items())])
    readable = re.sub(r"[^\w.+-]", "_", words)
    return f"{readable}-{hashlib.sha256(about.encode()).hexdigest()[:10]}.jsonl"


def _limits(budget: Budget) -> dict[str, float]:
    """Return the limits that a budget sets."""
    limits = {name: float(getattr(budget, name)) for name in ("seconds", "rollouts", "patience")}
    return {name: value for name, value in limits.items() if value < math.inf}


def told_settings(thing: Any) -> Any:
    """Return in plain values the settings of a solver, or of what it is made of, as far as public attributes tell them.

    Caches are named after them, so that what another setting makes is not taken for it.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, torch.nn.Module):
        return [type(thing).__name__, instances_sha256(TensorDict(dict(thing.state_dict())))]
    if isinstance(thing, tuple | list):
        return [told_settings(each) for each in thing]
    if isinstance(thing, dict):
        return {str(name): told_settings(value) for name, value in thing.items()}
    if isinstance(thing, Solver) or is_dataclass(thing):
        public = {name: value for name, value in vars(thing).items() if name[0] != "_" and name not in UNTOLD}
        return [type(thing).__name__, {name: told_settings(value) for name, value in public.items()}]
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _remembered(path: Path, env: Problem, blocks: Sequence[TensorDict], names: Sequence[str]) -> dict[str, _Found]:
    """Read the cache; what it says of these instances is scored and checked."""
    lines: dict[str, tuple[int, _Found]] = {}

    def refuse(number: int, reason: object) -> ArgumentError:
        return ArgumentError(f"{path}: line {number} is broken ({reason}); delete it to compute it again")

    for number, said in read_lines(path):
        try:
            found = _Found(*(said[name] for name in _Found._fields))
            if not all(type(action) is int and 0 <= action < 2**31 for action in found.actions):
                raise ValueError("actions must be whole numbers from 0")
            if type(found.objective) is not float or type(found.proven) is not bool:
                raise ValueError("objective must be a number with a point, and proven true or false")
            lines.setdefault(said["instance"], (number, found))
        except (KeyError, TypeError, ValueError) as error:
            raise refuse(number, error) from error
    found_rows = [lines.get(name) for name in names]
    actions = [None if line is None else torch.tensor(line[1].actions, dtype=torch.int64) for line in found_rows]
    objective, broken = _scored(env, blocks, actions)
    for row, line in enumerate(found_rows):
        if line is not None:
            reason = broken.get(row) or _differs(float(objective[row]), line[1].objective)
            if reason:
                raise refuse(line[0], reason)
    return {name: line[1] for name, line in zip(names, found_rows, strict=True) if line is not None}


def _differs(found: float, said: float) -> str | None:
    if math.isclose(found, said, rel_tol=TOLERANCE):
        return None
    return f"its objective is said to be {said:.15g}, its actions have {found:.15g}"


def _scored(
    env: Problem, blocks: Sequence[TensorDict], solutions: Sequence[Tensor | None]
) -> tuple[Float64[Tensor, " count"], dict[int, str]]:
    """Return the objective of each instance's solution, NaN where it has none or a broken one, and what is broken."""
    objective = torch.full((len(solutions),), math.nan, dtype=torch.float64)
    broken: dict[int, str] = {}
    begin = 0
    for block in blocks:
        lengths: dict[int, list[int]] = {}
        for row, actions in enumerate(solutions[begin : begin + len(block)]):
            if actions is not None:
                lengths.setdefault(len(actions), []).append(row)
        for rows in lengths.values():
            stacked = torch.stack([solutions[begin + row] for row in rows])[:, None]  # type: ignore[misc]
            for each in env.violations(block[rows], stacked):
                broken.setdefault(begin + rows[each.row], each.reason)
            sound = [place for place, row in enumerate(rows) if begin + row not in broken]
            if sound:
                kept = [rows[place] for place in sound]
                objective[[begin + row for row in kept]] = env.objective(block[kept], stacked[sound])[:, 0]
        begin += len(block)
    return objective, broken


def _fingerprint(blocks: Sequence[TensorDict]) -> str:
    digests = [instances_sha256(block) for block in blocks]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


# ---------------------------------------------------------------------- the work


def _solved(env: Problem, solver: Solver, budget: Budget, task: _Task) -> _Found:
    """Solve one instance; a call that was cancelled had less than its budget, so its solution is not let through."""
    about = f"reference by {solver.name}, instance {task.row}"
    try:
        solutions = solver(env, task.instance, budget, torch.Generator().manual_seed(task.seed))
    except NoSolutionFound as error:
        raise NoSolutionFound(f"{about}: {error}") from error
    finally:
        if budget.cancel.is_set():
            raise KeyboardInterrupt
    if len(solutions) != 1:
        raise SolverError(f"{about}: {len(solutions)} solutions came back for one instance")
    (solution,) = solutions
    if not solution.feasible:
        raise InvalidSolution(f"{about}: {solution.violation}")
    return _Found(solution.objective, solution.proven, solution.actions.tolist(), solution.seconds)


def _here(env: Problem, solver: Solver, budget: Budget, tasks: Sequence[_Task]) -> _Solved:
    for task in tasks:
        yield task.row, _solved(env, solver, budget, task)


def _in_workers(env: Problem, solver: Solver, budget: Budget, tasks: Sequence[_Task], workers: int) -> _Solved:
    """Hand out a few tasks at a time to spawned processes, which share the wish to cancel through an event."""
    context = multiprocessing.get_context("spawn")
    cancel = context.Event()
    try:
        # plain bytes, since tensors that are sent as such move into shared memory, here as well
        work = pickle.dumps((env, solver, _limits(budget)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ArgumentError(
            f"workers: {workers} is not allowed with {solver.name}, which cannot be sent to another process ({error})"
        ) from error
    begin, size, running = 0, 1, set[Future[list[tuple[int, _Found]]]]()
    # what is sent at the start must be little: should the worker die, nobody would ever take it out of the pipe
    pool = ProcessPoolExecutor(workers, context, _begin, (cancel,))
    try:
        while begin < len(tasks) or running:
            while begin < len(tasks) and len(running) <= workers and not budget.cancel.is_set():
                some = [task._replace(instance=task.instance.cpu()) for task in tasks[begin : begin + size]]
                with interrupts_held():  # it may start a worker
                    running.add(pool.submit(_work, work, pickle.dumps(some)))
                begin += size
            ended, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
            if budget.cancel.is_set():
                cancel.set()
            for future in ended:
                batch = future.result()
                yield from batch
                seconds = sum(found.seconds for _, found in batch)
                size = max(1, min(64, int(HANDED_SECONDS * len(batch) / max(seconds, 1e-3))))
            if budget.cancel.is_set() and not running:
                raise KeyboardInterrupt
    except BrokenProcessPool as error:
        hint = 'a script that uses workers needs the guard `if __name__ == "__main__":`'
        raise SolverError(f"{solver.name}: a worker process died; {hint}") from error
    finally:
        cancel.set()
        pool.shutdown(cancel_futures=True)


_cancel: Any = None  # the event by which the parent of this worker process cancels


def _begin(cancel: Any) -> None:
    """Begin a worker process."""
    global _cancel  # it cannot be sent with the work
    _cancel = cancel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which passes it on
    torch.set_num_threads(1)
    end_with_parent()


def end_with_parent() -> None:
    """Let this worker process end once its parent is gone, killed perhaps; else it would wait for work for ever."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@functools.lru_cache(maxsize=1)
def _unpacked(work: bytes) -> tuple[Problem, Solver, Budget]:
    env, solver, limits = pickle.loads(work)  # noqa: S301 - from the parent's memory
    return env, solver, Budget(**limits, cancel=_cancel)


def _work(work: bytes, some: bytes) -> list[tuple[int, _Found]]:
    """Solve some of the tasks, in a worker process; once cancelled, return those that were finished before."""
    done: list[tuple[int, _Found]] = []
    with suppress(KeyboardInterrupt):
        for task in pickle.loads(some):  # noqa: S301 - from the parent's memory
            found = _solved(*_unpacked(work), task)
            done.append((task.row, found))
    return done
