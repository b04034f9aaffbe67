"""The kernel for the processor: ``walk.cpp``, compiled at its first use by the C++ compiler of the machine.

It is compiled for the widths of one network and for this processor, within seconds, and kept in the user's cache.
Nothing needs it: without a compiler the plain loop does the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ncogym._files import staged
from ncogym._resources import cache_folder
from ncogym.errors import Abandoned, ArgumentError, NcogymWarning, NotEnoughMemory
from ncogym.features import Pointer, Walk

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("walk.cpp")
COMPILE_SECONDS = 120.0  # which take four seconds of a processor: a compiler that hangs, or a machine that does
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
compiling: list[float] = []  # seconds of each compilation of this process
NO_MEMORY, LATE = 0, 2  # how a thread may end, beside 1
ROLES, SCALARS = {"first": 0, "current": 1}, {"room": 0, "left": 1}

_POINTERS = (
    *("keys", "values", "logit_keys", "queries", "bias", "weights", "demand", "capacity", "slack", "noise", "forced"),
    *("actions", "log_prob", "carried", "d_keys", "d_values", "d_logit_keys", "d_queries", "d_bias", "d_weights"),
)


class _Job(ctypes.Structure):
    """``job_t`` of walk.cpp."""

    _fields_ = (
        *[(k, ctypes.c_int64) for k in ("next", "parts", "batch", "rollouts", "steps", "nodes", "given", "has_depot")],
        *[(k, ctypes.c_int32 * 2) for k in ("role", "scalar")],
        *[(k, ctypes.c_float) for k in ("clip", "temperature")],
        ("seconds", ctypes.c_double),
        *[(k, ctypes.c_void_p) for k in _POINTERS],
    )


def supports(pointer: Pointer, walk: Walk) -> str | None:
    """Return why the kernel cannot take this decoder and this walk, or None where it can."""
    heads, width = pointer.keys.shape[1], pointer.keys.shape[3]
    if width % 4:
        return f"heads of width {width} are not a multiple of 4"
    if len(walk.roles) > 2 or len(walk.scalars) > 2:
        return "it takes two roles and two scalars at most"
    built = _library(heads * width, heads, len(walk.roles), len(walk.scalars))
    return built if isinstance(built, str) else None


def rollouts(
    pointer: Pointer,
    walk: Walk,
    given: Int64[Tensor, "batch rollouts given"],
    *,
    temperature: float,
    noise: Float32[Tensor, "steps batch rollouts"] | None,
    clock: Any = None,
) -> tuple[Int64[Tensor, "batch rollouts steps"], Float32[Tensor, "batch rollouts"]]:
    """Run whole rollouts; greedy ones where there is no noise.

    Args:
        pointer: the decoder.
        walk: the problem.
        given: leading actions that are forced.
        temperature: divides the logits that actions are drawn from.
        noise: a uniform number from [0, 1) for each decision.
        clock: a `ncogym.rollout.Clock`, which ends them, or None.

    Returns:
        Actions up to the horizon, and the log-probability of those that were not forced, at temperature 1.
    """
    batch, count, _ = given.shape
    actions = torch.empty(batch, count, walk.horizon, dtype=torch.int64)
    log_prob = torch.empty(batch, count)
    tensors = {"forced": given, "noise": noise, "log_prob": log_prob}
    _run("act", pointer, walk, given.shape[2], temperature, actions, clock, **tensors)
    return actions, log_prob


def log_prob(
    pointer: Pointer, walk: Walk, actions: Int64[Tensor, "batch rollouts steps"], forced: int
) -> Float32[Tensor, "batch rollouts"]:
    """Return the log-probability of actions, but for the first ``forced``."""
    found = torch.empty(actions.shape[:2])
    _run("score", pointer, walk, forced, 1.0, actions, log_prob=found)
    return found


def gradient(
    pointer: Pointer,
    walk: Walk,
    actions: Int64[Tensor, "batch rollouts steps"],
    forced: int,
    weights: Float32[Tensor, "batch rollouts"],
) -> Sequence[Tensor | None]:
    """Return the gradient of the weighted sum of log-probabilities, for each tensor of the pointer in its order."""
    parts = _parts(actions)
    whole = {f"d_{name}": None if v is None else torch.zeros(parts, *v.shape) for name, v in _tables(pointer).items()}
    _run("score", pointer, walk, forced, 1.0, actions, carried=weights, **whole)
    *found, scalars = [g if g is None else g[0] if parts == 1 else g.sum(0) for g in whole.values()]
    found.append(scalars if scalars is None else scalars.mT)
    kinds = [value is None or value.dtype for value in pointer[:-1]]
    return [g if g is None else g.to(kind) for g, kind in zip(found, kinds, strict=True)]


def _tables(pointer: Pointer) -> dict[str, Tensor | None]:
    """Return the tensors of a decoder as walk.cpp has them, in the order of the pointer."""
    *tables, scalars = pointer[:-1]
    return dict(zip(_POINTERS, [*tables, scalars if scalars is None else scalars.mT], strict=False))


def _parts(actions: Tensor) -> int:
    """Return into how many parts the rollouts of an instance are cut, so that every thread has work to the end."""
    batch, rollouts = actions.shape[:2]
    threads = torch.get_num_threads()
    return 1 if threads == 1 or batch >= 4 * threads else min(rollouts, -(-4 * threads // batch))


def _run(
    what: str,
    pointer: Pointer,
    walk: Walk,
    given: int,
    temperature: float,
    actions: Tensor,
    clock: Any = None,
    **tensors: Tensor | None,
) -> None:
    batch, heads, nodes, width = pointer.keys.shape
    library = _library(heads * width, heads, len(walk.roles), len(walk.scalars))
    if isinstance(library, str):
        raise ArgumentError(f"acting: 'kernel' is not allowed here; {library}")
    tensors |= {**_tables(pointer), "actions": actions}
    kinds = {"actions": torch.int64, "forced": torch.int64}
    held = {k: v.detach().to(kinds.get(k, torch.float32)).contiguous() for k, v in tensors.items() if v is not None}
    for name in ("demand", "capacity", "slack"):
        if (value := getattr(walk, name)) is not None:
            held[name] = value.contiguous()
    parts = _parts(actions)
    job = _Job(
        parts=parts,
        batch=batch,
        rollouts=actions.shape[1],
        steps=actions.shape[2],
        nodes=nodes,
        given=given,
        has_depot=walk.demand is not None,
        role=(ctypes.c_int32 * 2)(*(ROLES[role] for role in walk.roles)),
        scalar=(ctypes.c_int32 * 2)(*(SCALARS[scalar] for scalar in walk.scalars)),
        clip=pointer.clip,
        temperature=temperature,
        seconds=math.inf if clock is None else clock.allowed,
        **{name: value.data_ptr() for name, value in held.items()},
    )
    call = getattr(library, what)

    def work(_: Any = (job, held)) -> int:  # a thread holds what it works on, should an interrupt end this call
        done: int = call(ctypes.byref(job))
        return done

    others = min(torch.get_num_threads(), batch * parts) - 1
    running = [_pool().submit(work) for _ in range(others)]
    ends = [work(), *(each.result() for each in running)]
    if LATE in ends:
        raise Abandoned("the time of these rollouts is over")
    if NO_MEMORY in ends:
        raise NotEnoughMemory(f"acting: the kernel's tables of {nodes} nodes do not fit into memory")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ncogym")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads


@functools.cache
def _library(dim: int, heads: int, roles: int, scalars: int) -> ctypes.CDLL | str:
    """Return the kernel as compiled for these widths, or why there is none."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        log.info("no C++ compiler was found (c++, g++, clang++ or CXX); rollouts take the plain loop")
        return "it takes a C++ compiler (c++, g++, clang++ or CXX)"
    widths = {"DIM": dim, "HEADS": heads, "ROLES": roles, "SCALARS": scalars}
    command = [*compiler.split(), *FLAGS, *(f"-D{name}={width}" for name, width in widths.items()), str(SOURCE)]
    key = hashlib.sha256("\n".join([*command, _processor()]).encode() + SOURCE.read_bytes()).hexdigest()[:16]
    name, folder = f"walk-{dim}-{heads}-{key}", cache_folder() / "kernels"
    try:
        library = _kept(folder, name) or _built(command, folder, name)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ctypes: ValueError where words are no UTF-8
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.info("the kernel could not be built (%s); rollouts take the plain loop", said[0] if said else error)
        return f"it could not be built ({said[0] if said else error})"
    for name in ("act", "score"):
        getattr(library, name).argtypes, getattr(library, name).restype = [ctypes.c_void_p], ctypes.c_int
    return library


