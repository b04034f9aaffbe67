"""What the files of problems share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int64
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.problem import ReferenceSet


def pinned(sets: Iterable[tuple[str, ReferenceSet]], digests: str) -> dict[str, ReferenceSet]:
    """Return sets by name, each with its ``sha256``.

    Args:
        sets: names and sets.
        digests: what `ReferenceSet.sha256` is of each, in order, with white space between.
    """
    return {name: entry._replace(sha256=digest) for (name, entry), digest in zip(sets, digests.split(), strict=True)}


def as_int64(actions: Tensor) -> Int64[Tensor, "*shape"]:
    """Return actions as the referees read them: whole numbers of any type.

    Raises:
        ArgumentError: they are no whole numbers by their type, as 2.0 is none.
    """
    if actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool:
        raise ArgumentError(f"actions: {actions.dtype} is not allowed; they must be whole numbers, as torch.int64")
    return actions.long()
