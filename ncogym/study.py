"""From names to a comparison: sets of instances, solvers, budgets and references by their names on the command line."""

from __future__ import annotations

import os
import platform
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from ncogym import references
from ncogym._resources import git_commit, machine, versions
from ncogym.baselines.base import Baseline, OutsideSolver
from ncogym.budget import Budget
from ncogym.composing import choose_policy, classes, make_solver, needs_policy
from ncogym.errors import ArgumentError, NcogymWarning, UnsupportedFeatures, UnsupportedProblem
from ncogym.evaluation import Evaluation, Tick, evaluate, seeded_instances
from ncogym.policies import Policy
from ncogym.pretrained import Pretrained
from ncogym.problem import Problem
from ncogym.references import References
from ncogym.sets import InstanceSet, open_set, unnamed
from ncogym.solution import Solutions, instances_sha256
from ncogym.solver import Solver
from ncogym.task import Task


@dataclass(frozen=True)
class Entry:
    """A solver as it is named: ``SOLVER``, ``SOLVER@POLICY``, or either after ``LABEL=``.

    Attributes:
        label: its name in tables.
        solver: its name for `ncogym.composing.make_solver`.
        policy: name or folder of its own policy, or None.
    """

    label: str
    solver: str
    policy: str | None

    @classmethod
    def read(cls, text: str) -> Entry:
        """Take a name apart."""
        label, labelled, rest = text.partition("=")
        solver, _, policy = (rest if labelled else text).partition("@")
        return cls((label if labelled else text).strip(), solver.strip(), policy.strip() or None)


@dataclass
class Unable:
    """Stands for a solver that cannot take a set: its cells in tables are dashes.

    Attributes:
        name: the solver's label.
        error: why, as it was raised.
    """

    name: str
    error: UnsupportedProblem | UnsupportedFeatures

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        raise self.error


def study(
    env: Task | None,
    instances: Sequence[str | int],
    solvers: Sequence[str],
    budgets: Sequence[Budget],
    *,
    seed: int = 1234,
    policy: str | None = None,
    reference: str | None = None,
    reference_seconds: float | None = None,
    versus: str | None = None,
    threads: int = 1,
    workers: int | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    journals: Path | None = None,
    command: str = "",
    cancel: threading.Event | None = None,
    progress: Tick | None = None,
) -> list[Evaluation]:
    """Evaluate solvers on every set under every budget.

    All names are looked up, and what cannot go together is refused, before anything is solved. A solver that cannot
    take one of the sets has dashes there, which is said at the start; all else is as it would be without it.

    Args:
        env: of the instances that a number stands for; otherwise the problem that a set must be of, or None.
        instances: each a number of generated instances, or what `ncogym.sets.open_set` takes.
        solvers: names as `Entry` reads them.
        budgets: of each instance.
        seed: of generated instances, and of all that the solvers draw.
        policy: of the searches that name none; None takes the shipped one that suits best.
        reference: solver that makes the references; None takes the best known values of the set, else the solutions
            that ship for it, else there is none.
        reference_seconds: its budget; None takes the largest of ``budgets``.
        versus: label of the solver that the others are compared with.
        threads: of the policies, and of solvers that can use several.
        workers: processes for the references; None takes one for each core.
        device: where the policies run.
        batch_size: see `evaluate`.
        journals: folder for a journal of each evaluation, so that the same call goes on after a kill.
        command: that was typed, for the records.
        cancel: when set, all ends with what is done.
        progress: told of every batch and every reference.

    Returns:
        An evaluation for each set and budget, in this order; fewer after an interrupt.

    Raises:
        NcogymError: something that is named does not exist, or does not go together, or no solver can take any set.
    """
    cancel = cancel or threading.Event()
    entries = [Entry.read(text) for text in solvers]
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise ArgumentError(f"solvers: {','.join(labels)} is not allowed; it names a solver twice")
    if versus is not None and versus not in labels:
        raise ArgumentError(f"versus: {versus!r} is not allowed; it must be one of {', '.join(labels)}")
    at = _device(device)
    sets = [_open(text, env, seed) for text in instances]
    prepared = [_prepare(entries, each, policy, at, threads) for each in sets]
    _tell_unable([each.name for each in sets], [ready for ready, _ in prepared])
    if reference is not None:
        for each in sets:
            _without_bar(make_solver(reference), each.env, each.blocks)
    origin = _origin(command, at, threads)
    done: list[Evaluation] = []
    for each, (ready, policies) in zip(sets, prepared, strict=True):
        judged = _reference(each, reference, reference_seconds, budgets, workers, cancel, progress)
        weights = {name: weights_sha256(chosen.policy) for name, chosen in policies.items()}
        session = {
            **origin,
            "policies": {name: _trained(chosen) | {"sha256": weights[name]} for name, chosen in policies.items()},
            "settings": {name: told for name, solver in ready.items() if (told := _told(solver, each))},
        }
        settings = {"threads": threads, "device": device, "policies": weights}
        for budget in budgets:
            done.append(
                evaluate(
                    each.env,
                    replace(each, blocks=tuple(block.to(at) for block in each.blocks)),
                    ready,
                    budget=Budget(cancel=cancel) | budget,
                    reference=judged,
                    versus=versus,
                    seed=seed,
                    batch_size=batch_size,
                    progress=progress,
                    journal=None if journals is None else journals / f"{len(done):02d}.jsonl",
                    settings=settings,
                    session=session,
                )
            )
            if done[-1].interrupted:
                return done
    return done


