"""The kernel for CUDA: a Triton program follows 16 rollouts of an instance through all their steps, in one launch.

What is open to each rollout, its place and its load stay in registers. The instance's tables are read again at every
step, head by head, from the caches of the GPU; the next head's are on their way while one is worked on. No step waits
for the host.

Differs from the plain loop of `ncogym.rollout` in:
    - products of float32 numbers run on the tensor cores, in three parts whose sum is nearly as good as float32.
      Triton's plain products ("ieee") were refused: a thread then holds whole rows of attention weights, which overflow
      its registers by tens of kilobytes and take up to minutes to compile;
    - products of bfloat16 numbers, and the rows that make up a query, are added up in float32.

Triton is imported at the first use. With TRITON_INTERPRET=1 in the environment before that, its interpreter runs the
kernel on a CPU, slowly: so it is tested.

References:
    Tillet, Kung, Cox (2019), Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations, MAPL.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Literal, no_type_check

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ncogym.errors import ArgumentError, SolverNotInstalled
from ncogym.features import Pointer, Walk

if TYPE_CHECKING:
    from triton import language as tl

ROWS = 16  # rollouts per program, the fewest rows that a tile of the tensor cores has
STAGES = 2  # of the loop over heads: the tables of this head and of the next
MAX_NODES = 256  # tiles of [rollouts, nodes] are held in registers, which overflow gently from 128 nodes on
TABLES = 7  # tables of one head that shared memory holds at most: as compiled by Triton 3.6 and 3.9 for an H100


def supports(pointer: Pointer, walk: Walk) -> str | None:
    """Return why the kernel cannot take this decoder and this walk, or None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "it takes Triton; pip install 'ncogym[gpu]'"
    _, _, nodes, width = pointer.keys.shape
    kinds = {table.dtype for table in (pointer.keys, pointer.values, pointer.logit_keys, pointer.queries)}
    if kinds not in ({torch.float32}, {torch.bfloat16}):
        return f"it takes tables of float32 or of bfloat16, not {', '.join(sorted(map(str, kinds)))}"
    if nodes > MAX_NODES:
        return f"it takes {MAX_NODES} nodes at most, not {nodes}"
    if "room" in walk.scalars and walk.demand is None:
        return "a walk without demands has no room to show"
    device = pointer.keys.device
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda" or torch.version.cuda is None:
        return f"it takes an NVIDIA GPU, not {device}"
    gpu = torch.cuda.get_device_properties(device)
    if gpu.major < 8:
        return f"it takes a GPU of compute capability 8 or more, not {gpu.major}.{gpu.minor}"
    needed = TABLES * _power_of_two(nodes) * _power_of_two(width) * pointer.keys.element_size()
    there_are = gpu.shared_memory_per_multiprocessor - 1024  # which CUDA keeps
    if needed > there_are:
        return f"{nodes} nodes and heads of width {width} may take {needed} bytes of shared memory of {there_are}"
    return None


