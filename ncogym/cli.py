"""The command line, ``ncogym COMMAND``: one typed function a command, and no logic of its own.

Exit codes: 0 done, 2 bad input or arguments, 3 no feasible solution within the budget, 130 interrupted. An error is one
line on stderr; ``--debug`` adds the traceback. Commands import what they need when they run, so that help is quick.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt, restricted_number_type

from ncogym import _configs
from ncogym._light import import_tensordict
from ncogym.errors import ArgumentError, CheckpointError, NcogymError, NcogymWarning, NoSolutionFound

if TYPE_CHECKING:
    from rich.console import Console

    Count = int
    Threads = int
    Seed = int
else:
    Count = PositiveInt
    Threads = restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)])  # as in training/limits.py
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

DONE, BAD, UNSOLVED, INTERRUPTED = 0, 2, 3, 130

NAMED = 60  # entries of a section whose names `ncogym list` shows

Format = Literal["table", "json"]

EVALUATED_SEED = 1234  # of test instances: Kool's sets among them
LABELLED_SEED = 2718  # of instances to learn from: of no published set (1234, 1235, 200), nor of validation (4321)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; None takes those of this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    if sys.stdout is None or sys.stderr is None:  # closed, as by >&-
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever it cannot encode is shown as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _ended(argv, debug)
        sys.stdout.flush()  # now, for at exit nobody could tell what went wrong
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # who read our output has gone, as `head` does; rich does the same
            return 1
        return _complain(OSError(error.errno, error.strerror, "standard output"), debug)
    return code


def _ended(argv: list[str], debug: bool) -> int:
    """Run one command, whatever it ends by, and return its exit code."""
    try:
        with _warnings_in_one_line():
            return _run(argv)
    except BrokenPipeError:
        raise
    except (NcogymError, OSError, KeyboardInterrupt) as error:
        return _complain(error, debug)
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
    threads: Threads = 1,
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
            where NAME is the file's without its suffix. What `solve` wrote there before is replaced, and no other file
            ever is; two inputs of one NAME are refused.
        threads: CPU threads of the policy; more than one pays on an idle machine and for large instances only.
        format: How results are printed; json is one object a line.
        debug: Show the traceback of an error.
    """
    if output is not None:
        stems = [Path(file).stem for file in files]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise ArgumentError(f"output: two inputs of one name are not allowed, here {', '.join(twice)}")
        Path(output).mkdir(parents=True, exist_ok=True)
    records, codes = [], {DONE}
    with _cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.solving import check_output
        from ncogym.solving import solve as solve_file

        for file in files if output is not None else ():
            check_output(file, str(output), problem)
        _use_threads(threads)
        try:
            for file in files:
                try:
                    with _busy(f"solving {file}"):
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
                        try:
                            solved.write(output)
                        except OSError as error:  # a full disk, say
                            codes.add(_complain(error, debug))
                    codes.add(DONE if solved.solution.feasible else UNSOLVED)
                except (ArgumentError, CheckpointError):  # no fault of this file
                    raise
                except NcogymError as error:
                    codes.add(_complain(error, debug))
                if cancel.is_set():
                    codes.add(_complain(KeyboardInterrupt(), debug))
                    break
        finally:  # what was found is told, whatever goes wrong later
            if format == "table" and records:
                _print_table(records, _SOLVE_COLUMNS)
    return next(code for code in (INTERRUPTED, BAD, UNSOLVED, DONE) if code in codes)


def train(*, env: Any, resolved: Mapping[str, Any], argv: list[str], **settings: Any) -> int:
    """Train a policy.

    Published runs are in configs/ (`ncogym list configs`); options after --config replace what it says.
    """
    from ncogym.distributed import is_main
    from ncogym.learning import train as run

    folder = Path(settings["output"])
    try:
        run(env, config=dict(resolved), bar=_bar, **settings)
    except KeyboardInterrupt as interrupt:
        if not is_main():
            return DONE  # the main process tells
        again = argv if settings["resume"] or not (folder / "last.ckpt").exists() else [*argv, "--resume", "true"]
        line = f"{interrupt or 'interrupted'}; to go on: ncogym train {shlex.join(again)}"
        raise KeyboardInterrupt(line) from interrupt
    if is_main():
        _console().print(f"{folder / 'policy'} holds the trained policy", soft_wrap=True, markup=False)
    return DONE