def _kept(folder: Path, name: str) -> ctypes.CDLL | None:
    """Load the kernel of that name from the cache, or return None where it is not there or not what was built.

    A file ends in the digest of its bytes, and is loaded only where it has them still: damaged code ends the process.
    """
    if not _safe(folder):
        return None
    for path in sorted(folder.glob(f"{name}-*.so")):
        if not _safe(path):
            warnings.warn(
                f"kernel: {path} is not used; it is not yours, or others may write it", NcogymWarning, stacklevel=2
            )
        elif path.name == _named(path, name):
            return ctypes.CDLL(str(path))
        else:
            warnings.warn(f"kernel: {path} was damaged; it is compiled anew", NcogymWarning, stacklevel=2)
            with suppress(OSError):  # in a folder that is not ours to write
                path.unlink()
    return None


def _built(command: list[str], folder: Path, name: str) -> ctypes.CDLL:
    """Compile the kernel into the cache and load it; where nothing can be kept, for this process alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = _safe(folder) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        kept = False
    if kept:
        with staged(folder) as made:
            path = _compiled(command, made, name)
        return ctypes.CDLL(str(folder / path.name))
    line = f"kernel: {folder} cannot be written to, or by others than you, so that it is compiled at every start"
    warnings.warn(f"{line}; name another folder in NCOGYM_CACHE", NcogymWarning, stacklevel=2)
    with staged(tempfile.gettempdir()) as made:
        path = _compiled(command, made, name)
        library = ctypes.CDLL(str(path))
        path.unlink()  # the library lives on without it
    return library


def _compiled(command: list[str], folder: Path, name: str) -> Path:
    """Compile into ``folder``, with all that the compiler leaves meanwhile, and return the file.

    Raises:
        subprocess.SubprocessError: the compiler failed, or took longer than `COMPILE_SECONDS`.
    """
    begin, target = time.perf_counter(), folder / "new.so"
    process = subprocess.Popen(
        [*command, "-o", str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,  # so that all processes of a compiler can be ended
    )
    with process:
        try:
            _, said = process.communicate(timeout=COMPILE_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
    target.chmod(0o755)
    compiling.append(time.perf_counter() - begin)
    return target.rename(folder / _named(target, name))


def _named(path: Path, name: str) -> str:
    """Return the file name of a kernel, which tells what is in it."""
    return f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"


def _safe(path: Path) -> bool:
    """Whether a file or folder is there, is ours or the system's, and nobody else may write it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return os.name != "posix" or (found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022)


def _processor() -> str:
    """Return what tells processors of different instruction sets apart: a home folder may serve many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"
