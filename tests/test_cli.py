from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ncogym.solving
from ncogym import pretrained
from ncogym._resources import configs_folder
from ncogym.baselines.base import Baseline
from ncogym.books import Progress
from ncogym.cli import COMMANDS, main
from ncogym.composing import choose_policy, make_solver, needs_policy
from ncogym.envs import make
from ncogym.errors import NcogymWarning, NoSolutionFound
from ncogym.policies import AttentionPolicy
from ncogym.pretrained import load_policy, save_policy
from ncogym.sets import open_set
from ncogym.study import Entry
from ncogym.training.module import TrainingModule

REPOSITORY = Path(__file__).parents[1]
SOLVE_FIELDS = (
    "file instance problem solver policy objective best_known gap_percent feasible violation "
    "seconds rollouts seed actions answer"
)
EVALUATE_FIELDS = (
    "solver env instances mean_objective mean_gap_percent ci95_gap_percent reference feasible seconds_total "
    "seconds_per_instance seed instances_sha256 set budget_seconds budget_rollouts rollouts_per_instance "
    "worst_gap_percent worst_instance solved better proven primal_integral_percent versus mean_difference_percent "
    "ci95_difference_percent device threads"
)
BENCH_FIELDS = (
    "what env device batch rollouts dtype acting seconds_median instances_per_second steps_per_second "
    "peak_memory_bytes versions"
)
TRAIN_BRIEFLY = ["--max_steps", "1", "--steps_per_epoch", "1", "--validation.sizes", "[]"]
TRAIN_BRIEFLY += ["--labels.chunks", "1", "--labels.chunk_size", "8", "--sizes", "[6, 7]", "--nodes_per_batch", "24"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line, split at blanks, and gives its exit code, stdout and stderr."""

    def call(line: str, *more: object) -> tuple[int, str, str]:
        code = main([*line.split(), *map(str, more)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained policy for tours."""
    folder = tmp_path_factory.mktemp("policies") / "tiny"
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        policy = AttentionPolicy(make("tsp").feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    save_policy(policy, folder, {"env": {"name": "tsp", "arguments": {}}, "sizes": [4, 9]})
    return folder


@pytest.fixture
def rectangle(data: Path) -> Path:
    """A rectangle of 3 x 4, whose best tour is 14."""
    return data / "rectangle4.tsp"


def signalled(monkeypatch: pytest.MonkeyPatch, *signals: int, at: int = 2) -> None:
    """Send signals to this process when a solver offers its second solution, or another."""
    offer, offers = Progress.offer, []

    def offer_and_kill(self: Progress, *arguments: object, **options: object) -> object:
        offers.append(1)
        if len(offers) == at:
            for number in signals:
                os.kill(os.getpid(), number)
        return offer(self, *arguments, **options)

    monkeypatch.setattr(Progress, "offer", offer_and_kill)


# ---------------------------------------------------------------------- names of all kinds, and any output

REPORT = {"records.csv", "records.json", "summary.json", "table.md", "table.tex", "report.html"}
REPORT |= {"anytime.png", "anytime.svg"}  # no gap is known here
HOSTILE = ["caf\udce9", "$\\frac{$", "=cmd|'A0", "[red]x", "+1", "\x1b[31m", "一", "<b>&amp;", "a\nb"]


@pytest.fixture
def hostile(tmp_path: Path, data: Path) -> Path:
    """A folder of one instance under the names that a file system allows and a program stumbles over."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in HOSTILE:
        shutil.copy(data / "square4.tsp", folder / f"{name}.tsp")
    return folder


def printed(encoding: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that must succeed with a stdout that is strict about an encoding, and return what it printed."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
        assert main(line) == 0
        return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_any_name_is_solved(encoding: str, form: str, hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the name of a file nor the encoding of the terminal costs a result."""
    files = sorted(map(str, hostile.glob("*.tsp")))
    out = printed(encoding, ["solve", "--solver", "two-opt", "--format", form, *files], monkeypatch)
    assert out.count("two-opt") == len(HOSTILE)
    assert r"caf\udce9" in out


@pytest.mark.filterwarnings("error:Glyph")
def test_any_name_is_written_and_drawn(run: Run, hostile: Path, tmp_path: Path) -> None:
    """Record, solution and picture go to files of the instance's name, whatever that is, and are drawn again."""
    code, _, err = run("solve --solver two-opt --output", tmp_path / "o", *hostile.glob("*.tsp"))
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        f"{name}{suffix}" for name in HOSTILE for suffix in (".json", ".tour", ".png")
    }
    for number, record in enumerate((tmp_path / "o").glob("*.json")):
        assert run("render", record, "--output", tmp_path / f"{number}.png") == (0, "", "")


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_name_is_evaluated(encoding: str, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is whole, its table is printed, and no cell of a spreadsheet is a formula."""
    label, folder = "+[/x]$", tmp_path / "o"
    line = ["evaluate", "--solvers", f"{label}=two-opt,caf\udce9=farthest-insertion", "--instances", str(hostile)]
    out = printed(encoding, [*line, "--output", str(folder)], monkeypatch)
    assert label in out
    assert r"caf\udce9" in out
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["solver"] for row in rows} == {f"'{label}", r"caf\udce9"}
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    said = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    assert {record["name"] for record in said} == set(HOSTILE)
    assert {path.name for path in folder.iterdir()} == REPORT


# ---------------------------------------------------------------------- help, and arguments that are refused


@pytest.mark.parametrize(
    "line", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS if name != "train")]
)
def test_help_is_light(line: list[str]) -> None:
    """Help and version are on stdout, end with 0, and load neither torch nor rich nor matplotlib."""
    heavy = "{'torch', 'torchrl', 'lightning', 'rich', 'matplotlib'}"
    script = f"import sys\nfrom ncogym.cli import main\ncode = main({line})\nassert not {heavy} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(code)"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_help_lists_the_commands(run: Run) -> None:
    """The top level's help names each command with what it does."""
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in ("solve", "train", "evaluate", "generate", "render", "list", "bench"))


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            "solve",
            "FILE --problem --solver --policy --seconds --rollouts --seed --best-known --output --format --debug",
        ),
        ("train", "--config --env --policy --algorithm --max_steps --output --resume --debug"),
        (
            "evaluate",
            "--env --instances --seed --solvers --reference --seconds --rollouts --policy --output --format --config "
            "--reference-seconds --versus --threads --workers --device --batch-size",
        ),
        ("generate", "--env --instances --seed --output --labels --seconds --rollouts --workers"),
        ("render", "solution --output"),
        ("list", "envs sets policies solvers pretrained configs"),
        ("bench --env tsp", "env decode train --env.num_nodes --env.distribution --batch --rollouts --device --format"),
    ],
)
def test_help_of_a_command_is_complete(run: Run, command: str, flags: str) -> None:
    """A command's help has each of its promised arguments, the chosen problem's among them."""
    code, out, err = run(f"{command} --help")
    assert (code, err) == (0, "")
    assert [flag for flag in flags.split() if flag not in out] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "command: none is given; allowed are solve, train"),
        ("solv", "command: 'solv' is not known; allowed are solve, train"),
        ("solve", "arguments are required: files"),
        ("solve missing.tsp", "missing.tsp: no such file or directory"),
        ("solve missing", "missing: no such file or directory"),
        ("solve RECTANGLE --secnds 1", "unrecognized arguments: --secnds 1; see ncogym solve --help"),
        ("solve RECTANGLE --sec 1", "unrecognized arguments: --sec 1"),
        ("solve RECTANGLE --seconds", "--seconds: expected one argument"),
        ("solve RECTANGLE --seconds soon", "seconds: soon is not allowed; it must be a number"),
        ("solve RECTANGLE --seconds 0 --solver two-opt", "seconds: 0.0 is not allowed; it must be above 0"),
        ("solve RECTANGLE --seconds nan --solver two-opt", "seconds: nan is not allowed; it must be a number"),
        ("solve RECTANGLE --rollouts 0 --solver two-opt", "rollouts: 0 is not allowed; it must be above 0"),
        ("solve RECTANGLE --rollouts 1.5", "rollouts: 1.5 is not allowed; it must be a whole number"),
        ("solve RECTANGLE --seed -1", "seed: -1 is not allowed; it must be >=0"),
        ("solve RECTANGLE --format xml", "format: xml is not allowed; it must be one of 'table', 'json'"),
        ("solve RECTANGLE --best-known 0 --solver two-opt", "best_known: 0.0 is not allowed; it must be above 0"),
        (
            "solve RECTANGLE --problem tps",
            "problem: 'tps' is not known; allowed are atsp, clique, cvrp, jssp, knapsack, maxcut, mds, mis",
        ),
        ("solve RECTANGLE --solver gredy", "solver: 'gredy' is not known; allowed are auto, greedy"),
        ("solve RECTANGLE --policy nowhere", "policy: 'nowhere' is neither a shipped policy"),
        ("solve RECTANGLE RECTANGLE --output TMP/o", "output: two inputs of one name are not allowed, here rectangle4"),
        ("solve RECTANGLE --solver two-opt --output RECTANGLE", "rectangle4.tsp: file exists"),
        ("evaluate --env tsp", "arguments are required: solvers"),
        ("evaluate --solvers greedy", "env: none is given, and 1000 instances are of no problem; give --env NAME"),
        ("evaluate --solvers two-opt --instances kool-tsp20,nowhere", "nowhere"),
        ("evaluate --env cvrp --solvers savings --instances kool-tsp20:2", "tsp"),
        ("evaluate --env tsp --solvers two-opt@tsp-attention", "two-opt uses no policy"),
        ("evaluate --env tsp --solvers a=two-opt,a=random-insertion", "solvers: a,a is not allowed; it names a solver"),
        (
            "evaluate --env tsp --solvers two-opt --versus ortools",
            "versus: 'ortools' is not allowed; it must be one of",
        ),
        ("evaluate --env tsp --solvers two-opt --seconds 1,fast", "seconds: 1,fast is not allowed; it must be one or"),
        ("evaluate --env tsp --solvers two-opt --rollouts 1.5", "rollouts: 1.5 is not allowed; it must be one or more"),
        ("evaluate --env tsp --solvers two-opt --seconds 0", "budget seconds: 0.0 is not allowed; it must be above 0"),
        ("evaluate --env tsp --solvers two-opt --device tpu", "device: 'tpu' is not allowed"),
        ("evaluate --env cvrp --solvers greedy@tsp-attention", "it was trained on tsp and cannot solve cvrp"),
        ("evaluate --env tsp --solvers two-opt --reference hgs", "hgs cannot take tsp"),
        ("evaluate --config nowhere --solvers two-opt", "nowhere"),
        ("evaluate --env tps --solvers two-opt", "env: tps is not allowed; it must be one of 'tsp', 'atsp'"),
        ("evaluate --env tsp --env.num_node 5 --solvers two-opt", "unrecognized arguments: --env.num_node 5"),
        ("evaluate --env tsp --env.num_nodes 2 --solvers two-opt", "num_nodes: 2 is not allowed"),
        ("evaluate --env tsp --env.num_nodes few --solvers two-opt", "env.num_nodes: few is not allowed; it must be a"),
        (
            "evaluate --env tsp --env.distribution round --solvers two-opt",
            "distribution: 'round' is not allowed; it must be one of uniform, clustered, explosion, mixed, or NAME:",
        ),
        ("evaluate --env tsp --env.batch_size 5 --solvers two-opt", "unrecognized arguments: --env.batch_size"),
        ("evaluate --env tsp --solvers two-opt --instances 0", "instances: 0 is not allowed; it must be at least 1"),
        ("evaluate --env tsp --solvers two-opt,foo", "solver: 'foo' is not known"),
        ("evaluate --env tsp --solvers hgs,dispatch:MOR", "hgs cannot take tsp; it solves capacitated routes"),
        ("evaluate --env tsp --solvers two-opt,", "solver: '' is not known"),
        ("evaluate --env tsp --solvers two-opt,two-opt", "solvers: two-opt,two-opt is not allowed; it names a solver"),
        ("evaluate --env tsp --solvers two-opt --reference foo", "solver: 'foo' is not known"),
        ("solve RECTANGLE --threads 3000000000", "threads: 3000000000 is not allowed; it must be >=1 and <=1024"),
        ("evaluate --env tsp --solvers two-opt --threads 0", "threads: 0 is not allowed; it must be >=1 and <=1024"),
        ("evaluate --env tsp --solvers two-opt --seconds 1 --rollouts 1", "rollouts: 1 is not allowed beside seconds"),
        ("generate --env tsp", "arguments are required: output"),
        ("generate --env tsp --output TMP/a.txt", "a.txt is not allowed for 1 instances; its suffix must be .npz, or"),
        ("generate --env tsp --instances 2 --output TMP/a.tsp", "a.tsp is not allowed for 2 instances"),
        ("generate --env tsp --output TMP/missing/a.npz", "a.npz: no such file or directory"),
        ("generate --env tsp --output TMP/missing/a.tsp", "a.tsp: no such file or directory"),
        ("generate --env tsp --output TMP/missing/a.npz --labels two-opt", "a.npz: no such file or directory"),
        ("generate --env tsp --output TMP/a.tsp --labels two-opt", "a.tsp is not allowed with labels; its suffix must"),
        ("generate --env tsp --output TMP/a.npz --labels tow-opt", "solver: 'tow-opt' is not known"),
        ("generate --env tsp --output TMP/a.npz --labels hgs", "hgs cannot take tsp; it solves capacitated routes"),
        ("generate --env tsp --output TMP/a.npz --labels two-opt --seconds 0", "budget seconds: 0.0 is not allowed"),
        (
            "generate --env tsp --output TMP/a.npz --labels two-opt --workers 0",
            "workers: 0 is not allowed; it must be >0",
        ),
        ("generate --env tsp --output TMP/a.npz --seconds 1", "seconds: 1.0 is not allowed without labels; give"),
        ("generate --env tsp --output TMP/a.npz --rollouts 9", "rollouts: 9 is not allowed without labels; give"),
        ("generate --env tsp --output TMP/a.npz --workers 2", "workers: 2 is not allowed without labels; give"),
        ("render TMP/missing.json --output TMP/a.png", "missing.json: no such file or directory"),
        ("render RECTANGLE --output TMP/a.png", "not a record of solve"),
        ("list everything", "section: everything is not allowed; it must be one of 'envs'"),
        ("bench all --env tsp", "what: all is not allowed; it must be one of 'env', 'decode', 'train'"),
        ("bench env --env tsp --batch 0", "batch: 0 is not allowed; it must be >0"),
        ("bench env --env tsp --device toaster", "device: 'toaster' is not allowed here"),
        ("train --config nosuch", "config: File does not exist"),
        ("train --config smoke --max_step 1", "unrecognized arguments: --max_step 1; see ncogym train --help"),
        ("train --config smoke --max_steps few", "max_steps: few is not allowed; it must be a whole number"),
        ("train --config smoke --devices two", "it must be a whole number or one of 'auto'"),
        ("train --config smoke --algorithm A2C", "algorithm: A2C is not known"),
        ("train --config smoke --algorithm.starts 1", "starts: 1 is not allowed; it must be 0 (all) or at least 2"),
        ("train --config smoke --policy.dimension 1", "policy: Option 'dimension' is not accepted"),
        ("train --config smoke --policy.dim 33 --output TMP/o", "num_heads: 4 is not allowed; it must divide dim"),
        ("train --config smoke --resume true --output TMP/o", "last.ckpt does not exist"),
    ],
)
def test_bad_input_is_one_line(run: Run, rectangle: Path, tmp_path: Path, line: str, words: str) -> None:
    """What is refused ends with 2, says argument, value and what is allowed in one line, and prints nothing else."""
    code, out, err = run(line.replace("RECTANGLE", str(rectangle)).replace("TMP", str(tmp_path)))
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("ncogym: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env: {name: tsp}\nmax_step: 1\n", "Option 'max_step' is not accepted"),
        ("env: {name: tsp, num_node: 5}\n", "Option 'env.num_node' is not accepted"),
        ("env: {name: tps}\n", "env: tps is not allowed"),
        ("env: tsp\n", "in a config `env: {name: NAME}`"),
        ("max_steps: 1\n", "arguments are required: --env"),
        ("env: {name: tsp}\nlabels: {chunk: 1}\n", "'labels' does not accept option 'chunk'"),
        ("env: {name: tsp}\noptimiser: {lr: fast}\n", "lr: fast is not allowed; it must be a number"),
        ("env: {name: tsp}\nsizes: [5]\n", "sizes: [5] is not allowed"),
        (
            "env: {name: tsp}\nalgorithm: {class_path: ncogym.make}\n",
            "ncogym.make is not allowed; it must be a policy",
        ),
        ("env: {name: tsp}\nalgorithm: {class_path: POMO, init_args: {start: 2}}\n", "Option 'start' is not accepted"),
        ("env: {name: tsp\n", "Problems parsing config"),
        ("5\n", "Unexpected config: 5"),
    ],
)
def test_bad_config_is_one_line(run: Run, tmp_path: Path, text: str, words: str) -> None:
    """A mistyped key, a wrong type and a broken file are refused before anything is built."""
    (tmp_path / "bad.yaml").write_text(text)
    code, out, err = run("train --config", tmp_path / "bad.yaml", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(run: Run) -> None:
    """With --debug the line comes after the traceback, and the exit code is the same."""
    code, out, err = run("solve missing.tsp --debug")
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1] == "ncogym: missing.tsp: no such file or directory"


