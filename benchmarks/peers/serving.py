"""What the measuring processes of both sides share: how they answer, take times and tell the memory of a run.

Importing this turns standard output over to the answers: what a library prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ANSWERS, sys.stdout = sys.stdout, sys.stderr

Built = tuple[Callable[[], torch.Tensor], dict[str, Any]]


def serve(measure: Callable[[dict[str, Any]], dict[str, Any]], library: dict[str, str]) -> None:
    """Answer requests, one JSON line each, until the input ends; the first line tells the versions."""
    told = library | {"torch": torch.__version__, "torchrl": version("torchrl"), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        told["gpu"] = torch.cuda.get_device_name()
    print(json.dumps(told), file=ANSWERS, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), file=ANSWERS, flush=True)


def of_policies(build: Callable[[dict[str, Any], int], Built]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what answers with the times of a case, once it is warm, or with its memory.

    Memory is that of a process which has run one instance only: code is loaded, and little is held.

    Args:
        build: makes the run of a case on so many of its instances, which returns actions with steps as the last axis,
            and what shall be told of it.
    """

    @functools.cache
    def ready(key: str) -> Built:
        case = json.loads(key)
        run, told = build(case, case["batch"])
        return run, told | {"decisions": decisions(case["env"], run())}

    def measure(request: dict[str, Any]) -> dict[str, Any]:
        case, device = request["case"], request["case"]["device"]
        if request["ask"] == "memory":
            build(case, 1)[0]()
            return {"bytes": peak_memory(build(case, case["batch"])[0], device)}
        run, told = ready(json.dumps(case))
        return {"seconds": times(run, request["seconds"], device)} | told

    return measure


def decisions(env: str, actions: torch.Tensor) -> float:
    """Return how many decisions a rollout takes on average; a finished one of cvrp goes on with action 0."""
    if env != "cvrp":
        return float(actions.shape[-1])
    numbers = torch.arange(1, actions.shape[-1] + 1, device=actions.device)
    return float((numbers * (actions != 0)).amax(-1).double().mean())


def times(run: Callable[[], Any], seconds: float, device: str) -> list[float]:
    """Time runs until ``seconds`` have passed, at least one."""
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        _wait(device)
        begin = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - begin)
    return taken


def peak_memory(run: Callable[[], Any], device: str) -> int:
    """Return the bytes that two runs take at most, above what is held before them.

    On a CUDA device these are bytes of tensors, elsewhere of the whole process, whose peak the kernel (Linux) is told
    to count anew.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free already shall not hide what a run takes
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    for _ in range(2):
        run()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return _resident("VmHWM") - before


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _resident(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024
