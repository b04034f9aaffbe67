"""CONTRIBUTING's recipes, followed to the letter in a copy of the package: one file, and one line in a table."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_plugins import PARTS, run

PACKAGE = Path(__file__).parents[1] / "ncogym"
RECIPES = {  # what is added: its name, its file, the table's file and the table
    "Ring": ("ring", "envs/routing/ring.py", "envs/__init__.py", "PROBLEMS"),
    "InOrder": ("in-order", "baselines/in_order.py", "baselines/__init__.py", "SOLVERS"),
    "Twice": ("twice", "search/twice.py", "search/__init__.py", "SEARCHES"),
    "Best": ("Best", "algorithms/best.py", "algorithms/__init__.py", "ALGORITHMS"),
    "Small": ("Small", "policies/small.py", "policies/__init__.py", "POLICIES"),
}


def classes() -> dict[str, str]:
    """Return the source of each class of `PARTS`, and of the lines before the first."""
    head, *bodies = re.split(r"^(?=class )", PARTS.partition("\nfor name, part")[0], flags=re.MULTILINE)
    found = {re.match(r"class (\w+)", body)[1]: body for body in bodies}
    return {"": head.replace("import ncogym\n", ""), **found}


def add_line(path: Path, table: str, name: str, kind: str, module: str) -> None:
    """Put an entry into a literal table, and an import above it."""
    text = path.read_text()
    entry = re.sub(rf"^({table}: [^=]*= {{\n?)", rf'\1    "{name}": {kind},\n', text, count=1, flags=re.MULTILINE)
    assert entry != text
    first = re.search(r"^from ncogym\.", entry, flags=re.MULTILINE)
    path.write_text(f"{entry[: first.start()]}from ncogym.{module} import {kind}\n{entry[first.start() :]}")


@pytest.mark.slow
def test_recipes_are_true(tmp_path: Path) -> None:
    """A problem, a solver, a search, an algorithm and a policy, each by its file and its line, work everywhere."""
    home = tmp_path / "checkout"
    shutil.copytree(PACKAGE, home / "ncogym", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (home / "ncogym" / "weights").mkdir()
    shutil.copytree(PACKAGE.parent / "configs", home / "configs")
    sources = classes()
    instances = home / "ncogym/envs/routing/instances.py"
    instances.write_text(instances.read_text() + "\n\n" + sources["Rings"].rstrip() + "\n")
    head = sources[""] + "from ncogym.envs.routing.instances import Rings\n"
    plain = re.sub(r"from ncogym\.(envs|baselines|policies|search|algorithms|rollout|models|books)[^\n]*\n", "", head)
    uses = {
        "Ring": "from ncogym.envs.routing.tsp import TSP\nfrom ncogym.envs.routing.instances import Rings\n",
        "InOrder": "from ncogym.baselines.base import Baseline\nfrom ncogym.books import Progress\n"
        "from ncogym.models import Tour\n",
        "Twice": "from ncogym.books import Progress\nfrom ncogym.search.base import Search\n"
        "from ncogym.rollout import act, encode\nfrom ncogym.policies.decoding import Sample\n",
        "Best": "from ncogym.algorithms.base import Algorithm\nfrom ncogym.rollout import Outcome\n",
        "Small": "from ncogym.policies.attention import AttentionPolicy\n",
    }
    # a search of the house imports no other: it samples itself
    sources["Twice"] = '''class Twice(Search):
    """The better of two samples."""

    name = "twice"

    def __init__(self, policy):
        self.policy = policy

    def __call__(self, env, instances, budget, rng):
        progress = Progress(env, instances, budget)
        encoded = encode(env, self.policy, instances)
        progress.offer(act(env, self.policy, encoded, instances, Sample(), rng, rollouts=2).actions)
        return progress.solutions(self.name)
'''
    for kind, (name, file, place, table) in RECIPES.items():
        (home / "ncogym" / file).write_text(f"{plain}{uses[kind]}\n\n{sources[kind].rstrip()}\n")
        module = file.removesuffix(".py").replace("/", ".")
        add_line(home / "ncogym" / place, table, name, kind, module)
    for command in (
        "list",
        "train --env ring --env.num_nodes 6 --policy Small --algorithm Best --max_steps 2 --nodes_per_batch 30 "
        "--validation.instances 2 --validation.reference in-order --output run",
        "evaluate --env ring --env.num_nodes 6 --instances 4 --solvers twice,in-order,in-order+two-opt,twice+two-opt "
        "--policy run/policy --output table",
    ):
        done = run(home, command)
        assert done.returncode == 0, (command, done.stderr)
        if command == "list":
            words = re.split(r"\s+", done.stdout)
            assert {"ring", "in-order", "twice", "Small"} <= {*words}
    checked = "from ncogym import envs, laws; laws.check_env(envs.build_task('ring', num_nodes=6))"
    held = subprocess.run([sys.executable, "-c", checked], cwd=home, capture_output=True, text=True)
    assert held.returncode == 0, held.stderr