@pytest.mark.parametrize(
    ("line", "unbuffered"),
    [("list", ""), ("list", "1"), ("--help", ""), ("list --help", ""), ("bench env --env tsp --env.num_nodes 5", "")],
)
def test_output_that_nobody_reads_is_no_error(line: str, unbuffered: str) -> None:
    """A reader that goes away, as `head` does, leaves no traceback and the exit code 1."""
    script = "import sys\nfrom ncogym.cli import main\nsys.stdin.read()\nsys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script, *line.split()],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [(">&-", 0, ""), (">/dev/full", 2, "ncogym: standard output: no space left on device\n"), ("2>&-", 0, "")],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(where: str, code: int, said: str, unbuffered: str) -> None:
    """A closed output is nowhere to write to, and a full disk is told in one line."""
    if "full" in where and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    words = ["sh", "-c", f"{shlex.quote(sys.executable)} -m ncogym --help {where}"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    if unbuffered == "":  # else the system's error has no file to name
        assert done.stderr == said


# ---------------------------------------------------------------------- solve


def test_solve_prints_one_object_a_line(run: Run, data: Path, tiny: Path) -> None:
    """The JSON has the promised fields in their order, one line a file, and stderr is empty in a pipe."""
    files = [data / "rectangle4.tsp", data / "square4.tsp"]
    code, out, err = run("solve", *files, "--policy", tiny, "--format", "json", "--seed", 7)
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [list(record) for record in records] == [SOLVE_FIELDS.split()] * 2
    assert [record["file"] for record in records] == [str(file) for file in files]
    first = records[0]
    assert sorted(first["actions"]) == [0, 1, 2, 3]
    assert type(first["objective"]) is int
    assert (first["objective"], first["best_known"], first["gap_percent"]) == (14, 14, 0)
    assert (first["policy"], first["seed"], first["feasible"], first["violation"]) == (str(tiny), 7, True, None)
    assert (records[1]["objective"], records[1]["best_known"], records[1]["gap_percent"]) == (4, None, None)


def test_solve_prints_a_table(run: Run, rectangle: Path) -> None:
    """The default is a table that breaks no line in a pipe."""
    code, out, err = run("solve --solver two-opt", rectangle)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if "rectangle4" in line]
    assert [row[:6] for row in rows] == [["rectangle4", "two-opt", "-", "14", "14", "0"]]