def label(
    env: Task,
    count: int,
    seed: int,
    labeller: str,
    budget: Budget,
    *,
    workers: int | None = None,
    progress: Tick | None = None,
) -> InstanceSet:
    """Return the instances of a seed with a solution of each, which are the set's best known.

    They are kept in the user's cache as they are found, by problem and its arguments, labeller, budget and instance: a
    call that was cut off goes on, and a longer set begins with the labels of a shorter one.

    Args:
        env: the problem.
        count: instances.
        seed: of the instances.
        labeller: name of the solver.
        budget: of each instance.
        workers: processes that label side by side; None takes one for each core.
        progress: told of every label.

    Raises:
        KeyboardInterrupt: the budget was cancelled; what was done is kept.
        NcogymError: as `ncogym.references.compute` raises it, or the labeller is unknown or cannot take the problem.
    """
    drawn = _open(count, env, seed)
    found = _computed(drawn, labeller, budget, workers, progress)
    return replace(
        drawn,
        best_known=found.objective,
        proven=found.proven,
        actions=found.actions,
        best_known_name=found.name,
    )


def _open(text: str | int, env: Task | None, seed: int) -> InstanceSet:
    if not str(text).lstrip("-").isdigit():
        return open_set(str(text), getattr(env, "name", None))
    if env is None:
        raise ArgumentError(
            f"env: none is given, and {text} instances are of no problem; give --env NAME, or name a set"
        )
    count = int(text)
    drawn = seeded_instances(env, count, seed)
    told = ", ".join(f"{key} {value}" for key, value in env.arguments().items() if value is not None)
    return unnamed(env, drawn, f"{count} of seed {seed}, {told}", env.arguments().get("distribution"))


def _prepare(
    entries: Iterable[Entry], instances: InstanceSet, policy: str | None, at: torch.device, threads: int
) -> tuple[dict[str, Solver], dict[str, Pretrained]]:
    """Return the solvers by label, and the policies of those that have one."""
    env, loaded = instances.env, dict[Any, Pretrained]()
    ready: dict[str, Solver] = {}
    policies: dict[str, Pretrained] = {}
    for entry in entries:
        if entry.policy is not None and not needs_policy(entry.solver):
            raise ArgumentError(f"solvers: {entry.label} is not allowed; {entry.solver} uses no policy")
        try:
            chosen = None
            if needs_policy(entry.solver):
                named = entry.policy or policy
                key = named or classes(entry.solver)
                if key not in loaded:
                    loaded[key] = choose_policy(named, env, instances.size, entry.solver)
                chosen = loaded[key]
            solver: Any = make_solver(entry.solver, chosen.policy.to(at) if chosen else None)
            _without_bar(solver, env, instances.blocks)
        except (UnsupportedProblem, UnsupportedFeatures) as error:
            ready[entry.label] = Unable(entry.label, error)
            continue
        if chosen:
            policies[entry.label] = chosen
        if hasattr(solver, "threads"):
            solver.threads = threads
        ready[entry.label] = solver
    return ready, policies


