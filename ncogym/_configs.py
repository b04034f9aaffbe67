"""What configs and command lines may say: plain data of bounded size, and classes that are known beforehand.

A config is read as a stranger's. Nothing in it is imported or called but the package's own policies and algorithms, and
those of modules that the user named on the command line (``--import``); docs/configs.md says so to users.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from ncogym.errors import ArgumentError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000  # of a whole config, each alias counted as often as it is used
MAX_DEPTH = 32
MODE = "bounded yaml"  # of parsers that read by `load`


class RefusedConfig(yaml.YAMLError):
    """A text that is YAML, but not of the kind that a config may be."""


@dataclass
class _Open:
    """A list or a mapping whose end has not been read yet.

    Attributes:
        anchor: its name for aliases, or None.
        before: values read before it.
        keys: those of a mapping; None of a list.
        at_key: whether the next value is a key.
        height: of the deepest list or mapping in it.
    """

    anchor: str | None
    before: int
    keys: set[str] | None
    at_key: bool
    height: int = 0


@dataclass
class _Reading:
    """Counts the values of a YAML text, and how deep they lie."""

    values: int = 0
    open: list[_Open] = field(default_factory=list)
    known: dict[str, tuple[int, int]] = field(default_factory=dict)  # values and height of what an alias stands for

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the text."""
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.ScalarEvent):
            self._count(event, 1, 0, event.value)
            if anchor:
                self.known[anchor] = (1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in self.known:
                raise RefusedConfig(
                    f"alias *{anchor} is not allowed; nothing whole has that name before it{_at(event)}"
                )
            self._count(event, *self.known[anchor])
        elif isinstance(event, yaml.CollectionStartEvent):
            self._count(event, 1, 1)
            mapping = isinstance(event, yaml.MappingStartEvent)
            self.open.append(_Open(anchor, self.values, set() if mapping else None, mapping))
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = self.open.pop()
            if self.open:
                self.open[-1].height = max(self.open[-1].height, ended.height + 1)
            if ended.anchor:
                self.known[ended.anchor] = (self.values - ended.before + 1, ended.height + 1)

    def _count(self, event: yaml.Event, values: int, height: int, key: str | None = None) -> None:
        self.values += values
        if self.values > MAX_VALUES or len(self.open) + height > MAX_DEPTH:
            limits = f"{MAX_VALUES} values, {MAX_DEPTH} within one another"
            raise RefusedConfig(f"it is too large; allowed are {limits}{_at(event)}")
        if not self.open:
            return
        around = self.open[-1]
        around.height = max(around.height, height)
        if around.keys is None:
            return
        if around.at_key and key is not None:
            if key in around.keys:
                raise RefusedConfig(f"{key} is given twice{_at(event)}")
            around.keys.add(key)
        around.at_key = not around.at_key


def _at(event: yaml.Event) -> str:
    return f" (line {event.start_mark.line + 1})"


def load(text: str) -> Any:
    """Read YAML, or JSON, as `jsonargparse` does, within bounds.

    Raises:
        yaml.YAMLError: it is malformed, has a key twice, refers to itself or is too large or too deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise RefusedConfig(f"it is too large: {len(text)} characters; allowed are {MAX_CHARACTERS}")
    reading = _Reading()
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        reading.take(event)
    try:
        return get_loader("yaml")(text)
    except ValueError as error:  # a number of thousands of digits
        raise RefusedConfig(str(error)) from error


def import_modules(names: Iterable[str]) -> None:
    """Import modules that the user named, also from the current folder, so that their classes are known by name.

    Raises:
        ArgumentError: one cannot be imported.
    """
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no file there stands in for a package's
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the module's own code raises
            raise ArgumentError(f"import: {name!r} cannot be imported ({type(error).__name__}: {error})") from error


def allow(kinds: Iterable[type]) -> None:
    """Let the values that this process parses name these classes, by the paths of their modules, and nothing else.

    A path is compared before anything is imported. What was allowed before in this process stays so.
    """
    paths = []
    for kind in kinds:
        parts = kind.__module__.split(".")
        paths += [".".join([*parts[:end], kind.__qualname__]) for end in range(1, len(parts) + 1)]
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[path for path in paths if "<locals>" not in path],
        instantiate_subclass_spec_in_any=False,
    )


set_loader(MODE, load, exceptions=(yaml.YAMLError,))