def test_solve_goes_on_after_a_bad_file(run: Run, tmp_path: Path, rectangle: Path) -> None:
    """A bad file among several costs its line and the exit code, not the others' answers."""
    (tmp_path / "bad.tsp").write_text("NAME : bad\n")
    code, out, err = run("solve --solver two-opt --format json", tmp_path / "bad.tsp", rectangle, "missing.tsp")
    assert code == 2
    assert [json.loads(line)["instance"] for line in out.splitlines()] == ["rectangle4"]
    assert ["bad.tsp" in line or "missing.tsp" in line for line in err.splitlines()] == [True, True]


def test_a_warning_is_one_line_and_costs_nothing(run: Run, tmp_path: Path) -> None:
    """A file whose distances are rounded away is solved, and stderr says in one line what to do about it."""
    file = tmp_path / "city.tsp"
    rows = "1 48.20 16.37\n2 48.21 16.36\n3 48.19 16.40\n"
    file.write_text(f"TYPE: TSP\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n{rows}EOF\n")
    code, out, err = run("solve --solver nearest-neighbour --format json", file)
    assert (code, json.loads(out)["objective"]) == (0, 0)
    assert err.startswith(f"ncogym: warning: {file}: EUC_2D rounds 100 % of the distances")
    assert err.count("\n") == 1
    file.write_text(file.read_text().replace("EUC_2D", "GEOM"))
    code, out, err = run("solve --solver nearest-neighbour --format json", file)
    assert (code, json.loads(out)["objective"], err) == (0, 7539, "")  # metres: 1338 + 3711 + 2490


