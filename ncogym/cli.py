"""The command line, ``ncogym COMMAND``: one typed function a command, and no logic of its own.

Exit codes: 0 done, 2 bad input or arguments, 3 no feasible solution within the budget, 130 interrupted. An error is one
line on stderr; ``--debug`` adds the traceback. Commands import what they need when they run, so that help is quick.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser
from jsonargparse.typing import restricted_number_type

from ncogym.errors import ArgumentError, CheckpointError, NcogymError, NoSolutionFound

if TYPE_CHECKING:
    from rich.console import Console

    Count = int
    Seed = int
else:
    Count = restricted_number_type("Count", int, (">", 0))
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

DONE, BAD, UNSOLVED, INTERRUPTED = 0, 2, 3, 130

Format = Literal["table", "json"]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; None takes those of this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    try:
        return _run(argv)
    except NcogymError as error:
        return _complain(error, debug)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # who read our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        return _complain(error, debug)
    except KeyboardInterrupt as interrupt:
        return _complain(interrupt, debug)
    except SystemExit as end:  # after --help and --version
        return int(end.code or 0)


# ---------------------------------------------------------------------- the commands


def solve(
    files: list[str],
    /,
    *,
    problem: str | None = None,
    solver: str = "auto",
    policy: str | None = None,
    seconds: float | None = None,
    rollouts: int | None = None,
    seed: Seed = 0,
    best_known: float | None = None,
    output: str | None = None,
    format: Format = "table",  # noqa: A002 - the option's name
    debug: bool = False,
) -> int:
    """Solve instance files.

    Without --seconds and --rollouts the solver ends of its own accord. A file that cannot be read costs one line on
    stderr and exit code 2; the others are still solved. An interrupt ends the search, and what it found is printed.

    Args:
        files: Instance files, such as those of TSPLIB.
        problem: Their problem, where neither header nor suffix tells (`ncogym list envs`).
        solver: Solver, or searches composed with + (`ncogym list solvers`).
        policy: Policy of the searches: a shipped one (`ncogym list pretrained`) or a folder; null takes the shipped one
            that suits best.
        seconds: Wall-clock seconds for each file.
        rollouts: Complete solutions built for each file.
        seed: Of all that the solver draws.
        best_known: Objective that the gap is to; null takes that of a published solution beside the file.
        output: Folder for NAME.json, a picture NAME.png, and the solution in the problem's own format (NAME.tour),
            where NAME is the file's without its suffix. Files there are replaced; two inputs of one NAME are refused.
        format: How results are printed; json is one object a line.
        debug: Show the traceback of an error.
    """
    by_stem: dict[str, str] = {}
    for file in files if output is not None else []:
        other = by_stem.setdefault(Path(file).stem, file)
        if other is not file:
            raise ArgumentError(f"output: {other} and {file} are not allowed together; both would be {Path(file).stem}")
    records, codes = [], {DONE}
    with _cancelled_by_signals() as cancel, _busy("solving"):
        from ncogym.solver import Budget
        from ncogym.solving import solve as solve_file

        for file in files:
            try:
                solved = solve_file(
                    file,
                    problem=problem,
                    solver=solver,
                    policy=policy,
                    seconds=seconds,
                    rollouts=rollouts,
                    seed=seed,
                    best_known=best_known,
                    budget=Budget(cancel=cancel),
                )
                records.append(solved.record())
                if format == "json":
                    _print_json(records[-1])
                if output is not None:
                    solved.write(output)
                codes.add(DONE if solved.solution.feasible else UNSOLVED)
            except NcogymError as error:
                codes.add(_complain(error, debug))
            if cancel.is_set():
                codes.add(_complain(KeyboardInterrupt(), debug))
                break
    if format == "table" and records:
        _print_table(records, _SOLVE_COLUMNS)
    return next(code for code in (INTERRUPTED, BAD, UNSOLVED, DONE) if code in codes)


def train(*, env: Any, resolved: Mapping[str, Any], argv: list[str], **settings: Any) -> int:
    """Train a policy.

    Published runs are in configs/ (`ncogym list configs`); options after --config replace what it says.
    """
    import yaml

    from ncogym.solving import make_solver
    from ncogym.training.run import train as run

    folder = Path(settings["output"])
    try:
        run(env, make_solver, config=dict(resolved), **settings)
    except KeyboardInterrupt as interrupt:
        again = argv if settings["resume"] or not (folder / "last.ckpt").exists() else [*argv, "--resume", "true"]
        line = f"{interrupt or 'interrupted'}; to go on: ncogym train {shlex.join(again)}"
        raise KeyboardInterrupt(line) from interrupt
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(resolved), sort_keys=False))
    _console().print(f"{folder / 'policy'} holds the trained policy", soft_wrap=True)
    return DONE


def evaluate(
    *,
    env: Any,
    solvers: str,
    instances: Count = 1000,
    seed: Seed = 1234,
    reference: str | None = None,
    seconds: float | None = None,
    rollouts: int | None = None,
    policy: str | None = None,
    output: str | None = None,
    format: Format = "table",  # noqa: A002
) -> int:
    """Compare solvers on the same generated instances.

    Args:
        env: The problem.
        solvers: Solvers, separated by commas (`ncogym list solvers`).
        instances: Number of instances.
        seed: Of the instances and of all that the solvers draw.
        reference: Solver that the gaps are to.
        seconds: Wall-clock seconds for each instance.
        rollouts: Complete solutions built for each instance, instead of seconds.
        policy: Policy of the searches: a shipped one (`ncogym list pretrained`) or a folder; null takes the shipped one
            that suits best.
        output: Folder for the report.
        format: How results are printed; json is one object a line.
    """
    raise NotImplementedError


def generate(*, env: Any, output: str, instances: Count = 1, seed: Seed = 1234) -> int:
    """Write generated instances to a file: those that `evaluate` solves for the same seed.

    Args:
        env: The problem.
        output: FILE.npz, whose arrays are those of an instance, or for one instance the problem's own format, FILE.tsp.
        instances: Number of instances.
        seed: Of the instances.
    """
    import numpy as np

    data, path = env.seeded(instances, seed), Path(output)
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in data.items()})
    elif path.suffix in env.suffixes and instances == 1:
        env.write(data, path)
    else:
        own = ", or for one instance ".join([".npz", *env.suffixes])
        raise ArgumentError(f"output: {output} is not allowed for {instances} instances; its suffix must be {own}")
    return DONE


def render(solution: str, /, *, output: str) -> int:
    """Draw a solution that `solve --output` wrote, once it is checked again.

    Args:
        solution: NAME.json; the instance file that it names is looked for here, then beside it.
        output: Picture; its suffix is the format: .png, .svg, .pdf ...
    """
    from ncogym.solving import render as draw

    draw(solution, output)
    return DONE


def list_(section: Literal["envs", "policies", "solvers", "pretrained", "configs"] | None = None, /) -> int:
    """List what there is: problems, policy classes, solvers, trained policies that ship, and run configurations.

    Args:
        section: One of them only.
    """
    sections = {
        "envs": _list_envs,
        "policies": _list_policies,
        "solvers": _list_solvers,
        "pretrained": _list_pretrained,
        "configs": _list_configs,
    }
    console = _console()
    for name in [section] if section else sections:
        if not section:
            console.print(f"[bold]{name}[/bold]")
        for entry, facts in sections[name]():
            console.print(f"  {entry:<22} {facts}".rstrip(), markup=False, highlight=False, soft_wrap=True)
    return DONE


def bench(
    what: Literal["env", "decode", "train"],
    /,
    *,
    env: Any,
    batch: Count = 64,
    rollouts: Count = 50,
    device: str | None = None,
    format: Format = "table",  # noqa: A002
) -> int:
    """Measure speed: the median of five repetitions.

    Args:
        what: Random walks of the env, greedy decoding by an attention policy of random weights, or one training step.
        env: The problem.
        batch: Instances at once.
        rollouts: Rollouts for each instance.
        device: Such as cpu or cuda; null takes cuda where there is one.
        format: How the result is printed; json is one object.
    """
    from ncogym.bench import bench as measure

    with _busy("measuring"):
        measured = measure(what, env, batch=batch, rollouts=rollouts, device=device)
    if format == "json":
        _print_json(measured)
    else:
        _print_table([{"fact": key, "value": value} for key, value in measured.items()], {"fact": "", "value": ""})
    return DONE


COMMANDS: dict[str, Callable[..., int]] = {
    "solve": solve,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "render": render,
    "list": list_,
    "bench": bench,
}
