"""The command line, ``ncogym COMMAND``: one typed function a command, and no logic of its own.

Exit codes: 0 done, 2 bad input or arguments, 3 no feasible solution within the budget, 130 interrupted. An error is one
line on stderr; ``--debug`` adds the traceback. Commands import what they need when they run, so that help is quick.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ncogym._light import import_tensordict
from ncogym.errors import ArgumentError, NcogymError

if TYPE_CHECKING:
    pass

from ncogym.cli.arguments import CONFIGURED, build_parser, in_one_line, refuse_null, with_config_files, without_imports
from ncogym.cli.commands import bench, evaluate, render, solve, train
from ncogym.cli.common import DONE
from ncogym.cli.generating import generate
from ncogym.cli.listing import list_
from ncogym.cli.output import complain, warnings_in_one_line


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
        return complain(OSError(error.errno, error.strerror, "standard output"), debug)
    return code


def _ended(argv: list[str], debug: bool) -> int:
    """Run one command, whatever it ends by, and return its exit code."""
    try:
        with warnings_in_one_line():
            return _run(argv)
    except BrokenPipeError:
        raise
    except (NcogymError, OSError, KeyboardInterrupt) as error:
        return complain(error, debug)
    except SystemExit as end:  # after --help and --version
        return int(end.code or 0)


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
    rest, modules = without_imports(rest)
    if command in CONFIGURED:
        rest = with_config_files(rest)
    try:
        parser = build_parser(name, command, rest, modules)
        parsed = parser.parse_args(rest)
        values = vars(parser.instantiate(parsed))
        refuse_null(command, values)
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise ArgumentError(in_one_line(str(error), name)) from error
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
