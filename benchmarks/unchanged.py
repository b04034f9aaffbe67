"""Whether a change that should change nothing did: losses, weights and solutions of two commits, to the bit.

    python benchmarks/unchanged.py record before.json          # in a checkout of the earlier commit
    python benchmarks/unchanged.py record after.json           # in this one
    python benchmarks/unchanged.py compare before.json after.json

It takes 20 steps of every config that is not a paper's and of algorithms that have none, in small batches, and lets
every solver solve three small instances of each problem under a budget of 64 rollouts. ``--only TEXT`` takes those
whose name has the text. Labels and references lie beside the record, so that both commits learn from the same. It takes
a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ncogym.baselines import SOLVERS
from ncogym.budget import MaxRollouts
from ncogym.cli import main
from ncogym.composing import choose_policy, make_solver, needs_policy
from ncogym.envs import make
from ncogym.errors import NcogymError
from ncogym.search import SEARCHES
from ncogym.training.module import TrainingModule

SMALL = dict.fromkeys(("jssp-self-labelling", "jssp-second", "jssp-third", "poppy-jssp", "compass-jssp"), 24)
BATCH = 400  # nodes (jobs, items) of a batch, of the other configs
ALONE = {
    "PPO": "--env tsp --env.num_nodes 12 --algorithm PPO --nodes_per_batch 240",
    "Reinforce": "--env cvrp --env.num_customers 10 --algorithm Reinforce --nodes_per_batch 160",
    "Reinforce critic": "--env tsp --env.num_nodes 10 --algorithm Reinforce --algorithm.reward_baseline critic "
    "--nodes_per_batch 160",
    "PO": "--env tsp --env.num_nodes 12 --algorithm PO --nodes_per_batch 240",
    "BOPO": "--env jssp --env.num_jobs 4 --env.num_machines 3 --policy GraphPolicy --algorithm BOPO "
    "--nodes_per_batch 32",
}
PROBLEMS: dict[str, dict[str, int]] = {
    "tsp": {"num_nodes": 20},
    "atsp": {"num_nodes": 12},
    "cvrp": {"num_customers": 20},
    "knapsack": {"num_items": 30},
    "jssp": {"num_jobs": 5, "num_machines": 4},
}
COMPOSED = ("auto", "multistart+sampling", "sampling+symmetry", "multistart+symmetry+two-opt", "poppy+reconstruct")
BY_THE_CLOCK = ("ortools", "cp-sat", "fast-tsp", "lkh", "hgs", "pyvrp")  # whose solutions are not a seed's alone


def digest(value: Any) -> str:
    """Return the first digits of the SHA-256 of a tensor's bytes, or of a number."""
    if not isinstance(value, torch.Tensor):
        return str(value)
    plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()[:16]


def trained(line: str, beside: Path) -> dict[str, Any]:
    """Return the losses of 20 steps and a digest of the weights."""
    losses, step = [], TrainingModule.training_step

    def noted(module: TrainingModule, *arguments: Any) -> torch.Tensor:
        losses.append(loss := step(module, *arguments))
        return loss

    quick = "--max_steps 20 --validation.instances 2 --checkpoint_every 1000 --threads 1"
    with tempfile.TemporaryDirectory() as folder:
        TrainingModule.training_step = noted  # type: ignore[method-assign, assignment]
        try:
            code = main(f"train {line} {quick} --validation.folder {beside}/references --output {folder}/run".split())
        finally:
            TrainingModule.training_step = step  # type: ignore[method-assign]
        weights = None
        if code == 0:
            state = torch.load(f"{folder}/run/last.ckpt", weights_only=True)["state_dict"]
            told = " ".join(f"{name} {digest(value)}" for name, value in sorted(state.items()))
            weights = hashlib.sha256(told.encode()).hexdigest()
    return {"code": code, "losses": [float(loss.detach()).hex() for loss in losses], "weights": weights}


def solved(problem: str, name: str) -> Any:
    """Return the objectives, digests of the actions and rollouts of a solver, or the name of its error."""
    env = make(problem, **PROBLEMS[problem])
    try:
        policy = choose_policy(None, env, env.size, name).policy if needs_policy(name) else None
        found = make_solver(name, policy)(env, env.seeded(3, 4321), MaxRollouts(64), torch.Generator().manual_seed(5))
    except NcogymError as error:
        return type(error).__name__
    return [[each.objective, digest(each.actions), each.rollouts, each.solver] for each in found]


def record(path: Path, only: str) -> None:
    """Write what this commit gives."""
    beside, kept = path.resolve().parent, json.loads(path.read_text()) if path.exists() else {}
    configs = sorted(each.stem for each in Path("configs").rglob("*.yaml"))
    studies = {each.stem for folder in ("results", "evaluate") for each in Path("configs", folder).glob("*.yaml")}
    runs = {f"train {name}": line for name, line in ALONE.items()}
    for name in configs:
        if not name.startswith("paper-") and name not in studies:
            line = f"--config {name} --nodes_per_batch {SMALL.get(name, BATCH)}"
            if "imitation" in name:
                line += " --labels.chunks 1 --labels.chunk_size 64 --labels.seconds 0.05"
                line += f" --labels.folder {beside}/labels"
            runs[f"train {name}"] = line
    for name, line in runs.items():
        if only in name:
            kept[name] = trained(line, beside)
            path.write_text(json.dumps(kept, indent=1))
    for problem in PROBLEMS:
        for name in (*COMPOSED, *SEARCHES, *(name for name in SOLVERS if name not in BY_THE_CLOCK)):
            if only in f"solve {problem} {name}":
                kept[f"solve {problem} {name}"] = solved(problem, name)
    path.write_text(json.dumps(kept, indent=1))


def compare(before: Path, after: Path) -> int:
    """Print what differs, and return how much does."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    differ = [name for name in one if one[name] != other.get(name)]
    sys.stdout.write("".join(f"{name}: {one[name]} is now {other.get(name)}\n" for name in differ))
    sys.stdout.write(f"{len(one)} compared, {len(differ)} differ\n")
    return len(differ)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["record", "compare"])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--only", default="")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if told.do == "record":
        record(told.paths[0], told.only)
    else:
        sys.exit(bool(compare(*told.paths)))