@pytest.mark.parametrize(("option", "threads"), [("", 1), ("--threads 3", 3)])
def test_threads_are_bounded(
    run: Run, rectangle: Path, monkeypatch: pytest.MonkeyPatch, option: str, threads: int
) -> None:
    """Solving and comparing take one CPU thread unless more are asked for."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run(f"solve {rectangle} --solver two-opt {option}")
    run(f"evaluate --env tsp --env.num_nodes 5 --instances 1 --solvers two-opt {option}")
    assert asked == [threads] * 2


@pytest.mark.parametrize(("rollouts", "solver"), [(5, "sampling"), (9, "multistart+sampling+symmetry")])
def test_solve_keeps_rollouts_and_seed(run: Run, rectangle: Path, tiny: Path, rollouts: int, solver: str) -> None:
    """A budget of rollouts is spent to the last, and the same seed gives the same answer."""
    line = f"solve {rectangle} --policy {tiny} --solver {solver} --rollouts {rollouts} --format json --seed 3"
    first, second = (json.loads(run(line)[1]) for _ in range(2))
    assert first["rollouts"] == rollouts
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_solve_takes_problem_and_best_known(run: Run, rectangle: Path, tmp_path: Path) -> None:
    """--problem reads a file that tells none, and --best-known is what the gap is to."""
    (tmp_path / "a.txt").write_text(rectangle.read_text().replace("TYPE : TSP", "COMMENT : no type\nTYPE: TSP"))
    line = "solve --problem tsp --best-known 10 --solver two-opt --format json"
    code, out, _ = run(line, tmp_path / "a.txt")
    assert code == 0
    assert json.loads(out)["gap_percent"] == pytest.approx(40)


def test_solve_writes_its_output(run: Run, rectangle: Path, tmp_path: Path) -> None:
    """--output holds the printed record, the tour and the picture of each file."""
    code, out, _ = run("solve --solver two-opt --format json --output", tmp_path / "deep" / "out", rectangle)
    assert code == 0
    folder = tmp_path / "deep" / "out"
    assert {path.name for path in folder.iterdir()} == {f"rectangle4.{suffix}" for suffix in ("json", "tour", "png")}
    said = json.loads((folder / "rectangle4.json").read_text())
    assert list(said) == [*SOLVE_FIELDS.split(), "places", "replaced_sha256", "sha256"]
    assert {field: said[field] for field in SOLVE_FIELDS.split()} == json.loads(out)


def test_solve_replaces_no_file_of_others(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published solution in the output folder is told before anything is solved, and stays."""
    for name in ("cross4.vrp", "cross4.sol", "square4.tsp"):
        shutil.copy(data / name, tmp_path)
    before = (tmp_path / "cross4.sol").read_text()
    monkeypatch.setattr(Progress, "offer", lambda *_: pytest.fail("the budget is spent"))
    line = "solve --solver greedy --output"
    code, out, err = run(line, tmp_path, tmp_path / "square4.tsp", tmp_path / "cross4.vrp")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"ncogym: output: \S*cross4\.sol was not written by `ncogym solve`, or was changed .*\n", err)
    assert (tmp_path / "cross4.sol").read_text() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_solve_tells_its_answer_on_a_full_disk(run: Run, rectangle: Path, tmp_path: Path) -> None:
    """What cannot be written is one line with the file's name; the answer is printed all the same."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        code, out, err = run("solve --solver two-opt --output", tmp_path, rectangle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, "14" in out.split()) == (2, True)
    assert err == f"ncogym: {tmp_path / 'rectangle4.tour'}: file too large\n"
    assert list(tmp_path.iterdir()) == []


def test_solve_tells_what_was_found_before_a_refusal(
    run: Run, rectangle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody puts a file into the output folder meanwhile, it is told, and the answer is printed before."""
    solved = ncogym.solving.Solved.write

    def late(self: ncogym.solving.Solved, folder: str) -> None:
        Path(folder, "rectangle4.tour").write_text("mine")
        solved(self, folder)

    monkeypatch.setattr(ncogym.solving.Solved, "write", late)
    code, out, err = run("solve --solver two-opt --output", tmp_path, rectangle)
    assert (code, "rectangle4" in out) == (2, True)
    assert "rectangle4.tour was not written by `ncogym solve`" in err


