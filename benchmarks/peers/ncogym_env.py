"""Random rollouts of ncogym, timed on request, with the protocol of rl4co_env.py.

``draw`` is "walk", what `ncogym bench env` runs, or "act", `rollout.act`, which also computes what a policy would see.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from serving import serve

import ncogym
from ncogym.bench import Setting, num_decisions, uniform, walk
from ncogym.rollout import act

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SIZES = {"tsp": ["num_nodes"], "cvrp": ["num_customers"], "jssp": ["num_jobs", "num_machines"]}


class Uniform:
    """Decoding that draws with `uniform`, from its own numbers: to `act` it is none that needs noise."""

    stochastic = False

    def __init__(self, rng: torch.Generator) -> None:
        self.rng = rng

    def __call__(self, action_mask: torch.Tensor, noise: None) -> torch.Tensor:
        """Return actions."""
        return uniform(action_mask, self.rng)


class Anything:
    """Policy that finds every allowed action equally good: its logits are the mask, from which `uniform` draws."""

    def logits(self, encoded: Any, step: Any) -> torch.Tensor:
        """Return the mask."""
        return step.action_mask


def measure(request: dict[str, Any]) -> dict[str, list[float]]:
    """Time rollouts until ``seconds`` have passed; the first only warms up."""
    clock = CLOCKS[request["clock"]]
    env = ncogym.make(request["env"], **dict(zip(SIZES[request["env"]], request["size"], strict=True)))
    rng = torch.Generator().manual_seed(0)
    instances = env.generate(request["batch"], rng)
    run = walk(Setting(env, instances, torch.zeros(request["batch"], 1, dtype=torch.int64), rng))
    if request["draw"] == "act":

        @torch.inference_mode()
        def run() -> torch.Tensor:
            return act(env, Anything(), None, instances, Uniform(rng), rng, acting="eager").actions

    run()
    taken: list[float] = []
    rollouts = []
    while sum(taken) < request["seconds"]:
        begin = clock()
        actions = run()
        taken.append(clock() - begin)
        rollouts = [*rollouts[-9:], actions]  # enough for the mean, or counting takes longer than running
    decisions = sum(num_decisions(env, instances, actions) for actions in rollouts) / len(rollouts)
    return {"seconds": taken, "decisions": [decisions] * len(taken)}


if __name__ == "__main__":
    serve(measure, {"ncogym": ncogym.__version__})