def evaluate(
    *,
    solvers: str | list[str],
    env: Any = None,
    instances: int | str | list[str] = 1000,
    seed: Seed = EVALUATED_SEED,
    reference: str | None = None,
    reference_seconds: float | None = None,
    versus: str | None = None,
    seconds: float | str | list[float] | None = None,
    rollouts: int | str | list[int] | None = None,
    policy: str | None = None,
    output: str | None = None,
    threads: Threads = 1,
    workers: Count | None = None,
    device: str = "cpu",
    batch_size: Count = 64,
    format: Format = "table",  # noqa: A002
    argv: list[str],
) -> int:
    """Compare solvers on the same instances: named sets, files, or generated ones.

    Several sets and several budgets make one report. A solver that cannot take one of the sets has dashes there, which
    is said at the start. With --output, what is done is kept as it is made: after an interrupt or a kill, the same
    command goes on. Processes that torchrun or srun starts share the instances, and the first of them prints.

    Args:
        solvers: Solvers with commas between (`ncogym list solvers`), each also as SOLVER@POLICY with a policy of its
            own, and as LABEL=SOLVER or LABEL=SOLVER@POLICY with a name for the tables.
        env: The problem of generated instances; for others it is told by the set.
        instances: Number of instances that --env and --seed make; or sets, with commas between: a name, or NAME:COUNT
            for its first COUNT (`ncogym list sets`), a range of names as ta01..ta10, a folder of instance files, a
            file.
        seed: Of generated instances and of all that the solvers draw.
        reference: Solver whose solutions the gaps are to; they are computed once, in parallel, and kept in the user's
            cache. null takes the best known values that a set has, else the solutions that ship for it.
        reference_seconds: Wall-clock seconds of the reference for each instance; null takes the largest of --seconds,
            and without them it ends of its own accord.
        versus: Solver of the run that the others are compared with, instance by instance.
        seconds: Wall-clock seconds for each instance; several with commas between are budgets of their own.
        rollouts: Complete solutions built for each instance, instead of seconds; several likewise.
        policy: Policy of the searches: a shipped one (`ncogym list pretrained`) or a folder; null takes the shipped one
            that suits best.
        output: Folder for the report: records, tables, plots, and a page for the browser. A report there is replaced;
            files of its names that are of no report are not.
        threads: CPU threads of policies and of solvers that can use several.
        workers: Processes that compute references; null takes one for each core.
        device: Where the policies run, such as cpu or cuda.
        batch_size: Instances that a search is given at once; with --output also what a kill may cost.
        format: How results are printed; json is one object a line, for each solver.
        argv: What was typed.
    """
    limits = {"seconds": _numbers("seconds", seconds, float), "rollouts": _numbers("rollouts", rollouts, int)}
    if all(limits.values()):
        raise ArgumentError(f"rollouts: {rollouts} is not allowed beside seconds; one budget must hold for all")
    unfinished = None if output is None else Path(output, "unfinished")
    if unfinished is not None:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
    with _cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.distributed import is_main
        from ncogym.report import check_folder, rich_table, write_report
        from ncogym.study import study

        if unfinished is not None and not unfinished.exists():
            check_folder(unfinished.parent)
        _use_threads(threads)
        with _bar() as progress:
            found = study(
                env,
                _listed(instances),
                _listed(solvers),
                [Budget(**{name: value}) for name, values in limits.items() for value in values] or [Budget()],
                seed=seed,
                policy=policy,
                reference=reference,
                reference_seconds=reference_seconds,
                versus=versus,
                threads=threads,
                workers=workers,
                device=device,
                batch_size=batch_size,
                journals=unfinished,
                command=f"ncogym {shlex.join(argv)}",
                cancel=cancel,
                progress=progress,
            )
    if not is_main():
        return DONE
    interrupted = any(evaluation.interrupted for evaluation in found)
    if unfinished is not None:
        write_report(found, unfinished.parent)
        if not interrupted:
            shutil.rmtree(unfinished)
    for evaluation in found:
        if format == "json":
            for summary in evaluation.summaries():
                _print_json(vars(summary))
        else:
            _console().print(rich_table(evaluation, _console().width))
    if interrupted:
        again = f"; to go on: ncogym {shlex.join(argv)}" if output is not None else ""
        raise KeyboardInterrupt(f"interrupted{again}")
    return DONE if any(summary.feasible for each in found for summary in each.summaries()) else UNSOLVED


