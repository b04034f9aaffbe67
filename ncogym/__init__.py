"""Neural combinatorial optimisation: environments, policies, training, search and honest baselines.

Nothing is imported before it is asked for, so ``import ncogym`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker reads; at run time `__getattr__` brings the same names
    from ncogym import algorithms, baselines, envs, errors, laws, models, policies, rollout, search, training
    from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
    from ncogym.composing import make_solver
    from ncogym.distribution import Distribution
    from ncogym.envs import make
    from ncogym.evaluation import evaluate
    from ncogym.learning import train
    from ncogym.plugins import register
    from ncogym.pretrained import load_policy, save_policy
    from ncogym.problem import Problem
    from ncogym.sets import open_set
    from ncogym.solution import Solution
    from ncogym.solving import Solved, solve
    from ncogym.task import Task

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Distribution",
    "MaxRollouts",
    "MaxSeconds",
    "NoImprovement",
    "Problem",
    "Solution",
    "Solved",
    "Task",
    "algorithms",
    "baselines",
    "envs",
    "errors",
    "evaluate",
    "laws",
    "load_policy",
    "make",
    "make_solver",
    "models",
    "open_set",
    "policies",
    "register",
    "rollout",
    "save_policy",
    "search",
    "solve",
    "train",
    "training",
]

_HOME = {
    "Budget": "ncogym.budget",
    "Distribution": "ncogym.distribution",
    "MaxRollouts": "ncogym.budget",
    "MaxSeconds": "ncogym.budget",
    "NoImprovement": "ncogym.budget",
    "Problem": "ncogym.problem",
    "Solution": "ncogym.solution",
    "Solved": "ncogym.solving",
    "Task": "ncogym.task",
    "evaluate": "ncogym.evaluation",
    "load_policy": "ncogym.pretrained",
    "make": "ncogym.envs",
    "make_solver": "ncogym.composing",
    "open_set": "ncogym.sets",
    "register": "ncogym.plugins",
    "save_policy": "ncogym.pretrained",
    "solve": "ncogym.solving",
    "train": "ncogym.learning",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use and keep it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "errors":  # which needs no tensors
        import_module(f"{__name__}._light").import_tensordict()
    value = getattr(import_module(_HOME[name]), name) if name in _HOME else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, those not yet imported too."""
    return sorted({*globals(), *__all__})
