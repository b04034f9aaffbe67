"""What is fuzzed: for each target valid files, which of them are damaged and how, and who reads them.

The valid files are written by the package's own writers, or are those of ``tests/data``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from fuzz import mutants
from hypothesis import strategies as st

from ncogym import cli
from ncogym.baselines import SOLVERS
from ncogym.budget import MaxRollouts
from ncogym.envs import PROBLEMS, make
from ncogym.errors import ArgumentError, NcogymError
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent, PolyNet, Population
from ncogym.pretrained import load_policy, save_policy
from ncogym.search import GreedySearch
from ncogym.sets import open_set, recognise, unnamed, write_labelled
from ncogym.solving import render, solve

DATA = Path(__file__).parents[1] / "data"
Files = dict[str, bytes]
SAMPLED = 20  # of so many cases that stay valid one is used, too: solved, drawn


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        name: of the target.
        cases: of 100,000.
        ci: of `make test`, 0 where only the campaign tries it.
        seeds: writes the valid folders, each with the names of the files in it that are damaged.
        mutant: damages the content of a file.
        read: reads the folder of a case; the second argument says whether to use what was read, too.
    """

    name: str
    cases: int
    ci: int
    seeds: Callable[[], list[tuple[Files, list[str]]]]
    mutant: Callable[[mutants.Draw, bytes], bytes]
    read: Callable[[Path, bool], Any]

    @functools.cached_property
    def valid(self) -> list[tuple[Files, list[str]]]:
        """What `seeds` returned, once."""
        return self.seeds()

    def strategy(self) -> st.SearchStrategy[tuple[Files, bool]]:
        """Return the cases: files, and whether to use what is read of them."""
        seeds = self.valid

        @st.composite
        def case(draw: mutants.Draw) -> tuple[Files, bool]:
            files, names = draw(st.sampled_from(seeds))
            name = draw(st.sampled_from(names))
            return {**files, name: self.mutant(draw, files[name])}, draw(st.integers(1, SAMPLED)) == SAMPLED

        return case()

    def run(self, files: Files, sampled: bool) -> Any:
        """Read a case in a folder of its own."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            put(files, Path("case"))
            return self.read(Path("case"), sampled)


def put(files: Files, folder: Path) -> None:
    """Write files to a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _taken(write: Callable[[Path], Any]) -> Files:
    """Return the files that something writes to a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _rules(env: Any, data: Any) -> list[str]:
    """Return the names of the quick rules that take instances of a problem."""
    rules = ("nearest-neighbour", "savings", "ratio-greedy", "dispatch:MWKR", "degree-greedy")
    return [name for name in rules if SOLVERS[name]().supports(env, data)]


def _tried(env: Any, data: Any) -> None:
    """Solve instances by the quick rules that take them."""
    for name in _rules(env, data):
        SOLVERS[name]()(env, data, MaxRollouts(1), torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------- instance files

SUFFIX = {"tsp": ".tsp", "atsp": ".atsp", "cvrp": ".vrp", "jssp": ".jsp", "knapsack": ".kp", "mis": ".mis"}
SUFFIX |= {"vrptw": ".solomon.txt", "clique": ".clq", "mvc": ".cover.mis", "mds": ".dominating.mis", "maxcut": ".rud"}
SHAPES = {
    "FULL_MATRIX": "0 3 4 5\n3 0 6 7\n4 6 0 8\n5 7 8 0",
    "UPPER_ROW": "3 4 5\n6 7\n8",
    "LOWER_ROW": "3\n4 6\n5 7 8",
    "UPPER_DIAG_ROW": "0 3 4 5\n0 6 7\n0 8\n0",
    "LOWER_DIAG_ROW": "0\n3 0\n4 6 0\n5 7 8 0",
}
PLACES = "1 0.5 1.5\n2 10.25 0.5\n3 3 40.59\n4 20 20"


def _tsplib() -> list[bytes]:
    """Return symmetric instances of four nodes in the ways that TSPLIB writes them."""
    head = "NAME : x\nCOMMENT : four\nTYPE : TSP\nDIMENSION : 4\nEDGE_WEIGHT_TYPE : "
    kinds = ("EUC_2D", "CEIL_2D", "EXACT_2D", "ATT", "GEO", "GEOM", "MAN_2D", "MAX_2D")
    plane = [f"{head}{kind}\nNODE_COORD_SECTION\n{PLACES}\nEOF\n" for kind in kinds]
    explicit = f"{head}EXPLICIT\nEDGE_WEIGHT_FORMAT : "
    rows = [f"{explicit}{shape}\nEDGE_WEIGHT_SECTION\n{rows}\nEOF\n" for shape, rows in SHAPES.items()]
    shown = f"{rows[0][:-4]}DISPLAY_DATA_TYPE : TWOD_DISPLAY\nDISPLAY_DATA_SECTION\n{PLACES}\nEOF\n"
    return [each.encode() for each in (*plane, *rows, shown)]


# what public files have beside the plain instance: limits that bind nothing, headers below their section, solutions ...
FORMS = {
    "cvrp": [
        "TYPE : CVRP\nBEST_KNOWN : 34\nDIMENSION : 3\nEDGE_WEIGHT_TYPE : EUC_2D\nCAPACITY : 5\nDISTANCE : 99999999\n"
        "SERVICE_TIME : 0\nVEHICLES : 2\nNODE_COORD_SECTION\n1 0 0\n2 3 4\n3 6 8\nDEMAND_SECTION\n1 0\n2 1\n3 2\n"
        "DEPOT_SECTION\n1\n-1\nEOF\n",
        "DEMAND_SECTION\n1 0\n2 1\n3 2\nDEPOT_SECTION\n1\n-1\nNODE_COORD_SECTION\n1 0 0\n2 .3 .4\n3 .6 .8\n"
        "TYPE : CVRP\nDIMENSION : 3\nEDGE_WEIGHT_TYPE : EXACT_2D\nCAPACITY : 5\n",
    ],
    "jssp": [
        "x01\n2 2\n0 3 1 2\n1 4 0 1\n6\n0 3\n2 1\n",
        "3 3\n0 3 1 2 2 1\n1 4\n0 1 2 2\n",
    ],
    "mis": ["c weights\np col 4 4\nn 1 2.5\nn 4 7\ne 1 2\ne 2 3\ne 2 1\ne 4 3\n", "p edge 2 0\n"],
    "knapsack": ["3 5\n10 0\n3 2\n4 4\n1 1 0\n", "2\n1 10 0\n2 3 2\n5\n", "2\n5\n10 0\n3 2\n"],
}


def _instances(problem: str) -> list[bytes]:
    """Return valid instance files of a problem."""
    env, suffix = make(problem).resized(5), SUFFIX[problem]

    def write(folder: Path) -> None:
        data = env.generate(2, torch.Generator().manual_seed(1))
        with suppress(ArgumentError):  # it writes no files
            env.write(data[:1], folder / f"a{suffix}")
            env.write(data[1:], folder / f"b{suffix}")

    kept = [path.read_bytes() for path in sorted(DATA.glob(f"*{suffix}"))]
    forms = [text.encode() for text in FORMS.get(problem, ())]
    return [*_taken(write).values(), *kept, *forms, *(_tsplib() if problem == "tsp" else ())]


_env = functools.cache(make)


def _read(problem: str, folder: Path, sampled: bool) -> None:
    env = _env(problem)
    data = env.read(folder / f"a{SUFFIX[problem]}")
    if sampled:
        _tried(env, data)


def _reader(problem: str) -> Target:
    name = f"a{SUFFIX[problem]}"
    seeds = lambda: [({name: content}, [name]) for content in _instances(problem)]  # noqa: E731
    return Target(f"{problem} files", 9000, 25, seeds, mutants.text, functools.partial(_read, problem))


def _texts() -> list[tuple[Files, list[str]]]:
    told = [
        name for name, kind in PROBLEMS.items() if ".txt" in kind.suffixes or SUFFIX[name] in (".tsp", ".atsp", ".vrp")
    ]
    return [({"a.txt": content}, ["a.txt"]) for problem in told for content in _instances(problem)]


def _recognised(folder: Path, sampled: bool) -> None:
    env = recognise(folder / "a.txt")
    data = env.read(folder / "a.txt")
    if sampled:
        _tried(env, data)


# ---------------------------------------------------------------------- solutions and an index beside them


def _beside() -> list[tuple[Files, list[str]]]:
    found = []
    for instance, solution in (("cross4.vrp", "cross4.sol"), ("rectangle4.tsp", "rectangle4.opt.tour")):
        files = {name: (DATA / name).read_bytes() for name in (instance, solution)}
        found.append((files, [solution]))
    for problem, suffix in (("tsp", ".opt.tour"), ("cvrp", ".sol")):
        env = make(problem).resized(5)

        def write(folder: Path, env: Any = env, problem: str = problem) -> None:
            path = folder / f"a{SUFFIX[problem]}"
            env.write(env.generate(1, torch.Generator().manual_seed(1)), path)
            data = env.read(path)
            env.write_solution(data, _first_fit(env, data)[0], path, "a")

        files = _taken(write)
        solution = next(name for name in files if not name.endswith(SUFFIX[problem]))
        files[f"a{suffix}"] = files.pop(solution)
        found.append((files, [f"a{suffix}"]))
    return found


def _first_fit(env: Any, data: Any) -> torch.Tensor:
    """Return the solution ``[batch, steps]`` that takes the first action that is allowed at every step."""
    state, actions = env.start(data), []
    while not state.done.all():
        actions.append(state.action_mask.int().argmax(-1))
        state = env.advance(state, actions[-1])
    return torch.stack(actions, -1)[:, 0]


def _open_beside(folder: Path, sampled: bool) -> None:
    path = next(each for each in folder.iterdir() if each.suffix in (".vrp", ".tsp"))
    open_set(str(folder if sampled else path))
    solve(path, solver="nearest-neighbour")


INDEX = b"""name,file,problem,best_known,proven_optimal
matrix4,matrix4.tsp,tsp,14,true
rectangle4,rectangle4.tsp,tsp,14,false
square4,square4.tsp,tsp,,
other,sub/other.tsp,tsp,5.5,
"""


def _indexed() -> list[tuple[Files, list[str]]]:
    files = {name: (DATA / name).read_bytes() for name in ("matrix4.tsp", "rectangle4.tsp", "square4.tsp")}
    both = {f"set/{name}": content for name, content in files.items()} | {"index.csv": INDEX.replace(b",m", b",set/m")}
    return [({**files, "index.csv": INDEX}, ["index.csv"]), (both, ["index.csv"])]


def _open_index(folder: Path, sampled: bool) -> None:
    open_set(str(folder / "set" if (folder / "set").is_dir() else folder))


# ---------------------------------------------------------------------- arrays


def _arrays() -> list[tuple[Files, list[str]]]:
    """Return ``.npz`` files in every layout that the problems read."""
    rng, layouts = np.random.default_rng(0), []
    locs, demand, capacity = rng.random((3, 6, 2)), rng.integers(1, 9, (3, 6)).astype(float), np.full(3, 30.0)
    demand[:, 0] = 0
    tours = np.argsort(rng.random((3, 6)))
    long = {"locs": locs.astype(np.float32), "ref_tour": tours, "ref_length": np.full(3, 99.0)}
    layouts += [{"locs": locs}, {"coords": locs}, {"locs": locs, "ref_length": np.ones(3)}, long]
    layouts.append({"locs": locs, "demand": demand, "capacity": capacity})
    layouts.append({"depot": locs[:, 0], "loc": locs[:, 1:], "demand": demand[:, 1:], "capacity": capacity})
    routes = np.tile([1, 2, 0, 3, 4, 0, 5, 0], (3, 1))
    layouts.append({**layouts[-1], "ref_cost": np.full(3, 99.0), "ref_actions": routes})
    layouts.append({"dists": np.round(rng.random((3, 5, 5)) * 9) + 1})
    items = {"weight": rng.integers(1, 9, (3, 5)), "value": rng.integers(1, 9, (3, 5)), "capacity": np.full(3, 12)}
    chosen = np.eye(5, dtype=np.int64)[:3]
    layouts += [items, {**items, "ref_select": chosen, "ref_value": (chosen * items["value"]).sum(1)}]
    shop = {"duration": rng.integers(1, 9, (2, 3, 2)), "machine": np.argsort(rng.random((2, 3, 2)), -1)}
    layouts += [shop, {**shop, "ref_makespan": np.array([-1, -1]), "ref_lower_bound": np.array([3, 3])}]
    found = []
    for arrays in layouts:
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        found.append(({"a.npz": packed.getvalue()}, ["a.npz"]))
    return found


def _labelled() -> list[tuple[Files, list[str]]]:
    found = []
    for problem in PROBLEMS:
        env = make(problem).resized(5)
        data = env.generate(3, torch.Generator().manual_seed(1))
        actions = _first_fit(env, data)
        held = replace(
            unnamed(env, data, "three", env.arguments().get("distribution")),
            best_known=env.objective(data, actions[:, None])[:, 0],
            actions=tuple(actions),
        )
        files = _taken(lambda folder, held=held: write_labelled(folder / "a.npz", held, {"labels": "first-fit"}))
        found.append((files, ["a.npz"]))
    return found


def _open_arrays(folder: Path, sampled: bool) -> None:
    held = open_set(str(folder / "a.npz"))
    if sampled:
        for block in held.blocks:
            _tried(held.env, block)


# ---------------------------------------------------------------------- policies


def _cards() -> list[tuple[Files, list[str]]]:
    attention, graph = (functools.partial(kind, **SMALL) for kind in (AttentionPolicy, GraphPolicy))
    made = [
        ("tsp", attention),
        ("jssp", graph),
        ("tsp", graph),
        ("cvrp", functools.partial(Population, members=2, base=attention)),
        ("jssp", functools.partial(Latent, latent_dim=3, base=graph)),
        ("knapsack", functools.partial(PolyNet, vectors=4, hidden=8, base=attention)),
    ]
    found = []
    for problem, kind in made:
        env = make(problem).resized(5)
        card = {"env": {"name": problem, "arguments": env.arguments()}, "sizes": [4, 9], "training": {"steps": 3}}
        policy = kind(env.feature_dims)
        files = _taken(lambda folder, policy=policy, card=card: save_policy(policy, folder, card))
        found += [(files, ["card.json"]), (files, ["card.json", "weights.safetensors"])]
    return found


def _card_or_weights(draw: mutants.Draw, raw: bytes) -> bytes:
    return mutants.json_text(draw, raw) if raw[:1] == b"{" else mutants.safetensors(draw, raw)


def _load(folder: Path, sampled: bool) -> None:
    loaded = load_policy(folder)
    name = loaded.card["env"]["name"]
    if sampled and isinstance(name, str) and name in PROBLEMS and loaded.policy.everyone is None:
        env = make(name).resized(5)
        rng = torch.Generator().manual_seed(0)
        with contextlib.suppress(RuntimeError, NotImplementedError):  # another problem's widths; weights of NaN
            GreedySearch(loaded.policy)(env, env.generate(1, rng), None, rng)


# ---------------------------------------------------------------------- records


def _records() -> list[tuple[Files, list[str]]]:
    found = []
    for name in ("square4.tsp", "ring3.atsp", "cross4.vrp", "three_jobs.jsp", "exact4.kp"):
        problem = next(problem for problem, suffix in SUFFIX.items() if name.endswith(suffix))
        env = make(problem)
        rule = _rules(env, env.generate(1, torch.Generator()))[0]

        def write(folder: Path, name: str = name, rule: str = rule) -> None:
            shutil.copy(DATA / name, folder)
            with contextlib.chdir(folder):
                Path("a.json").write_text(json.dumps(solve(name, solver=rule).record()) + "\n")

        found.append((_taken(write), ["a.json", "a.json", "a.json", name]))
    return found


def _record_or_instance(draw: mutants.Draw, raw: bytes) -> bytes:
    return mutants.json_text(draw, raw) if raw[:1] == b"{" else mutants.text(draw, raw)


def _drawn(folder: Path, sampled: bool) -> None:
    with contextlib.ExitStack() as stack:
        if not sampled:  # a picture takes a hundred times as long as all before it
            stack.enter_context(mock.patch("ncogym.solving.draw"))
        render(folder / "a.json", folder / "a.png")


# ---------------------------------------------------------------------- configs and run folders

SMALL = {"dim": 8, "num_layers": 1, "num_heads": 2, "feedforward": 8}
TRAIN: dict[str, Any] = {
    "env": {"name": "tsp", "num_nodes": 5, "distribution": "uniform"},
    "policy": {"class_path": "AttentionPolicy", "init_args": SMALL},
    "algorithm": {"class_path": "POMO"},
    "sizes": [4, 5],
    "nodes_per_batch": 20,
    "optimiser": {"lr": 0.001, "warmup_steps": 1},
    "validation": {"sizes": [], "instances": 2, "seed": 1},
    "max_steps": 2,
    "steps_per_epoch": 2,
    "checkpoint_every": 1,
    "seed": 3,
    "threads": 1,
    "accelerator": "cpu",
}
EVALUATE: dict[str, Any] = {
    "env": {"name": "tsp", "num_nodes": 5},
    "solvers": ["nearest-neighbour", "other=farthest-insertion"],
    "instances": 2,
    "seed": 3,
    "rollouts": [1, 2],
    "reference": "two-opt",
    "versus": "nearest-neighbour",
    "threads": 1,
    "workers": 1,
    "batch_size": 4,
    "format": "json",
}


class Refused(NcogymError):
    """The command line ended with one line and the code for bad input."""


def _commanded(*argv: str) -> None:
    """Run a command; what it refuses in one line is raised as such."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(argv))
    if code:
        raise Refused(err.getvalue().rstrip("\n").split("\nncogym: ")[-1] or f"code {code} without a word")