def _tell_unable(sets: Sequence[str], prepared: Sequence[dict[str, Solver]]) -> None:
    """Say in a line each which solver cannot take which set; refuse a study in which none can take any."""
    unable = [(name, solver) for name, ready in zip(sets, prepared, strict=True) for solver in ready.values()]
    told = [(name, solver) for name, solver in unable if isinstance(solver, Unable)]
    if told and len(told) == len(unable):
        raise told[0][1].error
    for name, solver in told:
        warnings.warn(f"{solver.name} has no results on {name}: {solver.error}", NcogymWarning, stacklevel=3)


def weights_sha256(policy: Policy) -> str:
    """Return the fingerprint of a policy's weights that records and tables name: 16 hexadecimal digits."""
    return instances_sha256(TensorDict(dict(policy.state_dict())))[:16]


def _parts(solver: Any) -> Iterator[Any]:
    """Yield a solver and those that it is composed of."""
    yield solver
    for part in (*getattr(solver, "stages", ()), *([solver.inner] if hasattr(solver, "inner") else [])):
        yield from _parts(part)


def _told(solver: Solver, instances: InstanceSet) -> str:
    """Return what a solver and its parts are told that decides their results, in words; "" where nothing."""
    model = instances.env.model(instances.blocks[0][:1])
    if model is None:
        return ""
    return "; ".join(filter(None, [part.settings(model) for part in _parts(solver) if isinstance(part, Baseline)]))


def _without_bar(solver: Solver, env: Problem, blocks: Iterable[TensorDict]) -> None:
    """Refuse a problem that a classical solver cannot take, before anything is solved; one bar is for all."""
    for part in _parts(solver):
        if isinstance(part, Baseline):
            for block in blocks:
                part.model(env, block[:1])
        if isinstance(part, OutsideSolver):
            part.progress_bar = False


def _reference(
    instances: InstanceSet,
    solver: str | None,
    seconds: float | None,
    budgets: Sequence[Budget],
    workers: int | None,
    cancel: threading.Event,
    progress: Tick | None,
) -> References | None:
    if solver is None:
        if instances.best_known_name is not None:
            return None  # the evaluation takes the set's own
        return references.shipped(instances.env, instances.name, instances.blocks)
    if seconds is None:
        finite = [budget.seconds for budget in budgets if budget.seconds < torch.inf]
        seconds = max(finite, default=torch.inf)
    limits = Budget(seconds=seconds, cancel=cancel)
    return _computed(instances, solver, limits, workers, progress)


def _computed(
    instances: InstanceSet,
    solver: str,
    budget: Budget,
    workers: int | None,
    progress: Tick | None,
) -> References:
    """Return the solutions by a solver that is named, found side by side in processes: one for each core if None."""
    env, blocks = instances.env, instances.blocks
    chosen = choose_policy(None, env, instances.size, solver) if needs_policy(solver) else None
    made = make_solver(solver, chosen.policy if chosen else None)
    _without_bar(made, env, blocks)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = workers or (1 if needs_policy(solver) else cores)
    cache = references.cache_folder()
    return references.compute(env, blocks, made, budget, cache=cache, workers=count, progress=progress)


def _origin(command: str, at: torch.device, threads: int) -> dict[str, Any]:
    """Return what a reader of the numbers must know of this process."""
    return {
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": f"{machine()}, {platform.system()}",
        "device": torch.cuda.get_device_name(at) if at.type == "cuda" else at.type,
        "threads": threads,
        "versions": versions(),
    }


def _trained(policy: Pretrained) -> dict[str, Any]:
    """Return what a policy was trained on."""
    return {"name": policy.name, "env": policy.card["env"].get("arguments", {}), "sizes": policy.card["sizes"]}


def _device(name: str) -> torch.device:
    try:
        at = torch.device(name)
        torch.empty(0, device=at)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        said = str(error).splitlines()[0]
        raise ArgumentError(f"device: {name!r} is not allowed; it must be one that torch has here ({said})") from error
    return at
