"""What a config may say: bounded YAML without surprises, and classes that are known before it is read."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import pytest
import yaml

import ncogym.learning
import ncogym.study
from ncogym import _configs
from ncogym._resources import configs_folder, find_config
from ncogym.cli import main
from ncogym.errors import ArgumentError
from ncogym.pretrained import load_policy

BRIEF = ["--env", "tsp", "--env.num_nodes", "6", "--max_steps", "1", "--nodes_per_batch", "24", "--threads", "1"]
SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}


def bomb(levels: int) -> str:
    """Return YAML of a few hundred bytes that stands for eight to the power of ``levels`` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2\n", r"^seed is given twice \(line 2\)$"),
        ("a: 1\nb:\n  c: 1\n  d: {e: 1, e: 1}\n", r"^e is given twice \(line 4\)$"),
        ("- {a: [x, {b: 1, b: 2}]}\n", "^b is given twice"),
        ("env: &a [*a]\n", r"^alias \*a is not allowed; nothing whole has that name before it \(line 1\)$"),
        ("env: &a {b: {c: *a}}\n", r"^alias \*a is not allowed"),
        (bomb(8), "^it is too large; allowed are 100000 values, 32 within one another"),
        ("[" * 3000 + "]" * 3000, "^it is too large; allowed are"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "^it is too large; allowed are"),
        # neither part is too deep by itself
        (f"a: &a {'[' * 20}1{']' * 20}\nb: {'[' * 20}*a{']' * 20}\n", "^it is too large; allowed are"),
        ("seed: " + "9" * 6000, "^Exceeds the limit .* for integer string conversion"),
        ("a: '" + "x" * 1_000_000 + "'", "^it is too large: 1000005 characters; allowed are 1000000$"),
    ],
)
def test_yaml_is_bounded(text: str, words: str) -> None:
    """A key that comes twice, a value that holds itself, and texts that stand for too much are refused in words."""
    with pytest.raises(yaml.YAMLError, match=words):
        _configs.load(text)