def test_solve_without_a_solution_ends_with_3(run: Run, rectangle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that found nothing in its budget costs one line and exit code 3."""

    def nothing(*_: object, **__: object) -> None:
        raise NoSolutionFound("two-opt: no solution of tsp within the budget")

    monkeypatch.setattr(ncogym.solving, "solve", nothing)
    code, out, err = run("solve --solver two-opt --format json", rectangle)
    assert (code, out, err) == (3, "", "ncogym: two-opt: no solution of tsp within the budget\n")


def test_solve_with_an_infeasible_best_ends_with_3(
    run: Run, rectangle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the referee refuses is printed as infeasible, is not drawn, and ends with 3."""
    solve = ncogym.solving.solve

    def broken(*arguments: object, **options: object) -> object:
        solved = solve(*arguments, **options)
        return replace(solved, solution=replace(solved.solution, feasible=False, violation="node 0 is missing"))

    monkeypatch.setattr(ncogym.solving, "solve", broken)
    code, out, _ = run("solve --solver two-opt --format json", rectangle, "--output", tmp_path)
    assert code == 3
    assert (json.loads(out)["feasible"], json.loads(out)["violation"]) == (False, "node 0 is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["rectangle4.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_solve_prints_its_best(
    run: Run, rectangle: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A first signal ends the search: the best so far is printed, later files are not begun, and the code is 130."""
    signalled(monkeypatch, number)
    before = signal.getsignal(number)
    line = f"solve {rectangle} {rectangle} --solver sampling --policy {tiny} --seconds 3000 --format json"
    code, out, err = run(line)
    assert (code, err) == (130, "ncogym: interrupted\n")
    (record,) = map(json.loads, out.splitlines())
    assert record["feasible"]
    assert record["seconds"] < 2000
    assert signal.getsignal(number) is before


def test_second_signal_ends_at_once(run: Run, rectangle: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two signals leave no answer, one line and 130."""
    signalled(monkeypatch, signal.SIGINT, signal.SIGINT)
    code, out, err = run(f"solve {rectangle} --solver sampling --policy {tiny} --seconds 300 --format json")
    assert (code, out, err) == (130, "", "ncogym: interrupted\n")


def test_signal_from_outside_reaches_the_process(rectangle: Path, tiny: Path) -> None:
    """SIGTERM to the command's process ends it with its answer and 130."""
    script = (
        "import sys\nfrom ncogym.cli import main\nfrom ncogym.solver import Progress\noffer = Progress.offer\n"
        "def told(*args):\n    print('searching', file=sys.stderr, flush=True)\n    return offer(*args)\n"
        "Progress.offer = told\nsys.exit(main())"
    )
    arguments = ["--solver", "sampling", "--policy", str(tiny), "--seconds", "300", "--format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, "solve", str(rectangle), *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "searching\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert json.loads(out)["feasible"]
    assert err.splitlines()[-1] == "ncogym: interrupted"


# ---------------------------------------------------------------------- evaluate, generate, render


def test_evaluate_prints_one_object_a_solver(run: Run, tiny: Path) -> None:
    """The JSON has the promised fields in their order, one line a solver under the name that was given."""
    line = "evaluate --env tsp --env.num_nodes 6 --instances 5 --seed 9 --rollouts 8 --format json --reference two-opt"
    code, out, err = run(line, "--policy", tiny, "--solvers", "two-opt,symmetry+multistart,greedy")
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [list(record) for record in records] == [EVALUATE_FIELDS.split()] * 3
    assert [record["solver"] for record in records] == ["two-opt", "symmetry+multistart", "greedy"]
    for record in records:
        assert (record["env"], record["instances"], record["seed"], record["feasible"]) == ("tsp", 5, 9, 1)
        assert record["reference"] == "two-opt"
        assert record["instances_sha256"] == records[0]["instances_sha256"]
    assert records[0]["mean_gap_percent"] == 0
    assert records[0]["mean_objective"] <= records[2]["mean_objective"]


def test_evaluate_takes_a_reference_that_is_not_listed(run: Run, tmp_path: Path, cache: Path) -> None:
    """A reference is computed once, kept in the cache, and is no line of the table."""
    line = (
        "evaluate --env tsp --env.num_nodes 5 --instances 2 --solvers nearest-neighbour --reference two-opt --workers 1"
    )
    code, out, err = run(line, "--format", "json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["solver"] for line in out.splitlines()] == ["nearest-neighbour"]
    (kept,) = cache.rglob("*.jsonl")
    content = kept.read_bytes()
    assert run(line, "--output", tmp_path)[0] == 0
    assert kept.read_bytes() == content
    assert "two-opt" in (tmp_path / "table.md").read_text()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_evaluate_compares_on_several_sets_under_several_budgets(run: Run, tiny: Path, tmp_path: Path) -> None:
    """A line for each set, budget and solver, in this order; one report holds them all."""
    line = "evaluate --instances kool-tsp20:2,kool-tsp50:1 --solvers one=two-opt,sampling --rollouts 2,3 --versus one"
    code, out, err = run(line, "--policy", tiny, "--output", tmp_path / "out", "--format", "json")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["set"], each["budget_rollouts"], each["solver"]) for each in found] == [
        (name, rollouts, solver)
        for name in ("kool-tsp20:2", "kool-tsp50:1")
        for rollouts in (2, 3)
        for solver in ("one", "sampling")
    ]
    assert all(each["mean_difference_percent"] == 0 for each in found if each["solver"] == "one")
    with (tmp_path / "out" / "records.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 2 + 2 * 2
    assert not (tmp_path / "out" / "unfinished").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "records.csv").write_text("mine")
    line = "evaluate --instances kool-tsp20:2 --solvers two-opt --output"
    words = f"{tmp_path}/mine/records.csv is of no report, and would be replaced; name another folder"
    assert run(line, tmp_path / "mine") == (2, "", f"ncogym: output: {words}\n")
    assert (tmp_path / "mine" / "records.csv").read_text() == "mine"


def test_evaluate_takes_a_folder_of_files(run: Run, data: Path, tmp_path: Path) -> None:
    """Files are a set, and gaps are to the solutions beside them."""
    for name in ("rectangle4.tsp", "rectangle4.opt.tour", "square4.tsp"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    code, out, err = run("evaluate --solvers two-opt --format json --instances", tmp_path)
    assert (code, err) == (0, "")
    (found,) = map(json.loads, out.splitlines())
    assert (found["instances"], found["mean_objective"], found["mean_gap_percent"]) == (2, 9.0, 0.0)


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("train", name) for name in ("seed", "max_steps", "steps_per_epoch", "devices")), ("evaluate", "batch_size")],
)
def test_null_is_no_value(run: Run, tmp_path: Path, command: str, name: str) -> None:
    """Null in a config is refused in one line where a setting needs a value."""
    (tmp_path / "a.yaml").write_text(f"env: {{name: tsp, num_nodes: 5}}\n{name}: null\n")
    needed = ["--output", str(tmp_path / "run")] if command == "train" else ["--solvers", "greedy"]
    code, out, err = run(command, "--config", str(tmp_path / "a.yaml"), *needed)
    assert (code, out) == (2, "")
    assert f"{name}: null is not allowed; it must have a value" in err
    assert len(err.splitlines()) == 1


def test_evaluate_reads_a_config(run: Run, tiny: Path, tmp_path: Path) -> None:
    """A study is a file: lists, labels and policies of their own; options after it replace what it says."""
    (tmp_path / "study.yaml").write_text(
        f"instances: [kool-tsp20:1]\nrollouts: [2]\nsolvers:\n- two-opt\n- mine=sampling@{tiny}\n"
    )
    code, out, err = run("evaluate --config", tmp_path / "study.yaml", "--rollouts", "4", "--format", "json")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["solver"], each["budget_rollouts"]) for each in found] == [("two-opt", 4), ("mine", 4)]
    assert found[1]["rollouts_per_instance"] == 4


