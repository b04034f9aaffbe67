"""What commands print, and how they hear that they are to stop."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ncogym.errors import NcogymWarning, NoSolutionFound

if TYPE_CHECKING:
    from rich.console import Console

from ncogym.cli.common import BAD, INTERRUPTED, UNSOLVED

SOLVE_COLUMNS = {  # key of a record, heading
    "instance": "instance",
    "solver": "solver",
    "policy": "policy",
    "objective": "objective",
    "best_known": "best known",
    "gap_percent": "gap %",
    "seconds": "seconds",
    "rollouts": "rollouts",
}


def make_console() -> Console:
    """Return a console on standard output that breaks no line in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000)


def print_json(record: Mapping[str, Any]) -> None:
    """Print a record as one line of JSON."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def print_table(records: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print records as a table of columns: their keys and headings."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=any(columns.values()))
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for record in records:
        notes = {"objective": " (infeasible)"} if record.get("feasible") is False else {}
        table.add_row(*(Text(_cell(record[key]) + notes.get(key, "")) for key in columns))  # as it is, without markup
    make_console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 1 else f"{value:.3g}"
    return str(value)


def complain(error: BaseException, debug: bool) -> int:
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
def warnings_in_one_line() -> Iterator[None]:
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
def busy(what: str) -> Iterator[None]:
    """Show on a terminal that work is going on; print nothing on stdout meanwhile, for rich redirects it."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(what)):
            yield
    else:
        yield


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None] | None]:
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
def cancelled_by_signals() -> Iterator[threading.Event]:
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


def use_threads(count: int) -> None:
    """Bound torch's threads; on a busy machine two threads that wait for each other take many times one's time."""
    import torch

    torch.set_num_threads(count)