def test_yaml_is_read_as_before() -> None:
    """Anchors, merges, equal keys in different mappings, and numbers such as 1e-3 keep their meaning."""
    text = "a: &a {x: 1, y: [1e-3, no]}\nb: {x: 2, z: *a}\nc: {<<: *a, x: 3}\nd: [*a, *a]\n"
    a = {"x": 1, "y": [0.001, False]}
    assert _configs.load(text) == {"a": a, "b": {"x": 2, "z": a}, "c": a | {"x": 3}, "d": [a, a]}
    assert len(_configs.load(bomb(4))["a3"]) == 8


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_published_configs_pass(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each published config, of a run or of a study, is read within the bounds and names nothing that is refused."""
    monkeypatch.chdir(tmp_path)
    command = "evaluate" if path.parent.name == "evaluate" else "train"
    home, name = (ncogym.study, "study") if command == "evaluate" else (ncogym.learning, "train")

    def told(*_: object, **settings: object) -> None:
        raise ArgumentError(f"it came to {name}")

    monkeypatch.setattr(home, name, functools.wraps(getattr(home, name))(told))
    assert main([command, "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"ncogym: it came to {name}\n"


def test_names_find_one_config() -> None:
    """No two files have one name, so that the name alone says which is meant, in whatever folder it lies."""
    names = [path.stem for path in configs_folder().rglob("*.yaml")]
    assert len(set(names)) == len(names)
    smoke = configs_folder() / "train" / "smoke.yaml"
    assert find_config("smoke") == find_config("train/smoke") == find_config("configs/smoke.yaml") == smoke
    tsp = configs_folder() / "evaluate" / "tsp.yaml"
    assert find_config("results/tsp") == find_config("configs/results/tsp.yaml") == tsp
    assert find_config("mine/smoke.yaml") is find_config("nothing") is None


def test_an_old_path_says_where_the_config_lies_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config that has moved is read, and a line tells its place; its name alone needs none."""
    monkeypatch.chdir(tmp_path)

    def told(*_: object, **settings: object) -> None:
        raise ArgumentError("it came to train")

    monkeypatch.setattr(ncogym.learning, "train", functools.wraps(ncogym.learning.train)(told))
    assert main(["train", "--config", "configs/smoke.yaml"]) == 2
    now = configs_folder() / "train" / "smoke.yaml"
    moved, error = capsys.readouterr().err.splitlines()
    assert moved == f"ncogym: warning: config: configs/smoke.yaml lies at {now} now"
    assert main(["train", "--config", "smoke"]) == 2
    assert capsys.readouterr().err.splitlines() == [error]


# ---------------------------------------------------------------------- nothing that a stranger wrote is run


@pytest.fixture
def sly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that leaves a file behind when it is imported; the file's path."""
    left = tmp_path / "imported"
    text = f"""
from pathlib import Path
from ncogym.algorithms import POMO
from ncogym.policies import AttentionPolicy, Policy

Path({str(left)!r}).touch()

class Sly(AttentionPolicy): pass
class SlyPOMO(POMO): pass
def make(dims) -> Policy: return None
instance = POMO()
"""
    (tmp_path / "sly.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sly", raising=False)
    return left


SPECS = ["sly.Sly", "sly.SlyPOMO", "sly.make", "sly.instance", "sly.missing", "os.system", "subprocess.Popen"]
SPECS += ["functools.partial", "builtins.exec", "ncogym.cli.main", "ncogym.policies.attention.torch.hub.load"]


def evil(place: str, spec: object) -> str:
    """Return a config that has a class, by name or with arguments, at a place where one could be looked for."""
    config: dict = {"env": {"name": "tsp", "num_nodes": 6}, "max_steps": 1}
    keys = place.split(".")
    at = config
    if keys[0] == "base":
        config["policy"] = {"class_path": "Population", "init_args": {"members": 2}}
        at, keys = config["policy"]["init_args"], ["base"]
    for key in keys[:-1]:
        at = at.setdefault(key, {})
    at[keys[-1]] = spec
    return yaml.safe_dump(config)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("form", ["name", "class_path", "arguments"])
@pytest.mark.parametrize("place", ["policy", "algorithm", "base"])
def test_a_config_runs_nothing(
    place: str, form: str, name: str, sly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of a function, an instance or a class that is in no table is refused in one line, before its import."""
    owned = tmp_path / "owned"
    init = {"command": f"touch {owned}", "args": ["touch", str(owned)]}
    spec = {"name": name, "class_path": {"class_path": name}, "arguments": {"class_path": name, "init_args": init}}
    (tmp_path / "evil.yaml").write_text(evil(place, spec[form]))
    assert main(["train", "--config", str(tmp_path / "evil.yaml"), "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{name} is not allowed; it must be a policy or an algorithm of ncogym's tables" in err
    assert not {"owned", "imported", "out"} & {path.name for path in tmp_path.iterdir()}


OTHERS = ["labels", "labels.file", "optimiser", "optimiser.lr", "validation", "validation.sizes", "env", "env.name"]
OTHERS += [
    "sizes",
    "max_steps",
    "precision",
    "policy.init_args.dim",
    "env.distribution",
    "make_solver",
    "bar",
    "config",
]


@pytest.mark.parametrize("place", OTHERS)
@pytest.mark.parametrize("spec", ["sly.Sly", {"class_path": "sly.Sly", "init_args": {}}], ids=["name", "class_path"])
def test_nor_do_other_values(
    place: str, spec: object, sly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other value of a config is taken for a class either."""
    (tmp_path / "evil.yaml").write_text(evil(place, spec))
    assert main(["train", "--config", str(tmp_path / "evil.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not sly.exists()


COMMANDS = [
    "evaluate --env tsp --solvers sly.Sly",
    "evaluate --env tsp --solvers two-opt --reference sly.Sly",
    "evaluate --env sly.Sly --solvers two-opt",
    "evaluate --env tsp --solvers greedy --policy sly.Sly",
    "evaluate --config CONFIG",
    "generate --env tsp --env.distribution sly.Sly --output o.npz",
    "generate --env tsp --labels sly.Sly --output o.npz",
    "bench sly.Sly --env tsp",
    "bench env --env tsp --device sly.Sly",
    "solve ncogym/data/capitals.tsp --solver sly.Sly",
    "solve ncogym/data/capitals.tsp --policy sly.Sly",
    "train --env tsp --policy sly.Sly",
    "train --env tsp --policy.class_path sly.Sly",
    "train --env tsp --policy.help sly.Sly",
    "train --env tsp --algorithm.help sly.SlyPOMO",
    "train --env tsp --policy Population --policy.base.class_path sly.Sly",
    'train --env tsp --policy {"class_path":"sly.Sly"}',
    "train --env tsp --init sly.Sly --output TMP/out",
]


def test_a_problem_by_its_name_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`env: tsp`, as on a command line, is told how a config says it."""
    (tmp_path / "study.yaml").write_text("env: tsp\nsolvers: two-opt\n")
    assert main(["evaluate", "--config", str(tmp_path / "study.yaml")]) == 2
    assert capsys.readouterr().err == "ncogym: env: tsp is not allowed; a config has `env: {name: NAME}`\n"


@pytest.mark.parametrize("line", COMMANDS)
def test_nor_does_a_command_line(line: str, sly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No option of any command imports a module, but for --import."""
    (tmp_path / "study.yaml").write_text("env: {name: tsp}\nsolvers: {class_path: sly.Sly}\n")
    line = line.replace("CONFIG", str(tmp_path / "study.yaml")).replace("TMP", str(tmp_path))
    assert main(line.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not sly.exists()


# ---------------------------------------------------------------------- modules that the user named


def test_a_module_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --import its policies and algorithms are trained by name, loaded by their card, and that in Python too."""
    (tmp_path / "mine_pkg").mkdir()
    (tmp_path / "mine_pkg" / "__init__.py").write_text("from mine_pkg import parts\n")
    classes = "class MyPolicy(AttentionPolicy): pass\nclass MyPOMO(POMO): pass\n"
    imports = "from ncogym.algorithms import POMO\nfrom ncogym.policies import AttentionPolicy\n"
    (tmp_path / "mine_pkg" / "parts.py").write_text(imports + classes)
    monkeypatch.chdir(tmp_path)  # where modules are looked for, too
    monkeypatch.setattr(sys, "path", list(sys.path))
    policy = {"class_path": "mine_pkg.parts.MyPolicy", "init_args": SMALL}
    algorithm = {"class_path": "MyPOMO"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"policy": policy, "algorithm": algorithm}))
    line = ["train", "--config", "run.yaml", *BRIEF, "--output", "out"]
    assert main(line) == 2
    assert re.search("mine_pkg.parts.MyPolicy is not allowed|MyPOMO is not known", capsys.readouterr().err)
    assert main([*line, "--import", "mine_pkg"]) == 0
    resolved = yaml.safe_load(Path("out/config.yaml").read_text())
    assert "import" not in resolved
    assert resolved["algorithm"]["class_path"] == "mine_pkg.parts.MyPOMO"
    assert load_policy("out/policy").card["policy"]["class"] == "mine_pkg.parts.MyPolicy"
    for module in ("mine_pkg.parts", "mine_pkg"):
        monkeypatch.delitem(sys.modules, module)
    capsys.readouterr()
    evaluation = ["evaluate", "--policy", "out/policy", "--instances", "2", "--solvers", "greedy", *BRIEF[:4]]
    assert main([*evaluation, "--import=mine_pkg", "--format", "json"]) == 0
    assert main(["train", "--config", "out/config.yaml", "--import", "mine_pkg", "--output", "again"]) == 0


def test_a_card_imports_nothing(sly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy whose class is of a module that nobody imported is refused, and its module is not touched."""
    assert (
        main(["train", *BRIEF, "--policy", "AttentionPolicy", "--policy.dim", "16", "--output", str(tmp_path / "out")])
        == 0
    )
    card = tmp_path / "out" / "policy" / "card.json"
    card.write_text(card.read_text().replace('"AttentionPolicy"', '"sly.Sly"'))
    capsys.readouterr()
    solve = ["evaluate", "--policy", str(card.parent), "--instances", "2", "--solvers", "greedy", *BRIEF[:4]]
    assert main(solve) == 2
    assert "policy class 'sly.Sly' is not known; allowed are AttentionPolicy" in capsys.readouterr().err
    assert not sly.exists()
    assert main([*solve, "--import", "sly"]) == 0
    assert sly.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --import", "import: no module is given; it takes --import MODULE"),
        ("solve --import= a.tsp", "import: no module is given"),
        (
            "train --import no_such_module --env tsp",
            "import: 'no_such_module' cannot be imported (ModuleNotFoundError: ",
        ),
        ("train --import leaving_module --env tsp", "import: 'leaving_module' cannot be imported (SystemExit: 7)"),
        (
            "train --import partial_module --env tsp --policy partial_module.Partial --output a",
            "policy: partial_module.Partial is not allowed; it must be a policy or an algorithm of ncogym's tables",
        ),
        (
            "train --env tsp --devices -1 --output a",
            "accelerator, devices, num_nodes, strategy: auto, -1, 1, auto are not",
        ),
        (
            "train --env tsp --accelerator tpu --output a",
            "accelerator, devices, num_nodes, strategy: tpu, 1, 1, auto are",
        ),
        ("train --import broken_module --env tsp", "import: 'broken_module' cannot be imported (SyntaxError: "),
        ("train --config IMPORTS", "import: a config may not name modules; give --import MODULE on the command line"),
        ("evaluate --config IMPORTS --solvers two-opt", "import: a config may not name modules"),
        ("train --config NESTED", "config: a config may not name another; give both on the command line"),
    ],
)
def test_imports_are_refused_in_words(
    line: str, words: str, sly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be imported, and a config that would have something imported, is one line."""
    (tmp_path / "broken_module.py").write_text("def (:\n")
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "partial_module.py").write_text("from ncogym.policies import Policy\nclass Partial(Policy): pass\n")
    (tmp_path / "imports.yaml").write_text("env: {name: tsp}\nimport: sly\n")
    (tmp_path / "nested.yaml").write_text(f"env: {{name: tsp}}\nconfig: {tmp_path}/nested.yaml\n")
    for name in ("imports", "nested"):
        line = line.replace(name.upper(), str(tmp_path / f"{name}.yaml"))
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not sly.exists()