def test_interrupted_evaluation_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt the same command does what is missing, and says so; other settings are refused."""
    line = "evaluate --instances kool-tsp20:6 --batch-size 2 --format json --solvers"
    line += " nearest-neighbour,farthest-insertion"
    _, undisturbed, _ = run(line)
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGINT, at=6)
        code, out, err = run(line, "--output", tmp_path / "out")
    assert code == 130
    assert 0 < sum(json.loads(each)["instances"] for each in out.splitlines()) < 12
    assert err.startswith("ncogym: interrupted; to go on: ncogym evaluate --instances kool-tsp20:6")
    code, _, err = run(line, "--output", tmp_path / "out", "--seed", "5")
    assert code == 2
    assert "of other, unfinished work (seed 1234, here 5)" in err
    code, out, err = run(line, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    compared = ("solver", "instances", "mean_objective", "feasible", "rollouts_per_instance", "instances_sha256")
    assert [[json.loads(each)[key] for key in compared] for each in out.splitlines()] == [
        [json.loads(each)[key] for key in compared] for each in undisturbed.splitlines()
    ]


@pytest.mark.parametrize("path", sorted((configs_folder() / "evaluate").glob("*.yaml")), ids=lambda path: path.stem)
def test_published_study_names_what_there_is(path: Path) -> None:
    """Each study of `make results` names what exists, and says in its first line what it is."""
    assert path.read_text().startswith("# ")
    told = yaml.safe_load(path.read_text())
    for text in told["instances"]:
        found = open_set(text.split("..")[0].split(":")[0] + ":1")
        for entry in map(Entry.read, told["solvers"]):
            chosen = needs_policy(entry.solver)
            policy = choose_policy(None, found.env, found.env.size, entry.solver).policy if chosen else None
            solver = make_solver(entry.solver, policy)
            assert not isinstance(solver, Baseline) or solver.supports(found.env, found.blocks[0][:1])
            assert entry.policy is None or entry.policy.startswith("out/") or load_policy(entry.policy)
    page = (REPOSITORY / "docs" / "results.md").read_text()
    assert f"<!-- results: {path.stem} -->" in page


def test_evaluate_writes_a_report(run: Run, tmp_path: Path) -> None:
    """--output holds the records and the summary that is printed."""
    line = "evaluate --env tsp --env.num_nodes 5 --instances 3 --solvers two-opt,random-insertion --format json"
    _, out, _ = run(line, "--output", tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["solvers"] == [json.loads(line) for line in out.splitlines()]
    assert (tmp_path / "report" / "records.csv").read_text().count("\n") == 1 + 2 * 3


def test_evaluate_keeps_its_budget(run: Run, tiny: Path, tmp_path: Path) -> None:
    """Each instance gets the rollouts of the budget, no more and no less."""
    line = "evaluate --env tsp --env.num_nodes 5 --instances 3 --solvers sampling --rollouts 6"
    assert run(line, "--policy", tiny, "--output", tmp_path)[0] == 0
    with (tmp_path / "records.csv").open(newline="") as file:
        assert [row["rollouts"] for row in csv.DictReader(file)] == ["6"] * 3


def test_evaluate_chooses_the_shipped_policy(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --policy searches get the shipped one, and where none ships the line says so."""
    line = "evaluate --env tsp --env.num_nodes 5 --instances 2 --solvers greedy --format json"
    monkeypatch.setattr(pretrained, "SHIPPED", tiny.parent)
    assert run(line)[0] == 0
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert "policy: none ships for tsp" in err


