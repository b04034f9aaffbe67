"""Training as users call it: the run of `ncogym.training.run`, with solvers by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ncogym.composing import make_solver
from ncogym.task import Task
from ncogym.training.run import train as run


def train(env: Task, **settings: Any) -> Path:
    """Train a policy.

    Args:
        env: the problem and its distribution, as `ncogym.make` or `ncogym.envs.build_task` returns it.
        settings: those of `ncogym.training.run.train`: ``policy``, ``algorithm``, ``sizes``, ``max_steps``, ``output``
            and more.

    Returns:
        The folder of the run; its ``policy`` is what `ncogym.load_policy` loads.

    Raises:
        ArgumentError: a setting is not allowed; the words say which, its value, and what is.

    Example:
        >>> import tempfile, ncogym
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ncogym.train(ncogym.make("tsp", num_nodes=5), max_steps=1, nodes_per_batch=10, output=folder,
        ...                        validation=ncogym.training.run.ValidationSettings(instances=2, reference="two-opt"))
        ...     (run / "policy" / "card.json").is_file()
        True
    """
    return run(env, make_solver, **settings)