def _config(settings: dict[str, Any]) -> list[tuple[Files, list[str]]]:
    return [({"a.yaml": yaml.safe_dump(settings, sort_keys=False).encode()}, ["a.yaml"])]


def _train(folder: Path, sampled: bool) -> None:
    """Begin a run; one of many trains, too."""
    with contextlib.ExitStack() as stack:
        if not sampled:
            stack.enter_context(mock.patch("lightning.pytorch.Trainer.fit"))
            stack.enter_context(mock.patch("lightning.pytorch.Trainer.save_checkpoint"))
        _commanded("train", "--config", str(folder / "a.yaml"), "--output", str(folder / "run"))


def _evaluate(folder: Path, sampled: bool) -> None:
    _commanded("evaluate", "--config", str(folder / "a.yaml"))


def _runs() -> list[tuple[Files, list[str]]]:
    def write(folder: Path) -> None:
        (folder / "a.yaml").write_text(yaml.safe_dump(TRAIN))
        with contextlib.chdir(folder):
            _commanded("train", "--config", "a.yaml", "--output", "run")

    files = {name: content for name, content in _taken(write).items() if "policy" not in name}
    return [(files, ["run/last.ckpt", "run/last.ckpt", "run/metrics.csv", "run/run.json", "run/config.yaml"])]