def generate(
    *,
    env: Any,
    output: str,
    instances: Count = 1,
    seed: Seed | None = None,
    labels: str | None = None,
    seconds: float | None = None,
    rollouts: int | None = None,
    workers: Count | None = None,
    argv: list[str],
) -> int:
    """Write generated instances to a file: those that `evaluate` solves for the same seed.

    With --labels the file also has a solution of each, which `evaluate` takes for what is best known and `train` can
    imitate (--labels.file). Labels are kept in the user's cache as they are found: after an interrupt or a kill, the
    same command goes on. They are checked again whenever they are read.

    Args:
        env: The problem.
        output: FILE.npz, whose arrays are those of an instance, or for one instance without label the problem's own
            format, FILE.tsp.
        instances: Number of instances.
        seed: Of the instances; null takes that of `evaluate`, 1234, and with --labels 2718, whose instances are in no
            published set, so that they may be trained on.
        labels: Solver that labels (`ncogym list solvers`).
        seconds: Its wall-clock seconds for each instance; without these and --rollouts it ends of its own accord.
        rollouts: Complete solutions (some solvers count iterations) that it may build for each instance.
        workers: Processes that label side by side; null takes one for each core.
        argv: What was typed.
    """
    import numpy as np

    from ncogym._files import whole
    from ncogym.evaluation import seeded_instances

    path = Path(output)
    if not path.parent.is_dir():  # better now than after hours
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    if labels is None:
        for name, value in {"seconds": seconds, "rollouts": rollouts, "workers": workers}.items():
            if value is not None:
                raise ArgumentError(f"{name}: {value} is not allowed without labels; give --labels SOLVER, too")
    elif path.suffix != ".npz":
        raise ArgumentError(f"output: {output} is not allowed with labels; its suffix must be .npz")
    else:
        seed = LABELLED_SEED if seed is None else seed
        return _label(env, path, instances, seed, labels, seconds, rollouts, workers, argv)
    if path.suffix != ".npz" and not (path.suffix in env.suffixes and instances == 1):
        own = f".npz, or for one instance {' or '.join(env.suffixes)}"
        raise ArgumentError(f"output: {output} is not allowed for {instances} instances; its suffix must be {own}")
    data = seeded_instances(env, instances, EVALUATED_SEED if seed is None else seed)
    with whole(path) as partial:
        if path.suffix == ".npz":
            np.savez(partial, **{key: value.numpy() for key, value in data.items()})
        else:
            env.write(data, partial)
    return DONE


def _label(
    env: Any,
    path: Path,
    instances: int,
    seed: int,
    labels: str,
    seconds: float | None,
    rollouts: int | None,
    workers: int | None,
    argv: list[str],
) -> int:
    """Write a labelled file, and say what is in it."""
    given: dict[str, Any] = {"seconds": seconds, "rollouts": rollouts}
    limits = {name: value for name, value in given.items() if value is not None}
    _warn_of_published(env, instances, seed)
    with _cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.distributed import is_main
        from ncogym.sets import write_labelled
        from ncogym.study import label

        _use_threads(1)
        try:
            with _bar() as progress:
                budget = Budget(**limits, cancel=cancel)
                found = label(env, instances, seed, labels, budget, workers=workers, progress=progress)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"interrupted; to go on: ncogym {shlex.join(argv)}") from interrupt
    if is_main():
        write_labelled(path, found, {"labels": labels, **limits, "seed": seed})
        mean, proven = float(found.best_known.mean()), sum(found.proven)
        words = f"{path} holds {instances} instances with labels by {labels}: "
        said = f"{words}mean objective {mean:.6g}, {proven} proven"
        _console().print(said, soft_wrap=True, highlight=False, markup=False)
    return DONE


