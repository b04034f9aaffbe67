r"""How far decoding and training are from what the machine's matrix products allow, and where the time goes.

    python benchmarks/floor.py --env tsp --size 50

Floating-point operations of matrix products alone, an addition and a multiplication being two, for an instance of n
nodes (depot included), policies of width d with L layers and feed-forward width f, R roles and s scalars:

.. math:: E = 2 n d\,(k + L\,(4 d + 2 f + 2 n) + (4 + R)\,d) \qquad D = 2 d\,(3 n + s)

E encodes: k numbers a node, then in each layer the projections, the feed-forward network and attention, and at last
the decoder's tables. D decides once: the glimpse's scores and values, the pointer, the scalars. With P rollouts of T
decisions (the mean; a given start counts as one), decoding is E + P T D. A training step is that, scoring (P T D
again), and the backward passes of encoder and scoring, twice their forward: 3 E + 4 P T D. Softmax, tanh, masks, the
environment and drawing are not counted: they are what a machine does beside products.

The floor is these operations at the best rate that any of the products reaches. ``pass`` is the time to write and read
once the logits of all decisions, at the rate of a copy, which whatever goes through memory step by step pays several
times.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import ncogym
from ncogym import bench
from ncogym.policies.attention import AttentionPolicy

SIZES = {"tsp": "num_nodes", "cvrp": "num_customers"}


def best(run: Callable[[], Any], repetitions: int = 20) -> float:
    """Return the least seconds of some runs after one that warms up."""
    run()
    taken = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def product_rate(rows: int, inner: int, columns: int) -> float:
    """Return operations per second of a float32 matrix product."""
    a, b, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
    return 2 * rows * inner * columns / best(lambda: torch.mm(a, b, out=out))


def copy_rate(size: int = 256 * 2**20) -> float:
    """Return bytes per second of a copy, each byte being read and written."""
    source, target = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return 2 * size / best(lambda: target.copy_(source))


def operations(policy: AttentionPolicy, nodes: int) -> tuple[float, float]:
    """Return E and D of the module's docstring."""
    dims, arguments = policy.dims, policy.arguments()
    d, f, layers = arguments["dim"], arguments["feedforward"], arguments["num_layers"]
    encode = 2 * nodes * d * (dims.node + layers * (4 * d + 2 * f + 2 * nodes) + (4 + dims.roles) * d)
    return encode, 2 * d * (3 * nodes + dims.scalars)


STAGES = {"encode": (AttentionPolicy, "encode"), "act": (bench, "act"), "score": (bench, "log_probs")}
STAGES["backward"] = (torch.Tensor, "backward")


def staged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under a name that the profile shows."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call


def profiled(run: Callable[[], Any]) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds and calls of each operation's own work in each stage of a run."""
    run()
    with ExitStack() as stack:
        for name, (owner, attribute) in STAGES.items():
            stack.enter_context(mock.patch.object(owner, attribute, staged(name, getattr(owner, attribute))))
        seen = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        run()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))
    for event in seen.events():
        cell = found[_stage(event)]["Python, and what it calls but torch" if event.name in STAGES else event.name]
        cell[0] += event.self_cpu_time_total / 1000
        cell[1] += 1
    return found


def _stage(event: FunctionEvent) -> str:
    """Return the innermost stage that an event is in."""
    at: FunctionEvent | None = event
    while at is not None and at.name not in STAGES:
        at = at.cpu_parent
    return "other" if at is None else at.name


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=sorted(SIZES), default="tsp")
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=0, help="of each instance; 0: one from every start")
    parser.add_argument("--acting", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--top", type=int, default=8, help="operations shown of each stage")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    env = ncogym.make(arguments.env, **{SIZES[arguments.env]: arguments.size})
    rng = torch.Generator().manual_seed(0)
    instances = env.generate(arguments.batch, rng)
    first = env.first_actions(instances)
    rollouts = arguments.rollouts or first.shape[1]
    starts = first[:, torch.arange(rollouts) % first.shape[1]]
    setting = bench.Setting(env, instances, starts, rng, acting=arguments.acting)
    policy, nodes = bench._policy(setting), env.start(instances[:1]).action_mask.shape[-1]

    d, f = policy.arguments()["dim"], policy.arguments()["feedforward"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {bench.acted_by(setting)} acting\n")
    print("| matrix product, float32 | GFLOP/s |\n|---|---|")
    rates, rows = [], arguments.batch * nodes
    for shape in ((2048, 2048, 2048), (rows, d, 3 * d), (rows, d, d), (rows, d, f), (rows, f, d)):
        rates.append(product_rate(*shape))
        print(f"| {' x '.join(map(str, shape))} | {rates[-1] / 1e9:,.0f} |")
    copied = copy_rate()
    print(f"\ncopy of 256 MiB: {copied / 1e9:.1f} GB/s, read and written\n")

    heads = ["what", "decisions", "GFLOP of the encoder", "of decisions", "floor, s", "pass, s", "measured, s"]
    print(f"| {' | '.join([*heads, 'times the floor'])} |")
    print("|---" * 8 + "|")
    encode, decide = operations(policy, nodes)
    for what in ("decode", "train"):
        found = bench.bench(what, env, batch=arguments.batch, rollouts=rollouts, device="cpu", acting=arguments.acting)
        decisions = found["steps_per_second"] * found["seconds_median"]
        encoder = {"decode": 1, "train": 3}[what] * encode * arguments.batch
        decoder = {"decode": 1, "train": 4}[what] * decide * decisions
        floor, once = (encoder + decoder) / max(rates), 2 * 4 * nodes * decisions / copied
        cells = [what, f"{decisions:,.0f}", f"{encoder / 1e9:.2f}", f"{decoder / 1e9:.2f}"]
        cells += [f"{floor:.4f}", f"{once:.4f}", f"{found['seconds_median']:.4f}"]
        print(f"| {' | '.join(cells)} | {found['seconds_median'] / floor:.2f} |")

    for what, run in (("decode", bench.decode(setting)), ("train", bench.train_step(setting))):
        stages = profiled(run)
        total = sum(cell[0] for cells in stages.values() for cell in cells.values())
        print(f"\n{what}, profiled: {total:,.0f} ms, each operation's own\n\n| stage | operation | calls | ms | % |")
        print("|---" * 5 + "|")
        for stage in filter(stages.__contains__, [*STAGES, "other"]):
            cells = sorted(stages[stage].items(), key=lambda item: -item[1][0])
            spent, count = (sum(cell[part] for _, cell in cells) for part in (0, 1))
            for name, (own, calls) in [("all", (spent, count)), *cells[: arguments.top]]:
                print(f"| {stage} | {name} | {calls} | {own:,.1f} | {100 * own / total:.1f} |")


if __name__ == "__main__":
    main()
