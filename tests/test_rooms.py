"""Who may import whom: the room table of docs/design.md section 2, read from the source without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "ncogym"


class Room(NamedTuple):
    """A row of the table; names are separated by spaces.

    Attributes:
        members: files or folders of the package; they may import each other.
        may: other rooms that they may import.
        packages: third-party packages that they may import, beside those of `OWN_FILES`.
    """

    members: str
    may: str = ""
    packages: str = "numpy torch tensordict jaxtyping"


RULES = "distribution problem task"
BOOKS = f"models {RULES} solution budget books solver"
GROUND = f"errors features sketch {BOOKS} plotting"
ROOMS = [
    Room("__init__", packages=""),  # names its homes in text and imports them late
    Room("__main__", "cli", packages=""),
    Room("_resources", "errors", packages=""),
    Room("_files", packages=""),
    Room("_light", packages="torch tensordict"),
    Room("_configs", "errors", packages="yaml jsonargparse"),
    Room("distributed", "errors", packages="torch"),
    Room(GROUND, "_files"),
    Room("envs", GROUND),
    Room("policies", "errors features"),
    Room("workers", packages=""),
    Room("baselines", f"errors {BOOKS} envs workers", "numpy torch tensordict jaxtyping rich"),
    Room("kernels", f"errors features {RULES} _resources _files"),
    Room("journal", "errors", packages=""),
    Room("records", "errors envs _files", packages=""),
    Room("known", f"errors {RULES} envs records", "tensordict torch"),
    Room("sets", f"{GROUND} envs known references _files", "numpy torch tensordict"),
    Room(
        "references",
        f"{GROUND} distributed journal workers _resources _files",
        "numpy torch tensordict jaxtyping safetensors",
    ),
    Room("laws", f"errors features envs {BOOKS}"),
    Room("rollout", f"errors features {RULES} solution kernels policies"),
    Room("algorithms", f"errors features {RULES} rollout policies"),
    Room("device_law", f"errors features laws {RULES} policies rollout algorithms", "torch tensordict"),
    Room("search", f"errors features {BOOKS} rollout policies"),
    Room("pretrained", "errors features policies _files", "torch safetensors"),
    # run.py puts a policy, an algorithm and references together, and writes the weights with their card
    Room(
        "training",
        f"{GROUND} distributed rollout policies algorithms references sets pretrained _resources _files",
        "numpy torch tensordict safetensors yaml",
    ),
    Room(
        "evaluation report page",
        f"{GROUND} distributed journal references sets _files",
        "numpy torch tensordict jaxtyping rich",
    ),
    Room(
        "auto composing solving",
        f"{GROUND} kernels envs known records sets policies baselines search rollout pretrained _files",
        "torch tensordict",
    ),
    # from names to evaluations, so that the command line has no logic of its own
    Room(
        "study",
        f"_resources {GROUND} envs sets policies baselines pretrained references evaluation auto composing solving",
        "torch tensordict",
    ),
    Room("plugins", f"errors {RULES} envs policies baselines algorithms search", packages=""),
    Room("learning", f"{RULES} auto composing solving training", packages=""),
    Room("bench", f"errors features {RULES} kernels rollout policies algorithms", "torch tensordict"),
    Room(
        "cli",
        f"_configs _light _resources {GROUND} envs sets policies baselines rollout laws algorithms search pretrained "
        "training references evaluation report auto composing solving learning plugins study bench distributed _files",
        "numpy torch tensordict rich jsonargparse docstring_parser yaml",
    ),
]
OWN_FILES = {  # packages that only these files may name
    "elkai": "baselines/lkh.py",
    "fast_tsp": "baselines/fast_tsp.py",
    "gymnasium": "envs/gym.py",
    "hygese": "baselines/hgs.py",
    "PIL": "envs/gym.py",
    "lightning": "training/*",
    "matplotlib": "plotting.py",
    "networkx": "envs/graph/moves.py",
    "ortools": "baselines/ortools_*.py",
    "pyvrp": "baselines/pyvrp.py",
    "torch_geometric": "policies/graph.py",
    "torchrl": "envs/env.py laws.py algorithms/ppo.py",
    "triton": "kernels/cuda.py",
}
# the others cost too much at import or belong to an extra; gymnasium's one file is imported by users alone
ALWAYS_THERE = ("gymnasium", "lightning", "torchrl")
APART = ("algorithms", "search")  # one file never imports another, but for COMMON; __init__.py lists them all
COMMON = (["base"], ["cmaes"])  # what several searches are built of
LATE = (
    "__init__.py",
    "_configs.py",
    "plugins.py",
)  # import by name: own homes, and what users name
READS_CARDS = ("pretrained", "composing")  # compare an env's name with the one on a policy's card, which is data


def _problems() -> dict[str, str]:
    """Return the names in the literal table PROBLEMS and their classes."""
    for node in ast.parse((PACKAGE / "envs/__init__.py").read_text()).body:
        match node:
            case ast.AnnAssign(target=ast.Name("PROBLEMS"), value=ast.Dict(keys, values)):
                return {key.value: ast.unparse(value) for key, value in zip(keys, values, strict=True)}
    raise LookupError("envs/__init__.py: no literal table PROBLEMS")


PROBLEMS = _problems()
# the files of families that are one problem; beside them lies what a family shares
SHARED = {"__init__", "instances", "moves", "geometry", "mutations", "schedule"}
FAMILIES = [folder for folder in (PACKAGE / "envs").iterdir() if folder.is_dir() and folder.name != "formats"]
CONCRETE = {*PROBLEMS.values(), *(p.stem for folder in FAMILIES for p in folder.glob("*.py"))} - SHARED


def _walk(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it is run (or read) later than the module's import."""
    for child in ast.iter_child_nodes(node):
        yield child, late
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        )
        yield from _walk(child, late or deferred)