def _warn_of_published(env: Any, instances: int, seed: int) -> None:
    """Say so where instances that are to be labelled are those of a published set, on which nothing may be trained."""
    from ncogym.evaluation import seeded_instances
    from ncogym.sets import published_among

    for name, count in published_among(env, seeded_instances(env, instances, seed)).items():
        words = f"{count} of the {instances} instances of seed {seed} are in {name}; train will refuse these labels"
        warnings.warn(f"seed: {words}", NcogymWarning, stacklevel=2)


def render(solution: str, /, *, output: str) -> int:
    """Draw a solution that `solve --output` wrote, once it is checked again.

    Args:
        solution: NAME.json; the instance file that it names is looked for here, beside it, and where it was solved.
        output: Picture; its suffix is the format: .png, .svg, .pdf ...
    """
    from ncogym.solving import render as draw

    draw(solution, output)
    return DONE


def list_(section: Literal["envs", "sets", "policies", "solvers", "pretrained", "configs"] | None = None, /) -> int:
    """List what there is: problems, named instances, policy classes, solvers, trained policies, run configurations.

    Without a section it shows how many there are of each, and their names where these are few.

    Args:
        section: One of them, with a word on each.
    """
    sections = {
        "envs": _list_envs,
        "sets": _list_sets,
        "policies": _list_policies,
        "solvers": _list_solvers,
        "pretrained": _list_pretrained,
        "configs": _list_configs,
    }
    if section is None:
        for name, entries in sections.items():
            names = [entry for entry, _ in entries()]
            sys.stdout.write(f"{name} ({len(names)}): ncogym list {name}\n")
            if len(names) <= NAMED:
                indent: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
                lines = textwrap.fill("  ".join(names), 100, break_long_words=False, break_on_hyphens=False, **indent)
                sys.stdout.write(f"{lines}\n")
        return DONE
    found = list(sections[section]())
    width = max((len(entry) for entry, _ in found), default=0)
    console = _console()
    for entry, facts in found:
        console.print(f"  {entry:<{width}}  {facts}".rstrip(), markup=False, highlight=False, soft_wrap=True)
    return DONE


def bench(
    what: Literal["env", "decode", "train"],
    /,
    *,
    env: Any,
    batch: Count = 64,
    rollouts: Count = 50,
    device: str | None = None,
    acting: Literal["auto", "eager", "compile", "graph", "kernel"] = "auto",
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
    format: Format = "table",  # noqa: A002
) -> int:
    """Measure speed: the median of five repetitions.

    Args:
        what: Random walks of the env, greedy decoding by an attention policy of random weights, or one training step.
        env: The problem.
        batch: Instances at once.
        rollouts: Rollouts for each instance.
        device: Such as cpu or cuda; null takes cuda where there is one.
        acting: How rollouts are run; graph takes CUDA, and auto is the kernel where that is known to be faster.
        precision: Of the matrix products of acting.
        format: How the result is printed; json is one object.
    """
    from ncogym.bench import bench as measure

    with _busy("measuring"):
        measured = measure(what, env, batch=batch, rollouts=rollouts, device=device, acting=acting, precision=precision)
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
PARTS = "ncogym"  # the group of entry points (`ncogym.plugins`)
CONFIGURED = (train, evaluate)  # which take their options from a file, too


# ---------------------------------------------------------------------- from arguments to a call


