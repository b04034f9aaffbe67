"""Parts from outside: registered by a module that the user names or installs, they work wherever built-in ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ncogym import plugins
from ncogym.algorithms import ALGORITHMS, POMO
from ncogym.baselines import SOLVERS
from ncogym.envs import PROBLEMS
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.search import SEARCHES, Sampling

PARTS = '''
"""One part of each kind."""

import torch

import ncogym
from ncogym.algorithms import Algorithm
from ncogym.baselines.base import Baseline
from ncogym.books import Progress
from ncogym.envs.routing.instances import TSPDistribution
from ncogym.envs.routing.tsp import TSP
from ncogym.models import Tour
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Outcome
from ncogym.search import Search


class Rings(TSPDistribution):
    """Nodes on a circle."""

    reference_sets = {}

    def draw(self, count, rng):
        drawn = super().draw(count, rng)
        turn = drawn["locs"][..., 0] * 2 * torch.pi
        return drawn.update({"locs": torch.stack([turn.cos(), turn.sin()], dim=-1)})


class Ring(TSP):
    """Tours of nodes on a circle."""

    name, suffixes, distribution_type = "ring", (".ring",), Rings
    model = TSP.model


class InOrder(Baseline):
    """Visit the nodes by their numbers."""

    name, reads = "in-order", (Tour,)

    def __call__(self, env, instances, budget, rng):
        progress, dists = Progress(env, instances, budget), self.model(env, instances).distances
        progress.offer(torch.arange(dists.nodes).expand(len(instances), 1, -1))
        return progress.solutions(self.name)


class Twice(Search):
    """The better of two samples."""

    name = "twice"

    def __init__(self, policy):
        self.inner = ncogym.search.Sampling(policy, samples=2)

    def __call__(self, env, instances, budget, rng):
        progress = Progress(env, instances, budget)
        progress.take(self.inner(env, instances, progress.left(), rng))
        return progress.solutions(self.name)


class Best(Algorithm):
    """Raise the log-probability of the best of four samples."""

    def step(self, work):
        found = work.act(rollouts=4)
        best = found.reward.argmax(1, keepdim=True)
        return Outcome(-work.score(found, carrying=1).gather(1, best).mean())


class Small(AttentionPolicy):
    """A small attention policy."""

    def __init__(self, dims, dim=16):
        super().__init__(dims, dim=dim, num_layers=1, num_heads=2, feedforward=16)

    def arguments(self):
        return {"dim": 16}


for name, part in {"ring": Ring, "in-order": InOrder, "twice": Twice, "Best": Best, "Small": Small}.items():
    ncogym.register(name, part)
'''
TRAIN = "--policy Small --algorithm Best --max_steps 2 --nodes_per_batch 30 --validation.instances 2"


def run(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, whose modules can be imported."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "ncogym", *line.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_parts_work_everywhere(tmp_path: Path) -> None:
    """One part of each kind is listed, trains, is saved and loaded, solves and is compared."""
    (tmp_path / "parts.py").write_text(PARTS)
    listed = run(tmp_path, "list envs --import parts")
    assert "ring" in listed.stdout, listed.stderr
    for command in (
        f"train --import parts --env ring --env.num_nodes 6 {TRAIN} --validation.reference in-order --output run",
        "evaluate --import parts --env ring --env.num_nodes 6 --instances 4 --solvers twice,in-order,in-order+two-opt "
        "--policy run/policy --reference two-opt --output table",
        "generate --import parts --env ring --env.num_nodes 6 --instances 2 --output set.npz",
        "evaluate --import parts --env ring --instances set.npz --solvers in-order,twice+two-opt --policy run/policy",
        "generate --import parts --env ring --env.num_nodes 5 --instances 1 --output one.npz",
        "solve --import parts --problem ring --solver in-order+two-opt one.npz",
        "bench env --import parts --env ring --env.num_nodes 6 --batch 2 --rollouts 2 --device cpu",
    ):
        done = run(tmp_path, command)
        assert done.returncode == 0, (command, done.stderr)
    card = json.loads((tmp_path / "run/policy/card.json").read_text())
    assert "parts.Small" in json.dumps(card["policy"])
    refused = run(tmp_path, "evaluate --env ring --instances set.npz --solvers in-order")
    assert (refused.returncode, "ring" in refused.stderr) == (2, True)
    assert len(refused.stderr.splitlines()) == 1


def test_installed_packages_are_found(tmp_path: Path) -> None:
    """What an installed package names in its entry points is there without a flag; what fails is a line."""
    (tmp_path / "parts.py").write_text(PARTS)
    info = tmp_path / "parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ncogym]\nmine = parts\nlost = no_such_module\n")
    listed = run(tmp_path, "list solvers")
    assert listed.returncode == 0
    assert {"in-order", "twice"} <= set(listed.stdout.split())
    assert listed.stderr.count("\n") == 1
    assert "lost: no_such_module cannot be imported (ModuleNotFoundError: " in listed.stderr


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("tsp", type("Other", (TSP,), {"name": "tsp"}), "'tsp' is not allowed; it is the name of another problem"),
        ("ring", type("Other", (TSP,), {"name": "rong"}), "'ring' is not allowed; the problem calls itself 'rong'"),
        ("greedy", type("Other", (Sampling,), {}), "'greedy' is not allowed; it is the name of another search"),
        ("two-opt", type("Other", (Sampling,), {}), "'two-opt' is not allowed; it is the name of another search"),
        ("a+b", type("Other", (Sampling,), {}), r"'a\+b' is not allowed; a solver's name has no"),
        ("POMO", type("Other", (POMO,), {}), "'POMO' is not allowed; it is the name of another algorithm"),
        ("AttentionPolicy", type("Other", (AttentionPolicy,), {}), "it is the name of another policy"),
        ("int", int, "<class 'int'> is not allowed; it must be a subclass of Problem, Policy, Algorithm or Search"),
        ("seven", 7, "7 is not allowed; it must be a subclass"),
    ],
)
def test_refusals(name: str, part: type, words: str) -> None:
    """A name that is another's, or what is no part, is refused in one line and changes nothing."""
    before = [dict(table) for table in (PROBLEMS, SEARCHES, SOLVERS, ALGORITHMS)]
    with pytest.raises(ArgumentError, match=words):
        plugins.register(name, part)
    assert before == [PROBLEMS, SEARCHES, SOLVERS, ALGORITHMS]


def test_the_same_part_again_is_no_fault() -> None:
    """A module that is imported twice registers twice."""
    plugins.register("tsp", TSP)
    assert PROBLEMS["tsp"] is TSP
