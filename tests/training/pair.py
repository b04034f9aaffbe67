"""What each of two processes does for test_distributed.py, which starts them: ``python pair.py FOLDER``.

One pair does it all, since to start one takes longer than what it does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from ncogym.algorithms import POMO, PPO, Imitation, Reinforce
from ncogym.cli import main
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Part
from ncogym.training.callbacks import Interruptible
from ncogym.training.module import TrainingModule
from ncogym.training.run import Labels, Optimiser, ValidationSettings, train

# without layers whose gradient is 0 but for rounding, which Adam would blow up
POLICY = partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16, norm="none", edge_bias=False)
EVALUATE = "evaluate --env tsp --env.num_nodes 6 --instances 130 --rollouts 3 --seed 7 --format json --solvers"
EVALUATE = [*EVALUATE.split(), "random-insertion,two-opt", "--reference", "two-opt"]


def settings(folder: Path, **changes: object) -> dict[str, object]:
    """Return the settings of a run of two streams that differs in ``changes`` from the others."""
    return {
        "policy": POLICY,
        "nodes_per_batch": 256,
        "streams": 2,
        "max_steps": 4,
        "steps_per_epoch": 2,
        "optimiser": Optimiser(lr=1e-3, anneal=0.0),
        "accelerator": "cpu",
        "threads": 1,
        "output": str(folder),
    } | changes


def runs(folder: Path) -> dict[str, dict[str, object]]:
    """Return the runs that two processes and one do alike, as arguments of `train`."""
    env = make("tsp", num_nodes=8)
    validation = ValidationSettings(
        sizes=[8],
        instances=130,
        solver="multistart",
        reference="two-opt",
        reference_seconds=10,  # so that no clock decides
        folder=str(folder / "references"),
    )
    labels = Labels(solver="two-opt", seconds=None, chunks=3, chunk_size=40, folder=str(folder / "labels"))
    return {
        "pomo": settings(folder / "pomo", env=env, algorithm=POMO(), validation=validation),
        "average": settings(folder / "average", env=env, algorithm=Reinforce("exponential", rollouts=2)),
        "critic": settings(folder / "critic", env=env, algorithm=Reinforce("critic", rollouts=2)),
        "ppo": settings(folder / "ppo", env=make("cvrp", num_customers=8), algorithm=PPO(2, epochs=3)),
        "unused": settings(folder / "unused", env=make("knapsack", num_items=8), algorithm=POMO()),
        "imitation": settings(folder / "imitation", env=env, algorithm=Imitation(2), labels=labels, sizes=(6, 9)),
    }


def work(folder: Path) -> None:
    """Do all of it, and leave what the test asks about in ``RANK.json``."""
    rank, seen = int(os.environ["RANK"]), {}
    env = make("tsp", num_nodes=8)
    draw = TrainingModule.draw

    def remember(self: TrainingModule, step: int) -> list[Part]:
        drawn = draw(self, step)
        if "instances" not in seen:
            seen["instances"] = [float(each["locs"].sum()) for part in drawn for each in part.instances]
        return drawn

    TrainingModule.draw = remember
    label, solved = two_opt.__class__.__call__, []

    def count(self: object, env: object, instances: object, *rest: object) -> object:
        solved.append(instances.batch_size[0])
        return label(self, env, instances, *rest)

    two_opt.__class__.__call__ = count
    for name, each in runs(folder).items():
        solved.clear()
        train(make_solver=make_solver, devices=2, **each)
        seen[f"solved_{name}"] = list(solved)
    TrainingModule.draw = draw

    note = Interruptible.on_train_batch_start

    def signalled(self: Interruptible, trainer: object, *rest: object) -> None:
        note(self, trainer, *rest)
        if rank == 1 and trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Interruptible.on_train_batch_start = signalled
    cut = settings(folder / "cut", algorithm=POMO(), checkpoint_every=100)
    try:
        train(env, make_solver, devices=2, **cut)
    except KeyboardInterrupt as interrupt:
        seen["interrupt"] = str(interrupt)
    seen["at"] = torch.load(folder / "cut" / "last.ckpt", weights_only=True)["global_step"]
    train(env, make_solver, devices=2, resume=True, **cut | {"streams": 0})

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        seen["code"] = main(EVALUATE)
    seen["printed"] = out.getvalue()
    (folder / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    two_opt = make_solver("two-opt")
    work(Path(sys.argv[1]))