def _run(argv: list[str]) -> int:
    """Parse the arguments of one command and call it."""
    name, rest = (argv[0], argv[1:]) if argv else (None, [])
    if name in ("-h", "--help"):
        sys.stdout.write(_help())
        return DONE
    if name == "--version":
        from ncogym import __version__

        sys.stdout.write(f"ncogym {__version__}\n")
        return DONE
    if name not in COMMANDS:
        said = "none is given" if name is None else f"{name!r} is not known"
        raise ArgumentError(f"command: {said}; allowed are {', '.join(COMMANDS)}; see ncogym --help")
    if not {"-h", "--help"} & set(argv):
        import_tensordict()
    command = COMMANDS[name]
    rest = [re.sub(r"^--env(?==|$)", "--env.name", argument) for argument in rest]
    modules: list[str] = []
    if entry_points(group=PARTS):  # else nothing more is imported for it
        from ncogym.plugins import load_installed

        load_installed()
    rest, modules = _without_imports(rest)
    if command in CONFIGURED:
        rest = _with_config_files(rest)
    try:
        parser = _parser(name, command, rest, modules)
        parsed = parser.parse_args(rest)
        values = vars(parser.instantiate(parsed))
        _refuse_null(command, values)
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise ArgumentError(_in_one_line(str(error), name)) from error
    if command is train:
        import yaml

        values["resolved"], values["argv"] = yaml.safe_load(parser.dump(parsed)), argv[1:]
        for key in ("debug", "import"):
            values["resolved"].pop(key, None)
    elif command in (evaluate, generate):
        values["argv"] = argv
    values.pop("import", None)  # they are imported already
    if command in CONFIGURED:
        values.pop("config")
    if "env" in values:
        from ncogym.envs import build_task

        told = values["env"]
        if told is not None and not hasattr(told, "name"):
            raise ArgumentError(f"env: {told} is not allowed; a config has `env: {{name: NAME}}`")
        values["env"] = None if told is None or told.name is None else build_task(**vars(told))
    if "debug" not in inspect.signature(command).parameters:
        values.pop("debug")
    places = [p.name for p in inspect.signature(command).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    return command(*[values.pop(place) for place in places], **values)


def _refuse_null(command: Callable[..., int], values: Mapping[str, Any]) -> None:
    """Refuse null where a setting needs a value: the parser lets it through."""
    from_run: dict[str, Any] = {}
    if command is train:
        from ncogym.training.run import train as run

        from_run = get_type_hints(run)
    for name, hint in {**get_type_hints(command), **from_run}.items():
        optional = hint is Any or type(None) in get_args(hint)
        if name in values and values[name] is None and not optional:
            raise ArgumentError(f"{name}: null is not allowed; it must have a value")


def _help() -> str:
    lines = [f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ncogym COMMAND ...",
            "",
            "Neural combinatorial optimisation: solve instances, train policies, compare solvers.",
            "",
            "commands:",
            *lines,
            "",
            "`ncogym COMMAND --help` tells the arguments of a command, `ncogym --version` the version.",
            "",
        ]
    )


def _parser(name: str, command: Callable[..., int], argv: list[str], modules: list[str]) -> ArgumentParser:
    """Build the parser of a command from the signature and the docstring of its function.

    Args:
        name: of the command.
        command: the function.
        argv: its arguments, to look ahead.
        modules: whose classes may be named in them.
    """
    told = docstring_parser.parse(command.__doc__ or "")
    _configs.allow(_nameable(modules) if command is train else ())
    parser = ArgumentParser(
        prog=f"ncogym {name}",
        description="\n\n".join(filter(None, [told.short_description, told.long_description])),
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=_configs.MODE,
    )
    helps = {each.arg_name: each.description for each in told.params}
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "env":
            _add_env(parser, name, argv, required=parameter.default is parameter.empty)
        elif parameter.name in helps and parameter.name != "argv":
            _add(parser, parameter, get_type_hints(command)[parameter.name], helps[parameter.name])
    if command in CONFIGURED:
        parser.add_argument("--config", action="config", help="YAML file of options; those after it replace its own")
    told_import = "Module of your own, whose parts may then be named and loaded (`ncogym.register`); may be repeated."
    parser.add_argument("--import", metavar="MODULE", help=told_import)
    if command is train:
        from ncogym.training.run import train as run

        parser.add_function_arguments(
            run, skip={"env", "make_solver", "config", "bar"}, as_group=False, as_positional=False
        )
    if "debug" not in helps:
        parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    return parser


