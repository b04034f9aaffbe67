"""Parts from outside of the package: a problem, a solver, a search, an algorithm or a policy under a name of its own.

A module of yours calls `register` when it is imported. It is imported by ``--import MODULE`` on the command line, by
yourself in Python, or, where its package is installed, because the package names it in its own pyproject.toml:

    [project.entry-points.ncogym]
    my-parts = "my_package.my_module"

From then on the part is what a built-in one is, everywhere. What is merely named in a file (a config, a policy's card)
is never imported.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import entry_points
from typing import Any

from ncogym.algorithms import ALGORITHMS, Algorithm
from ncogym.baselines import SOLVERS
from ncogym.envs import PROBLEMS
from ncogym.errors import ArgumentError, NcogymWarning
from ncogym.policies import POLICIES, Policy
from ncogym.problem import Problem
from ncogym.search import SEARCHES, Search

GROUP = "ncogym"  # of entry points


def register(name: str, part: type) -> None:
    """Take a part in under a name.

    Args:
        name: of the part, on the command line and in tables.
        part: a subclass of `ncogym.problem.Problem` (whose own ``name`` this must be), `ncogym.policies.Policy`,
            `ncogym.algorithms.Algorithm` or `ncogym.search.Search`; or another class whose instances, made without
            arguments, are solvers (`ncogym.solver.Solver`).

    Raises:
        ArgumentError: it is none of these, or the name is another part's.

    Example:
        >>> from ncogym.plugins import register
        >>> from ncogym.search import SEARCHES, Sampling
        >>> class Twice(Sampling):
        ...     name = "twice"
        ...     def __init__(self, policy):
        ...         super().__init__(policy, samples=2)
        >>> register("twice", Twice)
        >>> SEARCHES.pop("twice").__name__
        'Twice'
    """
    kind, table = _table(part)
    if kind == "problem" and part.name != name:  # type: ignore[attr-defined]
        raise ArgumentError(f"register: {name!r} is not allowed; the problem calls itself {part.name!r}")  # type: ignore[attr-defined]
    taken = [t for t in ((SEARCHES, SOLVERS) if kind in ("search", "solver") else (table,)) if name in t]
    if taken and taken[0][name] is not part:
        raise ArgumentError(f"register: {name!r} is not allowed; it is the name of another {kind}")
    if kind in ("search", "solver") and (not name or "+" in name or ":" in name or "," in name):
        raise ArgumentError(f"register: {name!r} is not allowed; a solver's name has no + : or comma")
    table[name] = part


def _table(part: Any) -> tuple[str, dict[str, Any]]:
    kinds: tuple[tuple[str, type, dict[str, Any]], ...] = (
        ("problem", Problem, PROBLEMS),
        ("policy", Policy, POLICIES),
        ("algorithm", Algorithm, ALGORITHMS),
        ("search", Search, SEARCHES),
    )
    if isinstance(part, type):
        for kind, base, table in kinds:
            if issubclass(part, base):
                return kind, table
        if "name" in vars(part) and callable(part.__dict__.get("__call__") or getattr(part, "__call__", None)):  # noqa: B004
            return "solver", SOLVERS
    allowed = "Problem, Policy, Algorithm or Search, or a class of solvers"
    raise ArgumentError(f"register: {part!r} is not allowed; it must be a subclass of {allowed}")


def load_installed() -> None:
    """Import the modules that installed packages name.

    Warns:
        NcogymWarning: one cannot be imported; it is left out.
    """
    for entry in entry_points(group=GROUP):
        try:
            importlib.import_module(entry.module)
        except Exception as error:  # noqa: BLE001 - a stranger's package must not end a command
            text = " ".join(str(error).split())
            line = f"{entry.name}: {entry.module} cannot be imported ({type(error).__name__}: {text})"
            warnings.warn(f"{line}; it is left out", NcogymWarning, stacklevel=2)