def rollouts(
    pointer: Pointer,
    walk: Walk,
    given: Int64[Tensor, "batch rollouts given"],
    *,
    temperature: float,
    noise: Float[Tensor, "steps batch rollouts"] | None,
    precision: Literal["tf32x3", "tf32"] = "tf32x3",
    clock: Any = None,  # noqa: ARG001
) -> tuple[Int64[Tensor, "batch rollouts steps"], Float32[Tensor, "batch rollouts steps"]]:
    """Run whole rollouts; greedy ones where there is no noise.

    Args:
        pointer: the decoder.
        walk: the problem.
        given: leading actions that are forced.
        temperature: divides the logits that actions are drawn from.
        noise: a uniform number from [0, 1) for each decision: in the order of the nodes, the first allowed one whose
            cumulative probability exceeds it is taken.
        precision: of products of float32 numbers: tf32x3 is nearly as good as float32, tf32 keeps 10 bits of a factor.
        clock: not looked at: what was launched runs to its end.

    Returns:
        Actions up to the horizon, and the log-probability of each at temperature 1: 0 where it was forced, and for the
        depot, which is all that is left once a walk is done.

    Raises:
        ArgumentError: the kernel cannot take it, see `supports`.
        SolverNotInstalled: Triton is not there.
    """
    kernel = _jitted()
    reason = supports(pointer, walk)
    if reason:
        raise ArgumentError(f"acting: 'kernel' is not allowed here; {reason}")
    batch, heads, nodes, width = pointer.keys.shape
    count, steps = given.shape[1], walk.horizon
    actions = given.new_zeros(batch, count, steps)
    log_prob = torch.zeros(batch, count, steps, device=given.device)
    tables = (*pointer[:-1], walk.demand, walk.capacity, walk.slack, given, noise)
    columns = _power_of_two(nodes)
    with torch.cuda.device_of(actions):
        kernel[(batch * -(-count // ROWS),)](
            *(None if table is None else table.contiguous() for table in tables),
            actions,
            log_prob,
            nodes,
            count,
            given.shape[2],
            steps,
            float(pointer.clip),
            float(temperature),
            heads=heads,
            width=width,
            roles=len(walk.roles),
            first_role=_place("first", walk.roles),
            room_place=_place("room", walk.scalars),
            left_place=_place("left", walk.scalars),
            scalars=len(walk.scalars),
            rows=ROWS,
            columns=columns,
            wide=_power_of_two(width),
            precision=precision,
            num_warps=4 if columns * pointer.keys.element_size() <= 256 else 8,
            num_stages=STAGES,
            enable_fp_fusion=False,  # said, so that Triton does not warn that its default will change
        )
    return actions, log_prob


def _place(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else -1


def _power_of_two(size: int) -> int:
    """Return the smallest side of a tile that holds ``size``."""
    return max(16, 1 << (size - 1).bit_length())


@functools.cache
def _jitted() -> Any:
    """Return the kernel as Triton takes it; the language that it is written in becomes a name of this module."""
    global tl
    try:
        import triton
        from triton import language as tl
    except ImportError as error:
        raise SolverNotInstalled(f"triton cannot be imported ({error}); pip install 'ncogym[gpu]'") from error
    return triton.jit(_rollouts)


@no_type_check  # of types that are not Python's; what checks shapes under pytest leaves it alone, too
def _rollouts(
    keys,
    values,
    logit_keys,
    queries,
    bias,
    weights,
    demand,
    capacity,
    slack,
    given,
    noise,
    actions,
    log_probs,
    nodes,
    rollouts,
    num_given,
    steps,
    clip,
    temperature,
    heads: tl.constexpr,
    width: tl.constexpr,
    roles: tl.constexpr,
    first_role: tl.constexpr,
    room_place: tl.constexpr,
    left_place: tl.constexpr,
    scalars: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    wide: tl.constexpr,
    precision: tl.constexpr,
):
    """Take some rollouts of an instance through all steps; in a tile, rollouts are rows and nodes are columns."""
    blocks = tl.cdiv(rollouts, rows)
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * rows + tl.arange(0, rows)
    is_real = row < rollouts
    row = tl.minimum(row, rollouts - 1)  # those beyond the last repeat it
    column = tl.arange(0, columns)
    node = column[None, :]
    is_node = node < nodes
    part = tl.arange(0, wide)
    in_part = part < width
    in_table = (column < nodes)[:, None] & in_part[None, :]

    dim = heads * width
    keys += instance * nodes * dim
    values += instance * nodes * dim
    logit_keys += instance * nodes * dim
    queries += instance * roles * (nodes + 1) * dim
    if bias is not None:
        bias += instance * roles * (nodes + 1) * nodes
    if scalars > 0:
        weights += instance * dim * scalars
    given += (instance * rollouts + row) * num_given
    actions += (instance * rollouts + row) * steps
    log_probs += (instance * rollouts + row) * steps

    # 0 where a node may be visited, else -inf: a mask of truth values cannot take the way through shared memory
    closed = tl.zeros([rows, columns], tl.float32) + tl.where(is_node, 0.0, float("-inf"))
    first = tl.zeros([rows], tl.int32) + nodes  # nobody
    if demand is None:
        current = first
        left = first
        num_others = nodes
    else:
        current = tl.zeros([rows], tl.int32)
        left = first - 1
        num_others = nodes - 1
        demand += instance * nodes
        amount = tl.load(demand + column, mask=column < nodes, other=0.0)
        full = tl.load(capacity + instance)
        spare = tl.load(slack + instance)
        load = tl.zeros([rows], tl.float64) + full

    for step in range(steps):
        if tl.max(left, axis=0) > 0:
            shut = closed
            if demand is not None:
                is_shut = amount[None, :] > (load + spare)[:, None]
                is_shut |= (node == 0) & ((current == 0) & (left > 0))[:, None]
                shut += tl.where(is_shut, float("-inf"), 0.0)
            if room_place >= 0:
                room = (load / full).to(tl.float32)
            if left_place >= 0:
                share = (left.to(tl.float64) / num_others).to(tl.float32)

            scores = tl.zeros([rows, columns], tl.float32)
            for head in range(heads):
                cell = head * width + part
                query = tl.zeros([rows, wide], tl.float32)
                for role in tl.static_range(roles):
                    who = first if role == first_role else current
                    place = (role * (nodes + 1) + who)[:, None] * dim + cell[None, :]
                    query += tl.load(queries + place, mask=in_part[None, :], other=0.0).to(tl.float32)
                if room_place >= 0:
                    weight = tl.load(weights + cell * scalars + room_place, mask=in_part, other=0.0)
                    query += room[:, None] * weight.to(tl.float32)[None, :]
                if left_place >= 0:
                    weight = tl.load(weights + cell * scalars + left_place, mask=in_part, other=0.0)
                    query += share[:, None] * weight.to(tl.float32)[None, :]
                here = (head * nodes + column)[:, None] * width + part[None, :]
                key = tl.load(keys + here, mask=in_table, other=0.0)
                value = tl.load(values + here, mask=in_table, other=0.0)
                there = column[:, None] * dim + cell[None, :]
                logit_key = tl.load(logit_keys + there, mask=in_table, other=0.0)

                seen = tl.dot(query.to(key.dtype), tl.trans(key), input_precision=precision)
                seen = seen * width**-0.5 + shut
                seen = tl.exp(seen - tl.max(seen, axis=1)[:, None])
                glimpse = tl.dot(seen.to(value.dtype), value, input_precision=precision)
                glimpse = glimpse / tl.sum(seen, axis=1)[:, None]
                scores = tl.dot(glimpse.to(key.dtype), tl.trans(logit_key), scores, input_precision=precision)

            logits = 1 - 2 / (tl.exp(2 * (heads * width) ** -0.5 * scores) + 1)  # tanh
            if bias is not None:
                for role in tl.static_range(roles):
                    who = first if role == first_role else current
                    place = (role * (nodes + 1) + who)[:, None] * nodes + node
                    logits += tl.load(bias + place, mask=is_node, other=0.0)
            logits = clip * logits + shut

            highest = tl.max(logits, axis=1)
            below = logits - highest[:, None]
            if noise is None:
                wins = below == 0
            else:
                summed = tl.cumsum(tl.exp(below / temperature), axis=1)
                total = tl.max(tl.where(shut == 0, summed, 0.0), axis=1)
                u = tl.load(noise + (step * (tl.num_programs(0) // blocks) + instance) * rollouts + row)
                target = tl.minimum(u * total, total * (1 - 2**-23))
                wins = (shut == 0) & (summed > target[:, None])
            action = tl.min(tl.where(wins, node, nodes - 1), axis=1)
            log_prob = tl.sum(tl.where(node == action[:, None], below, 0.0), axis=1)
            log_prob -= tl.log(tl.sum(tl.exp(below), axis=1))
            is_given = step < num_given + tl.zeros([rows], tl.int32)
            action = tl.where(is_given, tl.load(given + step, mask=is_given, other=0).to(tl.int32), action)
            tl.store(actions + step, action.to(tl.int64), mask=is_real)
            tl.store(log_probs + step, tl.where(is_given, 0.0, log_prob), mask=is_real)

            is_gone = node == action[:, None]
            first = tl.where(first == nodes, action, first)
            if demand is None:
                closed = tl.where(is_gone, float("-inf"), closed)
                left -= 1
                current = action
            else:
                closed = tl.where(is_gone & (node > 0), float("-inf"), closed)
                left -= (action > 0).to(tl.int32)
                current = tl.where(left == 0, 0, action)
                load = tl.where(current == 0, full, load - tl.load(demand + action))