def test_interrupted_evaluation_prints_what_was_done(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends the evaluation with the batches that were done and 130."""
    signalled(monkeypatch, signal.SIGINT)
    line = f"evaluate --env tsp --env.num_nodes 5 --instances 2 --solvers sampling --policy {tiny} --seconds 100"
    code, out, err = run(line, "--format", "json")
    assert (code, err) == (130, "ncogym: interrupted\n")
    assert json.loads(out)["instances"] == 0


def test_generate_writes_what_evaluate_solves(run: Run, tmp_path: Path) -> None:
    """The arrays are those that the environment has for the seed, and nothing in the file is pickled."""
    line = "generate --env tsp --env.num_nodes 6 --env.distribution clustered --instances 3 --seed 11 --output"
    assert run(line, tmp_path / "a.npz") == (0, "", "")
    expected = make("tsp", num_nodes=6, distribution="clustered").seeded(3, 11)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == set(expected.keys())
        assert all(np.array_equal(arrays[key], expected[key].numpy()) for key in arrays)


@pytest.mark.parametrize(
    ("more", "name"), [("--instances 9", "a.npz"), ("", "a.tsp"), ("--labels nearest-neighbour --workers 1", "a.npz")]
)
@pytest.mark.parametrize("room", [0, 100])
def test_generate_on_a_full_disk_keeps_what_was_there(
    room: int, more: str, name: str, run: Run, tmp_path: Path, cache: Path
) -> None:
    """The old file stays, nothing is left beside it, and the line names the file."""
    path, line = tmp_path / name, f"generate --env tsp --env.num_nodes 50 {more} --output {tmp_path / name}"
    assert run(line)[0] == 0  # labels, which go to the cache, are there now
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        code, out, err = run(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, out, err) == (2, "", f"ncogym: {path}: file too large\n")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.glob("[!c]*")] == [name]


def test_generated_file_is_solved(run: Run, tmp_path: Path) -> None:
    """One instance in the problem's own format reads back: its tour is that of the instance, in millionths."""
    assert run("generate --env tsp --env.num_nodes 6 --seed 5 --output", tmp_path / "a.tsp") == (0, "", "")
    code, out, _ = run("solve --solver two-opt --format json", tmp_path / "a.tsp")
    assert code == 0
    env = make("tsp", num_nodes=6)
    record = json.loads(out)
    actions = torch.tensor(record["actions"])[None, None]
    assert record["objective"] == pytest.approx(1e6 * float(env.objective(env.seeded(1, 5), actions)), abs=3)


LABELLERS = [
    ("tsp --env.num_nodes 6", "fast-tsp", "fast_tsp"),
    ("tsp --env.num_nodes 6", "ortools", "ortools"),
    ("cvrp --env.num_customers 5", "pyvrp", "pyvrp"),
    ("cvrp --env.num_customers 5", "hgs", "hygese"),
    ("cvrp --env.num_customers 5", "ortools", "ortools"),
    ("knapsack --env.num_items 6", "ortools", "ortools"),
    ("knapsack --env.num_items 6", "cp-sat", "ortools"),
    ("atsp --env.num_nodes 5", "cp-sat", "ortools"),
    ("jssp --env.num_jobs 3 --env.num_machines 2", "cp-sat", "ortools"),
    ("jssp --env.num_jobs 3 --env.num_machines 2 --env.insertion", "cp-sat", "ortools"),
    ("tsp --env.num_nodes 6", "multistart+two-opt", "torch"),
]


@pytest.mark.parametrize(("env", "labeller", "package"), LABELLERS, ids=[" ".join(each[:2]) for each in LABELLERS])
def test_generate_labels(run: Run, tmp_path: Path, cache: Path, env: str, labeller: str, package: str) -> None:
    """Each labeller labels, in its time, instances that are those without labels; the last line sums up."""
    pytest.importorskip(package)
    line = f"generate --env {env} --instances 3 --seed 7 --output"
    assert run(line, tmp_path / "bare.npz")[0] == 0
    seconds = "100" if env.startswith("jssp") else "0.1"  # what is proven ends long before
    budget = ["--rollouts", "20"] if needs_policy(labeller) else ["--seconds", seconds]
    code, out, err = run(line, tmp_path / "a.npz", "--labels", labeller, "--workers", "1", *budget)
    assert (code, err) == (0, "")
    found, bare = open_set(str(tmp_path / "a.npz")), open_set(str(tmp_path / "bare.npz"), env.split()[0])
    mean, proven = float(found.best_known.mean()), sum(found.proven)
    words = f"holds 3 instances with labels by {labeller}: mean objective {mean:.6g}, {proven} proven"
    assert out == f"{tmp_path / 'a.npz'} {words}\n"
    assert found.sha256 == bare.sha256
    assert found.best_known_name == f"{labeller} (a.npz)"
    assert proven == (3 if env.startswith("jssp") else 0)  # numbers with fractions are no proof
    for row, actions in enumerate(found.actions):
        objective = float(found.env.objective(found.blocks[0][row : row + 1], actions[None, None]))
        assert objective == pytest.approx(float(found.best_known[row]), rel=1e-12)


def test_labels_are_references(run: Run, tmp_path: Path, cache: Path) -> None:
    """A labelled file is evaluated as any other, with gaps to its labels; broken ones are refused in a line."""
    line = "generate --env tsp --env.num_nodes 7 --instances 4 --labels two-opt --rollouts 3 --workers 1 --output"
    assert run(line, tmp_path / "a.npz")[0] == 0
    line = f"evaluate --instances {tmp_path / 'a.npz'} --solvers nearest-neighbour --format json"
    code, out, err = run(line)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["set"], told["reference"], told["instances"]) == ("a.npz", "two-opt (a.npz)", 4)
    expected = open_set(str(tmp_path / "a.npz"))
    tours = make_solver("nearest-neighbour")(expected.env, expected.blocks[0], None, torch.Generator())
    gaps = [100 * (tour.objective / best - 1) for tour, best in zip(tours, expected.best_known.tolist(), strict=True)]
    assert told["mean_gap_percent"] == pytest.approx(sum(gaps) / 4)
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    arrays["actions"][2, :2] = arrays["actions"][2, 1::-1]
    np.savez(tmp_path / "a.npz", **arrays)
    code, out, err = run(line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a.npz: instance 2: its objective is said to be" in err


LABELLING = "generate --env tsp --env.num_nodes 50 --instances 40 --labels random-insertion --rollouts 1500"


def test_killed_labelling_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 the same command keeps every label that was there, and ends with the same file, to the byte."""

    def labelled(name: str, *more: str) -> list[str]:
        monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path / name))
        return [*LABELLING.split(), "--output", str(tmp_path / f"{name}.npz"), *more]

    def lines() -> list[bytes]:
        return [line for file in (tmp_path / "cut").rglob("*.jsonl") for line in file.read_bytes().splitlines(True)]

    command = [sys.executable, "-m", "ncogym.cli", *labelled("cut", "--workers", "2")]
    killed = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while len(lines()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=600)  # which waits for its workers, too
    before = [line for line in lines() if line.endswith(b"\n")]
    assert len(before) < 40
    assert not (tmp_path / "cut.npz").exists()
    assert run("", *command[3:], "--workers", "1")[0] == 0  # how many there are changes nothing
    assert lines()[: len(before)] == before
    assert len(lines()) == 40
    assert run("", *labelled("whole", "--workers", "1"))[0] == 0
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_interrupted_labelling_says_how_to_go_on(
    run: Run, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends it with 130 and the command that goes on, and costs the instance under way alone."""
    line = "generate --env tsp --env.num_nodes 6 --instances 4 --labels nearest-neighbour --workers 1 --output"
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGINT, at=3)
        code, out, err = run(line, tmp_path / "a.npz")
    assert (code, out) == (130, "")
    assert err == f"ncogym: interrupted; to go on: ncogym {line} {tmp_path / 'a.npz'}\n"
    assert not (tmp_path / "a.npz").exists()
    (kept,) = cache.rglob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 2
    assert run(line, tmp_path / "a.npz")[0] == 0
    assert len(kept.read_text().splitlines()) == 4


def test_render_draws_what_solve_wrote(run: Run, rectangle: Path, tmp_path: Path) -> None:
    """A record is drawn again, and refused once its actions break a constraint."""
    run("solve --solver two-opt --output", tmp_path, rectangle)
    record = tmp_path / "rectangle4.json"
    assert run("render", record, "--output", tmp_path / "b.png") == (0, "", "")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"actions": [0, 1, 1, 2]}))
    code, out, err = run("render", record, "--output", tmp_path / "c.png")
    assert (code, out) == (2, "")
    assert "node 1 is visited at step 1 and again at step 2" in err
    assert not (tmp_path / "c.png").exists()


# ---------------------------------------------------------------------- list, bench


@pytest.mark.parametrize(
    ("section", "entries"),
    [
        ("envs", ["tsp"]),
        ("policies", ["AttentionPolicy"]),
        ("solvers", ["auto", "greedy", "sampling", "multistart", "symmetry", "two-opt", "ortools", "fast-tsp"]),
        ("pretrained", ["tiny"]),
        ("configs", ["train/smoke"]),
    ],
)
def test_list_shows_a_section(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, section: str, entries: list[str]
) -> None:
    """Each section lists its entries with a word on each, which stand below each other."""
    monkeypatch.setattr(pretrained, "SHIPPED", tiny.parent)
    code, out, err = run(f"list {section}")
    assert (code, err) == (0, "")
    listed = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert all(listed[entry] for entry in entries)
    lines = out.splitlines()
    width = max(len(line.split()[0]) for line in lines)
    assert all(line[2 + width : 4 + width] == "  " and line[4 + width] != " " for line in lines)


