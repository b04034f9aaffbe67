"""Neural combinatorial optimisation: environments, policies, training, search and honest baselines.

Nothing is imported before it is asked for, so ``import ncogym`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker reads; at run time `__getattr__` brings the same names
    from ncogym import baselines, envs, errors, laws, search
    from ncogym.envs import make
    from ncogym.evaluation import evaluate
    from ncogym.pretrained import load_policy
    from ncogym.solving import solve

__version__ = "0.1.0"

__all__ = ["baselines", "envs", "errors", "evaluate", "laws", "load_policy", "make", "search", "solve"]

_HOME = {
    "evaluate": "ncogym.evaluation",
    "load_policy": "ncogym.pretrained",
    "make": "ncogym.envs",
    "solve": "ncogym.solving",
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