def _add(parser: ArgumentParser, parameter: inspect.Parameter, hint: Any, told: str | None, prefix: str = "") -> None:
    """Add one parameter of a function to a parser."""
    required = parameter.default is parameter.empty
    settings: dict[str, Any] = {"help": told}
    if parameter.kind is parameter.POSITIONAL_ONLY:
        many = hint == list[str]
        settings |= {"type": str, "nargs": "+", "metavar": "FILE"} if many else {"type": hint}
        settings |= {} if required else {"default": parameter.default, "nargs": "?"}
        parser.add_argument(parameter.name, **settings)
    elif hint is bool:
        parser.add_argument(f"--{prefix}{parameter.name}", action="store_true", **settings)
    else:
        settings |= {"type": hint, "required": True} if required else {"type": hint, "default": parameter.default}
        flag = parameter.name if prefix else parameter.name.replace("_", "-")
        parser.add_argument(f"--{prefix}{flag}", **settings)


def _add_env(parser: ArgumentParser, command: str, argv: list[str], required: bool) -> None:
    """Add ``--env`` and, once it is known which, the arguments of its constructor."""
    chosen = _chosen_env(argv)
    told = f"Problem, also as --env NAME; `ncogym {command} --env NAME --help` lists its arguments."
    if chosen is None:
        parser.add_argument("--env.name", type=str, required=required, help=told)
        return
    from ncogym.envs import PROBLEMS

    parser.add_argument("--env.name", type=Literal[tuple(PROBLEMS)], required=True, help=told)
    if chosen in PROBLEMS:
        for made in filter(None, (PROBLEMS[chosen].distribution_type, PROBLEMS[chosen])):
            helps = {each.arg_name: each.description for each in docstring_parser.parse(made.__doc__ or "").params}
            hints = get_type_hints(made.__init__)
            for parameter in inspect.signature(made).parameters.values():
                _add(parser, parameter, hints[parameter.name], helps.get(parameter.name), prefix="env.")


def _without_imports(argv: list[str]) -> tuple[list[str], list[str]]:
    """Import the modules of ``--import MODULE``, before anything is read that may name their classes.

    Returns:
        The other arguments, and the modules' names.
    """
    rest, modules, arguments = [], [], iter(argv)
    for argument in arguments:
        flag, equals, module = argument.partition("=")
        if flag != "--import":
            rest.append(argument)
        elif module := module if equals else next(arguments, ""):
            modules.append(module)
        else:
            raise ArgumentError("import: no module is given; it takes --import MODULE")
    _configs.import_modules(modules)
    return rest, modules


def _nameable(modules: list[str]) -> Iterator[type]:
    """Yield the classes that a value may name: the package's own in their tables, and those below them in modules."""
    from ncogym.algorithms import ALGORITHMS, Algorithm
    from ncogym.policies import POLICIES, Policy
    from ncogym.policies.base import subclasses

    yield from (*POLICIES.values(), *ALGORITHMS.values())
    for kind in (*subclasses(Policy), *subclasses(Algorithm)):
        if any(f"{kind.__module__}.".startswith(f"{module}.") for module in modules) and not inspect.isabstract(kind):
            yield kind


def _with_config_files(argv: list[str]) -> list[str]:
    """Replace the names of published configs, as in ``--config NAME``, by their files."""
    from ncogym._resources import configs_folder

    argv = [part for argument in argv for part in re.sub(r"^--config=", "--config\0", argument).split("\0")]
    for place in [n + 1 for n, argument in enumerate(argv[:-1]) if argument == "--config"]:
        named = configs_folder() / f"{argv[place]}.yaml"
        if not Path(argv[place]).exists() and named.is_file():
            argv[place] = str(named)
        told = _told(argv[place])
        if isinstance(told, dict) and "import" in told:
            raise ArgumentError("import: a config may not name modules; give --import MODULE on the command line")
        if isinstance(told, dict) and "config" in told:
            raise ArgumentError("config: a config may not name another; give both on the command line, in their order")
    return argv