def _room(member: str) -> Room | None:
    return next((room for room in ROOMS if member in room.members.split()), None)


def _import_breaches(path: str, target: str, late: bool) -> Iterator[str]:
    """Yield what is wrong with the import of the dotted name ``target`` by the file ``path`` of the package."""
    member, *inner = path.removesuffix(".py").split("/")
    room = _room(member)
    top, *rest = target.split(".")
    if room is None or top in sys.stdlib_module_names or target == "ncogym.__version__":
        return
    if top in OWN_FILES:
        if not any(fnmatch(path, pattern) for pattern in OWN_FILES[top].split()):
            yield f"only {OWN_FILES[top]} may import {top}"
        elif not late and top not in ALWAYS_THERE:
            yield f"{top} is imported inside functions"
    elif top != "ncogym":
        if top not in room.packages.split():
            yield f"{member} may not import {top}"
    elif not rest or _room(rest[0]) is None:
        yield f"{target} is no room; import a name from the file that defines it"
    elif rest[0] not in room.members.split() and rest[0] not in room.may.split():
        yield f"{member} may not import {rest[0]}"
    elif rest[0] == member and member in APART and inner != ["__init__"] and rest[1:2] not in (*COMMON, inner):
        yield f"{member}: one file may not import another"
    elif rest[0] == "envs" != member and CONCRETE.intersection(rest):
        yield f"{target} is one problem; only envs knows problems"


