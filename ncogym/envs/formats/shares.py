"""Demands in files as shares of the vehicle's capacity, which become whole amounts."""

from __future__ import annotations

import torch
from torch import Tensor

from ncogym.errors import InstanceError

MOST_UNITS = 1000  # that a capacity may have had of which a file has shares alone


def amounts(demand: Tensor, capacity: Tensor | None, column: bool) -> tuple[Tensor, Tensor]:
    """Return customers' demands and capacities in one unit, whole amounts where shares of a capacity stand for such.

    Shares are inexact: ten of a tenth, in float32, would not fit.

    Args:
        demand: ``[batch, customers]``, amounts or shares of the capacity.
        capacity: ``[batch]``, or None, which only shares can do without.
        column: whether the file has the capacities in a column, as only RL4CO has them, beside shares.
    """
    are_shares = bool((demand <= 1).all() and (demand != demand.round()).any())
    if capacity is None:
        if not are_shares:
            raise InstanceError(
                "array capacity is missing; without it demands must be shares of the capacity, at most 1"
            )
        found = (each for each in range(1, MOST_UNITS + 1) if _are_whole(demand * each, each))
        units = next(found, None)  # the fewest of which all shares are whole
        whole = demand if units is None else (demand * units).round()
        return whole, torch.full_like(demand[:, 0], units or 1)
    amounts = demand * capacity[:, None].to(demand)
    if not (are_shares and (capacity > 1).any() and _are_whole(amounts, capacity.max())):
        return demand, capacity
    if not column:
        ways = "as amounts, and as shares of the capacity"
        raise InstanceError(f"array demand can be read in two ways, {ways}; allowed are whole amounts, or shares alone")
    return amounts.round(), capacity


def _are_whole(amounts: Tensor, units: Tensor | int) -> bool:
    """Return whether shares of so many units are whole but for the rounding of float32."""
    return bool(((amounts - amounts.round()).abs() <= 2e-7 * units).all())
