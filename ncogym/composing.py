"""Solvers by their names on the command line, composed of what the classes say of themselves, and their policies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ncogym.auto import AUTO, Auto
from ncogym.baselines import SOLVERS
from ncogym.errors import ArgumentError, UnsupportedProblem
from ncogym.policies import Conditioned, Latent, Policy
from ncogym.policies.decoding import Sample
from ncogym.pretrained import Pretrained, find_policy, load_policy
from ncogym.problem import Problem
from ncogym.search import SEARCHES, Compose, GreedySearch, MultiStart, Search
from ncogym.solver import Improver, Solver

SAMPLED = {"multistart", "sampling"}  # parts that together are one search: samples from each start


def solvers() -> dict[str, Callable[..., Any]]:
    """Return all that a solver may be composed of, by name: searches, then baselines."""
    return SEARCHES | SOLVERS


def _kind(name: str) -> type:
    """Return the class of a part, which says what it is."""
    made = solvers()[name]
    kind: Any = made.func if isinstance(made, functools.partial) else made
    return cast(type, kind)


def _wraps(name: str) -> bool:
    """Say whether a part runs the solver that stands before it."""
    kind = _kind(name)
    return issubclass(kind, Search) and kind.wraps


def _goes_on(name: str) -> bool:
    """Say whether a part goes on from solutions; called alone it makes a start of its own."""
    return Improver in _kind(name).__mro__


def _follows(name: str) -> bool:
    """Say whether a part builds nothing: a greedy rollout stands before it where nothing does."""
    return _wraps(name) or (_goes_on(name) and cast(type[Improver], _kind(name)).brief)


def _policies(name: str) -> tuple[type[Policy], ...]:
    """Return the classes of policies that a part reads; none of one that takes those without conditions."""
    kind = _kind(name)
    return kind.policies if issubclass(kind, Search) else ()


def needs_policy(name: str) -> bool:
    """Return whether the solver of that name uses a policy: all do but baselines and what is composed of them alone."""
    parts = name.split("+")
    if name == AUTO or any(part not in solvers() for part in parts):
        return True
    return name not in SOLVERS and (any(p not in SOLVERS and not _wraps(p) for p in parts) or not _built(parts))


def _built(parts: list[str]) -> list[str]:
    """Return what builds the first solutions: what neither wraps nor improves what stands before it."""
    return [part for place, part in enumerate(parts) if not _follows(part) and not (place and _goes_on(part))]


def classes(name: str) -> tuple[type[Policy], ...]:
    """Return the classes of conditioned policies that the solver of that name reads; none where it takes plain ones."""
    return next((kinds for part in name.split("+") if part in SEARCHES and (kinds := _policies(part))), ())


def _check_takes(name: str, policy: Policy) -> None:
    """Refuse a policy that a search of that solver cannot read."""
    kind = type(policy).__name__
    for part in [part for part in name.split("+") if part in SEARCHES and not _wraps(part)] or [name]:
        kinds = _policies(part) if part in SEARCHES else ()
        if isinstance(policy, kinds) if kinds else not isinstance(policy, Conditioned):
            continue
        allowed = " or ".join(each.__name__ for each in kinds) or "one without conditions"
        able = ", ".join(each for each in SEARCHES if _policies(each) and isinstance(policy, _policies(each)))
        raise ArgumentError(
            f"solver: {part} cannot use a policy of class {kind}; it takes {allowed}"
            + (f" ({kind} is for {able})" if able else "")
        )


def condition_of(policy: Policy) -> Tensor | None:
    """Return a condition that a policy may act under, or None where it takes none."""
    return policy.draw(1, torch.Generator()) if isinstance(policy, Latent) else policy.everyone


def make_solver(name: str, policy: Policy | None = None) -> Solver:
    """Build a solver by its command-line name.

    Args:
        name: ``auto``; a baseline (`ncogym.baselines.SOLVERS`); or parts composed with ``+``. The first part, a search
            or a baseline, says how solutions are built (also ``multistart+sampling``). The others follow in their
            order: ``symmetry`` wraps what stands before it, ``two-opt`` and other improvers go on from what was
            found, under one budget (`ncogym.search.Compose`). ``multistart+symmetry+two-opt`` improves the best of all
            images, ``multistart+two-opt+symmetry`` the best of each.
        policy: what the searches use.

    Example:
        >>> import torch
        >>> from ncogym.envs import build_task
        >>> from ncogym.composing import make_solver
        >>> env = build_task("tsp", num_nodes=8)
        >>> solver = make_solver("nearest-neighbour+two-opt")
        >>> found = solver(env, env.seeded(2, seed=0), None, torch.Generator().manual_seed(0))
        >>> [(solution.solver, solution.feasible) for solution in found]
        [('nearest-neighbour+two-opt', True), ('nearest-neighbour+two-opt', True)]

    Raises:
        ArgumentError: a part is unknown, the parts do not compose, a search has no policy, or it cannot use that one.
    """
    if name == AUTO:
        if policy is None:
            raise ArgumentError(f"solver: {name!r} is a search and needs a policy")
        _check_takes(name, policy)
        return Auto(policy)
    parts, table = name.split("+"), solvers()
    for part in parts:
        if part not in table:
            allowed = ", ".join([AUTO, *table])
            raise ArgumentError(f"solver: {part!r} is not known; allowed are {allowed}, composed with +")
    if name in SOLVERS:
        return SOLVERS[name]()
    built = _built(parts)
    if len(set(parts)) < len(parts) or not (len(built) < 2 or set(built) == SAMPLED):
        followers = sorted(filter(_follows, table), key=lambda part: not _wraps(part))
        allowed = ", ".join([*followers, *(part for part in table if _goes_on(part) and not _follows(part))])
        raise ArgumentError(f"solver: {name!r} does not compose; after what builds solutions may come {allowed}")
    if policy is None and needs_policy(name):
        raise ArgumentError(f"solver: {name!r} is a search and needs a policy")
    if policy is not None and needs_policy(name):
        _check_takes(name, policy)
    reads: Any = policy  # None where nothing below reads it

    def make(part: str) -> Any:
        return table[part]() if part in SOLVERS else table[part](reads)

    if set(built) == SAMPLED:
        solver: Any = MultiStart(reads, Sample())
    else:
        solver = make(built[0]) if built else GreedySearch(reads)
    for part in parts:
        if _wraps(part):
            solver = table[part](solver)
        elif part not in built:
            solver = Compose(*(solver.stages if isinstance(solver, Compose) else (solver,)), make(part))
    return cast(Solver, solver)


def check_reads(pretrained: Pretrained, env: Problem) -> None:
    """Refuse a policy that was trained on another problem.

    Raises:
        UnsupportedProblem: the problem in the policy's card is not that of ``env``.
    """
    trained_on = pretrained.card["env"]["name"]
    if trained_on != env.name:
        raise UnsupportedProblem(
            f"policy {pretrained.name}: it was trained on {trained_on} and cannot solve {env.name}"
        )


def choose_policy(name_or_path: str | None, env: Problem, size: int, solver: str = AUTO) -> Pretrained:
    """Load the named policy, or the shipped one that the solver can use and that suits problem and size best.

    Raises:
        UnsupportedProblem: no shipped policy solves the problem, or the named one was trained on another.
    """
    kinds = tuple(kind.__name__ for kind in classes(solver))
    chosen = name_or_path or find_policy(env.name, size, kinds or None)
    if chosen is None:
        ships, other = (f"no {' or '.join(kinds)}", "another --solver") if kinds else ("none", "a --solver without one")
        raise UnsupportedProblem(f"policy: {ships} ships for {env.name}; name one with --policy, or {other}")
    pretrained = load_policy(chosen)
    check_reads(pretrained, env)
    return pretrained
