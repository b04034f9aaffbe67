"""How annotations are checked under pytest: the shapes and dtypes of tensors in every call, by beartype.

Other annotations are left to mypy, since tests of refusals pass wrong types on purpose.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations of ``function`` that name a tensor's shape."""
    annotations = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in annotations.items() if "Tensor, " in str(hint)}
    try:
        return beartype(function)
    finally:
        function.__annotations__ = annotations