def _asks(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions whose value ``node`` lets decide."""
    match node:
        case ast.Compare():
            yield from (node.left, *node.comparators)
        case ast.Match():
            yield node.subject
        case ast.MatchValue():
            yield node.value
        case ast.Subscript():
            yield node.slice
        case ast.Dict():
            yield from filter(None, node.keys)
        case ast.Call(func=ast.Attribute(attr="get" | "startswith" | "endswith", value=value), args=args):
            yield from (value, *args)


def _problem_breaches(path: str, node: ast.AST) -> Iterator[str]:
    """Yield where ``node`` lets a problem's name decide."""
    member = path.removesuffix(".py").split("/")[0]
    if member == "envs":
        return
    for expression in _asks(node):
        parts = expression.elts if isinstance(expression, ast.Tuple | ast.List | ast.Set) else [expression]
        for part in parts:
            text = ast.unparse(part)
            if isinstance(part, ast.Constant) and part.value in PROBLEMS:
                yield f"asks for the problem {text}"
            if (text == "env_name" or text.endswith("env.name")) and member not in READS_CARDS:
                yield f"asks {text}"


def breaches(path: str, source: str) -> list[str]:
    """Return what breaks the table in a file of the package.

    Args:
        path: relative to the package, with slashes.
        source: its text.
    """
    found = [] if _room(path.removesuffix(".py").split("/")[0]) else [f"{path}:1: in no room of the table"]
    for node, late in _walk(ast.parse(source)):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and path != "__init__.py":
            targets = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            targets = [] if path in LATE else ["ncogym"]
        complaints = [words for target in targets for words in _import_breaches(path, target, late)]
        complaints += _problem_breaches(path, node)
        found += [f"{path}:{getattr(node, 'lineno', 1)}: {words}" for words in complaints]
    return found


@pytest.mark.parametrize("path", sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")))
def test_file_keeps_the_table(path: str) -> None:
    """A file of the package imports only what its room may, and only envs/ lets a problem's name decide."""
    assert breaches(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("new.py", "", "in no room"),
        ("errors.py", "from ncogym.envs import make", "errors may not import envs"),
        ("solver.py", "from ncogym import envs", "solver may not import envs"),
        ("distributed.py", "import lightning", "only training/* may import lightning"),
        ("search/eas.py", "from ncogym.distributed import gather", "search may not import distributed"),
        ("envs/routing/tsp.py", "import ncogym.policies.base", "envs may not import policies"),
        ("envs/routing/tsp.py", "def f():\n    import lightning", "only training/* may import lightning"),
        ("policies/base.py", "from ncogym.envs.routing.moves import rotated", "policies may not import envs"),
        ("policies/base.py", "from torchrl.envs import EnvBase", "algorithms/ppo.py may import torchrl"),
        ("envs/routing/tsp.py", "from torchrl.envs import EnvBase", "only envs/env.py laws.py"),
        ("policies/base.py", "import torch_geometric.nn", "only policies/graph.py may import torch_geometric"),
        ("baselines/heuristics.py", "from ortools.sat.python import cp_model", "only baselines/ortools_*.py"),
        ("baselines/lkh.py", "from ncogym.policies import base", "baselines may not import policies"),
        ("baselines/two_opt.py", "from ncogym.envs.routing.tsp import TSP", "only envs knows problems"),
        ("baselines/two_opt.py", "from ncogym.envs import TSP", "only envs knows problems"),
        ("rollout/acting.py", "from ncogym.envs.routing.moves import rotated", "rollout may not import envs"),
        ("algorithms/pomo.py", "import ncogym.search", "algorithms may not import search"),
        ("algorithms/pomo.py", "from ncogym.training.module import A", "algorithms may not import training"),
        ("algorithms/pomo.py", "import lightning", "only training/* may import lightning"),
        ("algorithms/pomo.py", "from ncogym.algorithms.reinforce import REINFORCE", "one file may not import another"),
        ("algorithms/pomo.py", "from ncogym.algorithms import reinforce", "one file may not import another"),
        ("search/beam.py", "from ncogym.algorithms.pomo import POMO", "search may not import algorithms"),
        ("search/beam.py", "from ncogym.search.greedy import GreedySearch", "one file may not import another"),
        ("training/module.py", "from ncogym.search import GreedySearch", "training may not import search"),
        ("training/module.py", "from ncogym.baselines import SOLVERS", "training may not import baselines"),
        ("evaluation.py", "from ncogym.training import module", "evaluation may not import training"),
        ("report/folder.py", "import matplotlib.pyplot", "only plotting.py may import matplotlib"),
        ("plotting.py", "import matplotlib.pyplot", "inside functions"),
        ("baselines/fast_tsp.py", "import fast_tsp", "fast_tsp is imported inside functions"),
        ("solving.py", "from ncogym.cli import main", "solving may not import cli"),
        ("solving.py", "from ncogym import make", "no room"),
        ("search/eas.py", "from .greedy import Greedy", "search may not import "),
        ("search/eas.py", "import importlib\nimportlib.import_module(x)", "no room"),
        ("policies/base.py", "if self.env.name == x: ...", "asks self.env.name"),
        ("search/eas.py", "TABLE[env.name]", "asks env.name"),
        ("search/eas.py", "if env_name in names: ...", "asks env_name"),
        ("search/eas.py", "match env.name:\n    case _: ...", "asks env.name"),
        ("search/eas.py", "x = name in ('tsp', 'other')", "asks for the problem 'tsp'"),
        ("search/eas.py", "STARTS = {'tsp': 1}", "asks for the problem 'tsp'"),
        ("pretrained.py", "if name == 'tsp': ...", "asks for the problem 'tsp'"),
    ],
)
def test_breach_is_named(path: str, source: str, words: str) -> None:
    """Each kind of breach is found, so that the test above is able to fail."""
    assert words in " ".join(breaches(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("plotting.py", "def draw():\n    import matplotlib.pyplot"),
        ("plotting.py", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("baselines/ortools_routing.py", "def solve():\n    from ortools.constraint_solver import pywrapcp"),
        ("baselines/two_opt.py", "from ncogym.envs.routing.moves import rotated"),
        ("algorithms/pomo.py", "from ncogym.algorithms.base import Algorithm"),
        ("search/__init__.py", "from ncogym.search.greedy import GreedySearch"),
        ("search/compass.py", "from ncogym.search.cmaes import CMAES"),
        ("envs/__init__.py", "PROBLEMS = {'tsp': TSP}"),
        ("envs/env.py", "import torchrl"),
        ("training/run.py", "from ncogym import __version__"),
        ("laws.py", "raise LawBroken(f'{env.name} breaks it')"),
        ("pretrained.py", "if card['env']['name'] == env_name: ..."),
    ],
)
def test_permitted_is_not_named(path: str, source: str) -> None:
    """What the table allows raises no complaint."""
    assert breaches(path, source) == []