def test_list_shows_a_summary(run: Run) -> None:
    """A screen tells what there is, by name where that is possible, and how to see more."""
    code, out, err = run("list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 100
    for section in ("envs", "sets", "policies", "solvers", "pretrained", "configs"):
        (heading,) = [line for line in lines if line.endswith(f": ncogym list {section}")]
        assert heading.startswith(f"{section} ({run(f'list {section}')[1].count(chr(10))})")
    assert {"tsp", "AttentionPolicy", "dispatch:random-MWKR", "tsp-attention"} <= set(out.split())
    assert "kool-tsp20" not in out.split()


def test_the_package_runs_as_a_module() -> None:
    """``python -m ncogym`` is the command."""
    asked = [sys.executable, "-m", "ncogym", "--version"]
    done = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ncogym ")


@pytest.mark.parametrize("what", ["env", "decode", "train"])
def test_bench_prints_one_object(run: Run, what: str) -> None:
    """The JSON has the promised fields in their order, with the sizes that were asked for."""
    code, out, err = run(f"bench {what} --env tsp --env.num_nodes 5 --batch 2 --rollouts 3 --device cpu --format json")
    assert (code, err) == (0, "")
    measured = json.loads(out)
    assert list(measured) == BENCH_FIELDS.split()
    assert [measured[key] for key in BENCH_FIELDS.split()[:6]] == [what, "tsp", "cpu", 2, 3, "float32"]
    assert measured["acting"] in (["eager"] if what == "env" else ["eager", "kernel"])


def test_bench_acts_as_asked(run: Run) -> None:
    """The way of acting and its precision can be chosen, and one that cannot be had here is refused in one line."""
    asked = "bench decode --env tsp --env.num_nodes 5 --batch 2 --rollouts 3 --device cpu --format json"
    code, out, _ = run(f"{asked} --acting eager --precision bfloat16")
    assert code == 0
    assert [json.loads(out)[key] for key in ("acting", "dtype")] == ["eager", "bfloat16"]
    code, out, err = run(f"{asked} --acting graph")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "acting: 'graph' is not allowed on cpu" in err


def test_bench_prints_a_table(run: Run) -> None:
    """The default is a table of the same facts."""
    code, out, err = run("bench env --env tsp --env.num_nodes 5 --batch 2 --rollouts 3")
    assert (code, err) == (0, "")
    assert [
        line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.strip()
    ] == BENCH_FIELDS.split()


# ---------------------------------------------------------------------- train


def test_train_leaves_a_policy_and_its_config(run: Run, tmp_path: Path) -> None:
    """A run leaves a policy that solves and a resolved config that is a run of its own, and is not overwritten."""
    folder = tmp_path / "out"
    code, out, err = run("train --config smoke --env.num_nodes 6 --output", folder, *TRAIN_BRIEFLY)
    assert (code, err) == (0, "")
    assert str(folder / "policy") in out
    loaded = load_policy(folder / "policy")
    assert loaded.card["env"] == {"name": "tsp", "arguments": {"num_nodes": 6, "distribution": "uniform"}}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["env"]["num_nodes"], config["max_steps"], config["algorithm"]["init_args"]["starts"]) == (6, 1, 0)
    assert json.loads((folder / "run.json").read_text())["config"] == config
    code, out, err = run("train --config smoke --output", folder)
    assert (code, out) == (2, "")
    assert "already holds a run" in err
    code, _, err = run("train --config", folder / "config.yaml", "--output", tmp_path / "again")
    assert (code, err) == (0, "")
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text()) == config | {"output": f"{tmp_path}/again"}


@pytest.mark.parametrize("path", sorted((configs_folder() / "train").rglob("*.yaml")), ids=lambda path: path.stem)
def test_published_config_runs(run: Run, tmp_path: Path, path: Path) -> None:
    """Each config in configs/ is parsed in full and takes a step, and it says in its first line what it is."""
    assert path.read_text().startswith("# ")
    brief = [*TRAIN_BRIEFLY, "--labels.folder", tmp_path / "labels", "--output", tmp_path / "out"]
    code, _, err = run("train --config", path, *brief)
    assert (code, err) == (0, "")
    assert load_policy(tmp_path / "out" / "policy").card["training"]["steps"] == 1


@pytest.mark.parametrize(
    "algorithm",
    [
        "Reinforce --algorithm.reward_baseline shared --algorithm.rollouts 3",
        "Reinforce --algorithm.reward_baseline critic",
        "PPO --algorithm.samples 2 --algorithm.entropy 0.01",
    ],
)
def test_train_without_a_config(run: Run, tmp_path: Path, algorithm: str) -> None:
    """Options alone make a run; policy and algorithm go by their short names."""
    options = f"--policy AttentionPolicy --policy.dim 16 --policy.num_layers 1 --algorithm {algorithm}"
    code, _, err = run(f"train --env tsp --env.num_nodes 6 {options} --output", tmp_path / "out", *TRAIN_BRIEFLY)
    assert (code, err) == (0, "")
    policy = json.loads((tmp_path / "out" / "policy" / "card.json").read_text())["policy"]
    assert (policy["class"], policy["arguments"]["dim"]) == ("AttentionPolicy", 16)


def test_interrupted_training_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends training with 130 and the command that resumes it, which then reaches the end."""
    step = TrainingModule.training_step

    @functools.wraps(step)
    def step_and_kill(self: TrainingModule, *arguments: object) -> object:
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    brief = [*TRAIN_BRIEFLY, "--max_steps", "4", "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", step_and_kill)
        code, out, err = run("train --config smoke", *brief)
    assert (code, out, err.count("\n")) == (130, "", 1)
    assert "interrupted at step 2" in err
    again = err.partition("ncogym train ")[2].strip()
    assert again.endswith("--resume true")
    code, _, err = run("train --config smoke", *brief, "--resume", "true")
    assert (code, err) == (0, "")
    assert load_policy(tmp_path / "out" / "policy").card["training"]["steps"] == 4


def test_warning_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of ours is one line on stderr, however often it comes, and one of others is left as it is."""

    def listed() -> list[tuple[str, str]]:
        for _ in range(2):
            warnings.warn("a.sol: odd,\nso it is passed over", NcogymWarning, stacklevel=1)
        return []

    monkeypatch.setattr("ncogym.cli.listing._list_envs", listed)
    assert run("list envs") == (0, "", "ncogym: warning: a.sol: odd, so it is passed over\n")
    monkeypatch.setattr("ncogym.cli.listing._list_envs", lambda: warnings.warn("not ours", stacklevel=1) or [])
    with pytest.warns(UserWarning, match="not ours"):
        run("list envs")


def test_labels_have_a_seed_of_their_own(run: Run, tmp_path: Path, cache: Path) -> None:
    """`generate` draws evaluate's instances, with labels others, and says so where they are of a published set."""
    line = "generate --env tsp --env.num_nodes 20 --instances 3 --output"
    labelled = "--labels nearest-neighbour --workers 1"
    env = make("tsp", num_nodes=20)
    assert run(f"{line} {tmp_path}/a.npz")[0::2] == (0, "")
    assert run(f"{line} {tmp_path}/b.npz {labelled}")[0::2] == (0, "")
    code, _, err = run(f"{line} {tmp_path}/c.npz {labelled} --seed 1234")
    words = "3 of the 3 instances of seed 1234 are in kool-tsp20; train will refuse these labels"
    assert (code, err) == (0, f"ncogym: warning: seed: {words}\n")
    for name, seed in (("a", 1234), ("b", 2718), ("c", 1234)):
        with np.load(tmp_path / f"{name}.npz") as file:
            assert np.array_equal(file["locs"], env.seeded(3, seed)["locs"].numpy())
    code, _, err = run(
        f"train --env tsp --env.num_nodes 20 --algorithm Imitation --labels.file {tmp_path}/c.npz --output",
        tmp_path / "o",
    )
    assert code == 2
    assert "3 of its 3 instances are in kool-tsp20" in err
