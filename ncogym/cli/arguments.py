"""From the arguments of a command to its call: parsers, config files, parts from outside, words for what is wrong."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from ncogym import _configs
from ncogym.errors import ArgumentError, NcogymWarning

if TYPE_CHECKING:
    pass

from ncogym.cli.commands import evaluate, train

CONFIGURED = (train, evaluate)  # which take their options from a file, too


def refuse_null(command: Callable[..., int], values: Mapping[str, Any]) -> None:
    """Refuse null where a setting needs a value: the parser lets it through."""
    from_run: dict[str, Any] = {}
    if command is train:
        from ncogym.training.run import train as run

        from_run = get_type_hints(run)
    for name, hint in {**get_type_hints(command), **from_run}.items():
        optional = hint is Any or type(None) in get_args(hint)
        if name in values and values[name] is None and not optional:
            raise ArgumentError(f"{name}: null is not allowed; it must have a value")


def build_parser(name: str, command: Callable[..., int], argv: list[str], modules: list[str]) -> ArgumentParser:
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


def without_imports(argv: list[str]) -> tuple[list[str], list[str]]:
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


def with_config_files(argv: list[str]) -> list[str]:
    """Replace the names of published configs, as in ``--config NAME``, by their files."""
    from ncogym._resources import find_config

    argv = [part for argument in argv for part in re.sub(r"^--config=", "--config\0", argument).split("\0")]
    for place in [n + 1 for n, argument in enumerate(argv[:-1]) if argument == "--config"]:
        given = argv[place]
        if not Path(given).exists() and (named := find_config(given)) is not None:
            argv[place] = str(named)
            if given.endswith(".yaml"):  # where it lay before
                warnings.warn(f"config: {given} lies at {named} now", NcogymWarning, stacklevel=2)
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


_NAMEABLE = "it must be a policy or an algorithm of ncogym's tables, or of a module that is named with --import MODULE"


def in_one_line(text: str, command: str) -> str:
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
