"""Random rollouts of rl4co, timed on request; runs in rl4co's own virtual environment (see run.py).

Reads one JSON request a line, ``{"env", "size", "batch", "draw", "seconds", "max_steps", "clock"}``, and answers with
one line, ``{"seconds": [...], "decisions": [...]}``, one entry a rollout of the whole batch. What is timed is
rl4co's own ``rollout(env, td, policy)`` on a state that was reset before, with its checks of solutions and its
gradients off; with ``max_steps`` above 0 the same loop is left after that many steps, without a reward.
"""

from __future__ import annotations

import logging
import time
import warnings
from importlib.metadata import version

import torch
from serving import serve

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from rl4co.envs import CVRP, JSSP, TSP  # noqa: E402
from rl4co.utils.decoding import random_policy, rollout  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make(name: str, size: list[int]):  # noqa: D103
    if name == "jssp":
        return JSSP(generator_params={"num_jobs": size[0], "num_machines": size[1]})
    return {"tsp": TSP, "cvrp": CVRP}[name](generator_params={"num_loc": size[0]}, check_solution=False)


def ranked_policy(td):
    """Draw as `ncogym.bench.uniform` does, to tell the environment's time from the draw's."""
    counts = td["action_mask"].cumsum(-1, dtype=torch.int16)
    drawn = torch.rand(*counts.shape[:-1], 1, dtype=torch.float64)
    rank = (drawn * counts[..., -1:]).to(torch.int16)
    td.set("action", torch.searchsorted(counts, rank, right=True).squeeze(-1))
    return td


def begin(env, td, policy, max_steps: int):
    """Take the first steps of rl4co's ``rollout``, which cannot be left early: it wants the reward."""
    actions = []
    while len(actions) < max_steps and not td["done"].all():
        td = policy(td)
        actions.append(td["action"])
        td = env.step(td)["next"]
    return torch.stack(actions, dim=1)


def count(env, td, actions) -> int:
    """Count the actions of rows that were not done, by going through them again."""
    found = 0
    for action in actions.unbind(1):
        found += int((~td["done"]).sum())
        td = env.step(td.set("action", action.clone()))["next"]
    return found


@torch.inference_mode()
def measure(request: dict) -> dict:
    """Time rollouts until ``seconds`` have passed; the first only warms up, unless it alone takes five times that."""
    torch.manual_seed(0)
    clock = CLOCKS[request["clock"]]
    env = make(request["env"], request["size"])
    policy = {"rl4co": random_policy, "ranked": ranked_policy}[request["draw"]]
    instances = env.generator(batch_size=[request["batch"]])
    taken, rollouts = [], []
    while not taken or (sum(taken[1:]) < request["seconds"] and taken[0] < 5 * request["seconds"]):
        td = env.reset(instances.clone())
        start = clock()
        if request["max_steps"]:
            actions = begin(env, td, policy, request["max_steps"])
        else:
            _, _, actions = rollout(env, td, policy)
        taken.append(clock() - start)
        rollouts = [*rollouts[-9:], actions]  # enough for the mean
    if len(taken) > 1:
        taken, rollouts = taken[1:], rollouts[-len(taken) + 1 :]
    if request["env"] == "jssp":  # no waiting: each action of a row that is not done places one of its operations
        steps = request["max_steps"] or request["size"][0] * request["size"][1]
        decisions = float(request["batch"] * steps)
    else:
        counts = [count(env, env.reset(instances.clone()), actions) for actions in rollouts]
        decisions = sum(counts) / len(counts)
    return {"seconds": taken, "decisions": [decisions] * len(taken)}


if __name__ == "__main__":
    serve(measure, {"rl4co": version("rl4co")})
