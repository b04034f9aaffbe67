"""The kernel against a plain loop: in Triton's interpreter, which runs on a CPU, and on a GPU where there is one.

The interpreter is chosen when Triton is imported, so it has a process of its own. What it cannot tell, whether the
compiler takes the kernel, is asked of the compiler, which needs no GPU.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
import torch
from jaxtyping import install_import_hook
from tensordict import TensorDict
from torch import Tensor, nn

from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, SolverNotInstalled
from ncogym.features import Walk
from ncogym.kernels import cuda
from ncogym.policies.attention import AttentionPolicy, Encoded
from ncogym.problem import Problem
from ncogym.task import Task

ENVS = [Task.of(TSP, 8), Task.of(ATSP, 7), Task.of(CVRP, 6)]
TEMPERATURES = [None, 1.0, 0.7]  # None is greedy
Found = tuple[Tensor, Tensor]

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process in which Triton interprets; shapes are checked there as they are here."""
    check = {"initializer": install_import_hook, "initargs": ("ncogym", "typechecking.checker")}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **check) as executor:
        with patch.dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1"):
            executor.submit(int).result()  # starts the process
        yield executor


class Case:
    """Two instances, a small policy with every part at work, and what both loops are asked."""

    dtype = torch.float32  # of the tables

    def __init__(self, env: Problem, *, forced: bool, temperature: float | None, bias: bool, **sizes: int):
        torch.manual_seed(0)
        dims = {"dim": 32, "num_heads": 2, "num_layers": 1, "feedforward": 32, **sizes}
        self.policy = AttentionPolicy(env.feature_dims, **dims, edge_bias=bias, edge_attention=True).eval()
        if bias:
            nn.init.normal_(self.policy.edge_bias.network[2].weight, std=0.3)
        rng = torch.Generator().manual_seed(1)
        self.env, self.instances = env, env.generate(2, rng)
        starts = env.first_actions(self.instances).unsqueeze(-1)
        self.given = starts if forced else starts.new_zeros(2, 5, 0)
        self.temperature = 1.0 if temperature is None else temperature
        self.noise = None
        if temperature is not None:
            self.noise = torch.rand(env.horizon(self.instances), *self.given.shape[:2], generator=rng)

    def to(self, device: str) -> Case:
        """Move what the kernel reads to a device."""
        self.policy, self.instances, self.given = (x.to(device) for x in (self.policy, self.instances, self.given))
        self.noise = None if self.noise is None else self.noise.to(device)
        return self

    @torch.no_grad()
    def encoded(self, dtype: torch.dtype) -> Encoded:
        """Return the tables, rounded as the kernel gets them."""
        encoded = self.policy.encode(self.env.instance_features(self.instances))
        tables = {k: v.to(self.dtype).to(dtype) for k, v in encoded._asdict().items() if v is not None and k != "bias"}
        return encoded._replace(**tables)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of `rollouts`."""
        pointer = self.policy.as_pointer(self.encoded(self.dtype))
        pointer = pointer._replace(scalars=None if pointer.scalars is None else pointer.scalars.detach())
        walk = self.env.walk(self.instances)
        return (pointer, walk, self.given), {"temperature": self.temperature, "noise": self.noise}

    @torch.no_grad()
    def plain(self) -> Found:
        """Do the same step by step with the environment and the policy."""
        encoded = self.encoded(torch.float32)
        state = self.env.start(self.instances, self.given.shape[1])
        actions, log_prob = [], []
        for step in range(self.env.horizon(self.instances)):
            logits = self.policy.logits(encoded, self.env.step_features(state))
            if step < self.given.shape[2]:
                action, chosen = self.given[..., step], torch.zeros_like(logits[..., 0])
            else:
                action = (
                    logits.argmax(-1) if self.noise is None else _drawn(logits / self.temperature, self.noise[step])
                )
                chosen = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
            actions.append(action)
            log_prob.append(chosen)
            state = self.env.advance(state, action)
        return torch.stack(actions, dim=-1), torch.stack(log_prob, dim=-1)


def _drawn(logits: Tensor, u: Tensor) -> Tensor:
    """Return the first action whose cumulative weight exceeds its share of the total."""
    cumulative = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1)
    total = cumulative[..., -1]
    target = torch.minimum(u * total, total * (1 - 2**-23))
    return (cumulative > target.unsqueeze(-1)).long().argmax(-1)


def _interpreted(interpreter: ProcessPoolExecutor, case: Case) -> Found:
    arguments, options = case.arguments()
    return interpreter.submit(cuda.rollouts, *arguments, **options).result()


def _agree(case: Case, found: Found, rows: float = 1.0, tolerance: float = 2e-5) -> None:
    """Check that a share of the rollouts is the plain loop's, with its log-probabilities, and that all are sound."""
    (actions, log_prob), (expected, expected_log_prob) = found, case.plain()
    same = (actions == expected).all(-1)
    assert same.float().mean() >= rows
    torch.testing.assert_close(log_prob[same], expected_log_prob[same], rtol=1e-4, atol=tolerance)
    assert case.env.violations(case.instances, actions) == []