def _told(config: str) -> Any:
    """Return what a config says, given by its file or as text; None where it cannot be read, which is told later."""
    import yaml

    try:
        return _configs.load(Path(config).read_text(encoding="utf-8") if os.path.isfile(config) else config)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _chosen_env(argv: list[str]) -> str | None:
    """Look ahead for the problem's name, on the command line or in a config; what is wrong there is told later."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--env.name", dest="name")
    look.add_argument("--config")
    try:
        found, _ = look.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    if found.name is None and found.config is not None:
        try:
            found.name = _told(found.config)["env"]["name"]
        except (KeyError, TypeError):
            return None
    return found.name if isinstance(found.name, str) else None


def _listed(value: Any) -> list[Any]:
    """Return the parts of an option of several values: a list in a config, text with commas on the command line."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def _numbers(name: str, value: Any, kind: type) -> list[Any]:
    """Return the numbers of an option of several, none where it is not given."""
    try:
        return [] if value is None else [kind(part) for part in _listed(value)]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ArgumentError(f"{name}: {value} is not allowed; it must be one or more {what}, with commas") from error


_NAMEABLE = "it must be a policy or an algorithm of ncogym's tables, or of a module that is named with --import MODULE"


def _in_one_line(text: str, command: str) -> str:
    """Say in one line what jsonargparse says in many."""
    see = rf"see ncogym {command} --help"
    text = " ".join(text.split())
    for pattern, words in (
        (r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - ", ""),
        (r" - Expected a <class 'NoneType'>", ""),
        (r" Given value type: .*? Given value: ", ". Got value: "),
        (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
        (r"typing\.Literal\[(.*?)\]", r"one of \1"),
        (r"Parser key \"(.+?)\": ", r"\1: "),
        (r"Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ", ""),
        (r"Problem with given class_path '\S+': ", ""),
        (r"Importing '(\S+)' is not allowed, denied by .*? to allow it\.", rf"\1 is not allowed; {_NAMEABLE}"),
        (r"(Got value: .*?)\. Got value: .*", r"\1"),
        (r"(is not accepted|is not allowed; .*)\. Got value: .*", r"\1"),
        (r"Expected a dot import path string: (\S+)\. Got value: .*", rf"\1 is not known; {see}"),
        (r"Import path (\S+) does not correspond to a subclass of (\w+)\. Got value: .*", rf"\1 is no \2; {see}"),
        (r"Not of type \w+: (.*) does not conform to restriction (.*)", r"Expected \2. Got value: \1"),
        (r"Not of type \w+: does not conform to restriction (.*?)\. Got", r"Expected \1. Got"),
        (r"Not of type \w+: invalid literal .*: (.*)", r"Expected int. Got value: \1"),
        (r"\bv(?=[<>]=?)", ""),
        (r"Expected (?:an? )?(.*?)\. Got value: (.*)", r"\2 is not allowed; it must be \1"),
        (r"(it must be .*) - Expected (?:an? )?", r"\1 or "),
        (r"must be int\b", "must be a whole number"),
        (r"must be float\b", "must be a number"),
        (r"^env\.name: ", "env: "),
        (r"are required: env\.name", "are required: --env NAME, or in a config `env: {name: NAME}`"),
        (r"(unrecognized arguments.*|are required.*|not accepted)$", rf"\1; {see}"),
    ):
        text = re.sub(pattern, words, text)
    return text


# ---------------------------------------------------------------------- what is printed, and signals


_SOLVE_COLUMNS = {  # key of a record, heading
    "instance": "instance",
    "solver": "solver",
    "policy": "policy",
    "objective": "objective",
    "best_known": "best known",
    "gap_percent": "gap %",
    "seconds": "seconds",
    "rollouts": "rollouts",
}


def _console() -> Console:
    """Return a console on standard output that breaks no line in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000)


def _print_json(record: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _print_table(records: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=any(columns.values()))
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for record in records:
        notes = {"objective": " (infeasible)"} if record.get("feasible") is False else {}
        table.add_row(*(Text(_cell(record[key]) + notes.get(key, "")) for key in columns))  # as it is, without markup
    _console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 1 else f"{value:.3g}"
    return str(value)


def _complain(error: BaseException, debug: bool) -> int:
    """Write an error as one line to stderr, with its traceback before it if asked for, and return its exit code."""
    if debug:
        traceback.print_exception(error)
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    sys.stderr.write(f"ncogym: {' '.join(text.split()) or 'interrupted'}\n")
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return UNSOLVED if isinstance(error, NoSolutionFound) else BAD


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Write our warnings to stderr as errors are, each once; leave those of others as they are."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, NcogymWarning):
                sys.stderr.write(f"ncogym: warning: {' '.join(str(message).split())}\n")
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        warnings.simplefilter("default", NcogymWarning)
        yield


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """Show on a terminal that work is going on; print nothing on stdout meanwhile, for rich redirects it."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(what)):
            yield
    else:
        yield


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """Give a function that moves a bar on a terminal, or None."""
    from ncogym.distributed import is_main

    if not (sys.stderr.isatty() and is_main()):
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda name, done, total: progress.update(task, description=escape(name), completed=done, total=total)


@contextmanager
def _cancelled_by_signals() -> Iterator[threading.Event]:
    """Give an event that the first SIGINT or SIGTERM sets; the second raises KeyboardInterrupt."""
    cancel = threading.Event()

    def note(*_: Any) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _use_threads(count: int) -> None:
    """Bound torch's threads; on a busy machine two threads that wait for each other take many times one's time."""
    import torch

    torch.set_num_threads(count)


# ---------------------------------------------------------------------- what `list` lists


def _first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _list_envs() -> Iterator[tuple[str, str]]:
    from ncogym.envs import PROBLEMS

    for name, kind in PROBLEMS.items():
        yield name, f"{_first_sentence(kind)} Files: {' '.join(kind.suffixes) or 'none'}"


def _list_sets() -> Iterator[tuple[str, str]]:
    from ncogym.sets import published

    for name, entry in published().items():
        yield name, f"{entry.count} instances: {entry.source}"


def _list_policies() -> Iterator[tuple[str, str]]:
    from ncogym.policies import POLICIES

    for name, kind in POLICIES.items():
        yield name, _first_sentence(kind)


def _list_solvers() -> Iterator[tuple[str, str]]:
    from ncogym.auto import AUTO
    from ncogym.baselines import SOLVERS
    from ncogym.search import SEARCHES

    yield AUTO, "The best search with a policy for the size and the budget."
    for name, kind in (SEARCHES | SOLVERS).items():
        yield name, _first_sentence(getattr(kind, "func", kind))  # a partial is told by what it completes


def _list_pretrained() -> Iterator[tuple[str, str]]:
    from ncogym.pretrained import available, load_card

    for name in available():
        _, card = load_card(name)
        low, high = card["sizes"]
        gaps = [f"{key} {value:.3f} %" for key, value in card.get("validation", {}).items() if key.startswith("gap_")]
        gaps += [f"gap {gap:.3f} % at {size}" for size, gap in card.get("measured", {}).get("gap_percent", {}).items()]
        policy, env = card["policy"], card["env"]["name"]
        facts = [f"{policy['class']}, {policy['parameters']:,} parameters, {env} of sizes {low} to {high}", *gaps]
        yield name, ", ".join(facts)


def _list_configs() -> Iterator[tuple[str, str]]:
    from ncogym._resources import configs_folder

    for path in sorted(configs_folder().rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        name = path.relative_to(configs_folder()).with_suffix("").as_posix()
        yield name, f"{path}  {first.lstrip('# ')}" if first.startswith("#") else str(path)


if __name__ == "__main__":
    sys.exit(main())
