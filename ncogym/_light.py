"""Import tensordict without torch's compiler, which takes longer than all the rest of a short command.

tensordict marks a few functions for the compiler while it is imported, by two functions of ``torch.compiler`` that
first import all of ``torch._dynamo``. Here they only take note meanwhile, and the compiler is told once it is imported
for its own sake (``torch.compile``), so that it knows then what it always knew.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


class _Later(MetaPathFinder):
    """Tells the compiler, as soon as it is imported, of the functions that it should have been told of before."""

    def __init__(self, functions: Sequence[Any]) -> None:
        self.functions = functions

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COMPILER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute: Callable[[ModuleType], None] = spec.loader.exec_module

            def told(module: ModuleType) -> None:
                execute(module)
                module.allow_in_graph(list(self.functions))

            spec.loader.exec_module = told  # type: ignore[method-assign]
        return spec


def import_tensordict() -> None:
    """Import tensordict, and leave the compiler for whoever needs it; where either is there already, do nothing."""
    if "tensordict" in sys.modules or COMPILER in sys.modules:
        return
    import torch.compiler as compiler

    noted: list[Any] = []

    def allow_in_graph(function: Any) -> Any:
        noted.extend(function if isinstance(function, list | tuple) else [function])
        return function

    def assume_constant_result(function: Any) -> Any:
        function._dynamo_marked_constant = True  # all that the compiler's own does
        return function

    before = compiler.allow_in_graph, compiler.assume_constant_result
    compiler.allow_in_graph, compiler.assume_constant_result = allow_in_graph, assume_constant_result
    try:
        import tensordict  # noqa: F401
    finally:
        compiler.allow_in_graph, compiler.assume_constant_result = before
    if COMPILER not in sys.modules:
        sys.meta_path.insert(0, _Later(noted))