# ---------------------------------------------------------------------- what it does


@needs_triton
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("forced", [True, False], ids=["forced", "free"])
@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.name)
def test_rollouts_are_those_of_the_plain_loop(env, forced, temperature, interpreter):
    """Greedy and sampled, from forced starts (with an edge bias) and from none (without): the same in every row."""
    case = Case(env, forced=forced, temperature=temperature, bias=forced)
    _agree(case, _interpreted(interpreter, case))


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("forced", [True, False], ids=["forced", "free"])
@pytest.mark.parametrize("env", [*ENVS, Task.of(TSP, 50), Task.of(CVRP, 100)], ids=lambda env: f"{env.name}{env.size}")
def test_rollouts_on_a_gpu_are_those_of_the_plain_loop(env, forced, temperature):
    """On a GPU, too, but for near ties."""
    sizes = {} if env.size < 20 else {"dim": 128, "num_heads": 8}
    case = Case(env, forced=forced, temperature=temperature, bias=forced, **sizes).to("cuda")
    arguments, options = case.arguments()
    _agree(case, cuda.rollouts(*arguments, **options), rows=0.9, tolerance=1e-3)


@needs_triton
def test_rollouts_of_two_programs(interpreter):
    """A rollout more than a program takes: the second program has that one and nothing else."""
    case = Case(Task.of(TSP, 7), forced=True, temperature=1.0, bias=True)
    case.given = torch.arange(cuda.ROWS + 1).remainder(7).expand(2, -1).unsqueeze(-1)
    case.noise = torch.rand(7, 2, cuda.ROWS + 1, generator=torch.Generator().manual_seed(2))
    _agree(case, _interpreted(interpreter, case))


@needs_triton
def test_narrow_heads_and_several_given_actions(interpreter):
    """Heads narrower than a tile, and a start of three actions, one of them the way home."""
    case = Case(Task.of(CVRP, 9), forced=True, temperature=1.0, bias=True, num_heads=8)
    case.given = torch.tensor([[[1, 2, 0], [4, 0, 9]], [[3, 0, 2], [9, 8, 0]]])
    case.noise = case.noise[:, :, :2]
    actions, log_prob = found = _interpreted(interpreter, case)
    _agree(case, found)
    assert actions[..., :3].equal(case.given)
    assert (log_prob[..., :3] == 0).all()


@needs_triton
def test_what_is_left_of_a_finished_walk_is_certain(interpreter):
    """After the last customer the actions are the depot, with a log-probability of exactly 0."""
    actions, log_prob = _interpreted(interpreter, Case(Task.of(CVRP, 9), forced=True, temperature=1.0, bias=True))
    last = (actions > 0).long() * torch.arange(actions.shape[-1])
    finished = torch.arange(actions.shape[-1]) > last.amax(-1, keepdim=True)
    assert finished.any(-1).all()
    assert (log_prob[finished] == 0).all()
    assert (log_prob <= 0).all()
    assert len(last.amax(-1).unique()) > 1  # they end at different steps


@needs_triton
def test_loads_are_counted_as_the_environment_does(interpreter):
    """Demands of tenths fill a vehicle of 1 exactly, which float32 would not see."""
    case = Case(Task.of(CVRP, 9), forced=False, temperature=1.0, bias=False)
    tenths = torch.randint(1, 6, (2, 10), generator=torch.Generator().manual_seed(2)).double() / 10
    tenths[:, 0] = 0
    values = {"locs": case.instances["locs"], "demand": tenths, "capacity": torch.ones(2, dtype=torch.float64)}
    case.instances = TensorDict(values, batch_size=[2])
    _agree(case, _interpreted(interpreter, case))