def _part_of_a_run(draw: mutants.Draw, raw: bytes) -> bytes:
    if raw[:2] == b"PK":
        return mutants.damaged(draw, raw)
    return mutants.json_text(draw, raw) if raw[:1] == b"{" else mutants.text(draw, raw)


def _resume(folder: Path, sampled: bool) -> None:
    _commanded("train", "--config", str(folder / "a.yaml"), "--output", str(folder / "run"), "--resume", "true")


TARGETS = {
    target.name: target
    for target in (
        *(_reader(problem) for problem in PROBLEMS),
        Target("any .txt file", 9000, 25, _texts, mutants.text, _recognised),
        Target("solution beside", 9000, 25, _beside, mutants.text, _open_beside),
        Target("index.csv", 6000, 20, _indexed, mutants.text, _open_index),
        Target("arrays", 9000, 30, _arrays, mutants.npz, _open_arrays),
        Target("labelled arrays", 8000, 30, _labelled, mutants.npz, _open_arrays),
        Target("policy", 5000, 30, _cards, _card_or_weights, _load),
        Target("record", 6000, 30, _records, _record_or_instance, _drawn),
        Target("train config", 1500, 8, lambda: _config(TRAIN), mutants.yaml_text, _train),
        Target("evaluate config", 1000, 8, lambda: _config(EVALUATE), mutants.yaml_text, _evaluate),
        Target("run folder", 500, 4, _runs, _part_of_a_run, _resume),
    )
}
