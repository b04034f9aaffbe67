"""Training steps and greedy decoding of ncogym, measured on request, with the protocol of rl4co_policy.py.

What runs is what `ncogym bench train` and `ncogym bench decode` run.
"""

from __future__ import annotations

from typing import Any

import torch
from serving import Built, of_policies, serve
from tensordict import TensorDict

import ncogym
from ncogym import bench


def build(case: dict[str, Any], batch: int) -> Built:
    """Return a run on the first instances of the file, and what it does: its parameters, what "auto" stands for."""
    rng = torch.Generator(case["device"]).manual_seed(0)
    env = ncogym.make(case["env"], **case["size"])
    drawn = torch.load(case["instances"])
    instances = TensorDict(drawn, batch_size=case["batch"], device=case["device"])[:batch]
    first = env.first_actions(instances)
    starts = first[:, torch.arange(case["rollouts"], device=rng.device) % first.shape[1]]
    setting = bench.Setting(env, instances, starts, rng, acting=case["acting"])
    torch.manual_seed(0)
    run = {"decode": bench.decode, "train": bench.train_step}[case["what"]](setting)
    parameters = sum(weight.numel() for weight in bench._policy(setting).parameters())
    return run, {"parameters": parameters, "acting": bench.acted_by(setting)}


if __name__ == "__main__":
    serve(of_policies(build), {"ncogym": ncogym.__version__})