@needs_triton
@pytest.mark.parametrize("u", [0.0, 1.0])
def test_the_ends_of_the_noise_draw_what_is_allowed(u, interpreter):
    """Noise at either end of its range never draws a node that is not allowed."""
    case = Case(Task.of(CVRP, 9), forced=True, temperature=0.05, bias=True)
    case.noise = torch.full_like(case.noise, u)
    actions, _ = _interpreted(interpreter, case)
    assert case.env.violations(case.instances, actions) == []


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.name)
def test_bfloat16_is_near(env):
    """Tables in bfloat16 give sound rollouts, and a first choice of about the log-probability that float32 gives it.

    Triton's interpreter multiplies the bits of bfloat16 numbers as if they were whole numbers (3.9), so a GPU must say.
    """
    case = Case(env, forced=False, temperature=1.0, bias=True).to("cuda")
    case.dtype = torch.bfloat16
    arguments, options = case.arguments()
    actions, log_prob = cuda.rollouts(*arguments, **options)
    expected, expected_log_prob = case.plain()
    same = actions[..., 0] == expected[..., 0]
    assert same.float().mean() > 0.5
    torch.testing.assert_close(log_prob[..., 0][same], expected_log_prob[..., 0][same], rtol=0.05, atol=0.2)
    assert case.env.violations(case.instances, actions) == []


# ---------------------------------------------------------------------- what the compiler says


class Launch:
    """Stands for the kernel and keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> Launch:
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here and compiles nothing")
@pytest.mark.parametrize(
    ("env", "dtype"), [(Task.of(TSP, 50), torch.float32), (Task.of(CVRP, 20), torch.bfloat16)], ids=["tsp50", "cvrp20"]
)
def test_it_compiles_for_an_h100(env, dtype, monkeypatch):
    """The compiler takes the kernel as it is launched, and it needs no more shared memory than `supports` expects."""
    import triton
    from triton.backends.compiler import GPUTarget

    kernel, launch = cuda._jitted(), Launch()
    case = Case(env, forced=True, temperature=1.0, bias=True, dim=128, num_heads=8)
    case.dtype = dtype
    (pointer, *others), options = case.arguments()
    with monkeypatch.context() as patched:
        patched.setattr(cuda, "_jitted", lambda: launch)
        patched.setattr(cuda, "supports", lambda pointer, walk: None)
        cuda.rollouts(pointer, *others, **options)
    names = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.int64: "i64"}
    given = dict(zip(kernel.arg_names, launch.arguments, strict=False)) | launch.options
    signature, constants, aligned = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = given.pop(name)
        if isinstance(value, Tensor):
            signature[name], aligned[(place,)] = f"*{names[value.dtype]}", [["tt.divisibility", 16]]
        elif (
            value is None or (type(value), value) == (int, 1) or place >= len(launch.arguments)
        ):  # as Triton specialises a 1
            signature[name], constants[(place,)] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=given)
    nodes, width = pointer.keys.shape[2:]
    tile = launch.options["columns"] * launch.options["wide"] * pointer.keys.element_size()
    assert (launch.options["columns"], launch.options["wide"]) >= (nodes, width)
    assert compiled.metadata.shared <= cuda.TABLES * tile


# ---------------------------------------------------------------------- what it refuses


def test_missing_triton_is_named(monkeypatch):
    """Without Triton the reason and the error name the extra to install."""
    arguments, options = Case(Task.of(TSP, 7), forced=True, temperature=None, bias=True).arguments()
    monkeypatch.setitem(sys.modules, "triton", None)
    cuda._jitted.cache_clear()
    assert "ncogym[gpu]" in cuda.supports(*arguments[:2])
    with pytest.raises(SolverNotInstalled, match=r"ncogym\[gpu\]"):
        cuda.rollouts(*arguments, **options)


@needs_triton
def test_reasons_are_said(monkeypatch):
    """What the kernel cannot take is said in words: a CPU, mixed numbers, too many nodes, a room without a load."""
    (pointer, walk, given), options = Case(Task.of(TSP, 7), forced=True, temperature=None, bias=True).arguments()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ArgumentError, match="it takes an NVIDIA GPU, not cpu"):
        cuda.rollouts(pointer, walk, given, **options)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cuda.supports(pointer, walk) is None
    mixed = pointer._replace(keys=pointer.keys.bfloat16())
    assert cuda.supports(mixed, walk).endswith("not torch.bfloat16, torch.float32")
    large = pointer._replace(keys=pointer.keys.new_zeros(1, 2, 257, 16))
    assert cuda.supports(large, walk) == "it takes 256 nodes at most, not 257"
    assert "no room" in cuda.supports(pointer, Walk(("current",), ("room",), 7))
