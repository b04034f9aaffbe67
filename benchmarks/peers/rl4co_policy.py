"""Training steps and greedy decoding of rl4co, measured on request; runs in rl4co's own virtual environment (run.py).

Reads one JSON request a line, ``{"ask": "times" or "memory", "seconds", "case"}``, where the case holds ``what, env,
size, batch, rollouts, instances, device, checks``, and answers with one line, ``{"seconds": [...], "parameters",
"decisions"}`` or ``{"bytes"}``. A run is what rl4co's own ``shared_step`` does with a batch, its metrics left out:
reset, policy and, for ``train``, the loss and its gradient. Policy and loss are those of its POMO, for the job shop
those of its L2D with the shared baseline. ``checks`` off leaves out its checks of solutions and of numbers
(``check_solution``, ``check_nan``).
"""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version

import torch
from serving import of_policies, serve
from tensordict import TensorDict

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from rl4co.envs import CVRP, JSSP, TSP  # noqa: E402
from rl4co.models import POMO, L2DModel  # noqa: E402
from rl4co.utils.ops import unbatchify  # noqa: E402


def tsp(drawn: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate instances of ncogym."""
    return {"locs": drawn["locs"]}


def cvrp(drawn: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate instances of ncogym: demands are shares of the capacity, which is 1."""
    locs, capacity = drawn["locs"], drawn["capacity"].unsqueeze(1)
    demand = drawn["demand"][:, 1:] / capacity
    return {"depot": locs[:, 0], "locs": locs[:, 1:], "demand": demand, "capacity": capacity}


def jssp(drawn: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate instances of ncogym: durations ``[machines, operations]``, 0 where a machine is not the operation's."""
    batch, jobs, length = drawn["machine"].shape
    duration, machine = drawn["duration"].flatten(1).float(), drawn["machine"].flatten(1)
    on = machine.unsqueeze(1) == torch.arange(length).view(-1, 1)
    begin = (torch.arange(jobs) * length).repeat(batch, 1)
    none = torch.zeros_like(machine, dtype=torch.bool)
    ends = {"start_op_per_job": begin, "end_op_per_job": begin + length - 1}
    return ends | {"proc_times": duration.unsqueeze(1) * on, "pad_mask": none}


def build(case: dict, batch: int):
    """Return a run on the first instances of the file, and the parameters of the policy in it."""
    name, size, rollouts, checks = case["env"], case["size"], case["rollouts"], case["checks"]
    drawn = {"tsp": tsp, "cvrp": cvrp, "jssp": jssp}[name](torch.load(case["instances"]))
    instances = TensorDict(drawn, batch_size=case["batch"], device=case["device"])[:batch]
    if name == "jssp":  # has no check of solutions
        env = JSSP(generator_params=size)
        torch.manual_seed(0)
        model = L2DModel(env, baseline="shared")
        model.policy.decoder.actor.check_nan = checks
    else:
        given = {"num_loc": next(iter(size.values()))}
        env = {"tsp": TSP, "cvrp": CVRP}[name](generator_params=given, check_solution=checks)
        torch.manual_seed(0)
        model = POMO(env, policy_kwargs={"check_nan": checks})
    policy = model.policy.to(case["device"])
    start = "multistart_" if rollouts > 1 else ""

    def train():
        td = env.reset(instances.copy())  # writes into what it is given
        out = policy(td, env, phase="train", decode_type=start + "sampling", num_starts=rollouts)
        reward, log_likelihood = (unbatchify(out[key], rollouts) for key in ("reward", "log_likelihood"))
        model.calculate_loss(td, instances, out, reward, log_likelihood)["loss"].backward()
        policy.zero_grad()
        return out["actions"]

    @torch.inference_mode()
    def decode():
        td = env.reset(instances.copy())
        return policy(td, env, phase="test", decode_type=start + "greedy", num_starts=rollouts)["actions"]

    policy.train(case["what"] == "train")
    run = {"train": train, "decode": decode}[case["what"]]
    return run, {"parameters": sum(weight.numel() for weight in policy.parameters())}


if __name__ == "__main__":
    serve(of_policies(build), {"rl4co": version("rl4co")})
