"""One case under measurement: what it raised, the CPU seconds that it took, and the memory."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ncogym.errors import NcogymError

MAX_SECONDS = 2.0  # of CPU
MAX_MB = 1000.0
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
NO_MEMORY = ("can't allocate memory", "not enough memory", "Unable to allocate")


class TooSlow(BaseException):
    """Twice the seconds are over; no `except Exception` on the way catches it."""


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        kind: "valid"; the name of the documented error that refused it; or "FAILED".
        words: of the refusal, or what went wrong and where.
        seconds: of CPU.
        mb: by which the process grew while it ran, at most.
    """

    kind: str
    words: str
    seconds: float
    mb: float


def measured(case: Callable[[], Any]) -> Outcome:
    """Run a case."""
    _forget_peak()
    before, begin, kind, words = _status("VmRSS"), time.process_time(), "valid", ""
    try:
        with _bounded(2 * MAX_SECONDS):
            case()
    except NcogymError as error:
        kind, words = type(error).__name__, str(error)
        if "\n" in words:
            kind, words = "FAILED", f"a refusal of several lines: {words!r}"
        elif any(isinstance(each, MemoryError) or any(w in str(each) for w in NO_MEMORY) for each in _causes(error)):
            kind, words = "FAILED", f"it asked for more memory than there is: {words}"
    except TooSlow:
        kind, words = "FAILED", f"over {2 * MAX_SECONDS} CPU seconds: {_where(traceback.format_exc())}"
    except Exception as error:  # noqa: BLE001 - all that is not documented is what is looked for
        kind, words = "FAILED", f"{type(error).__name__}: {str(error)[:200]} {_where(traceback.format_exc())}"
    seconds, mb = time.process_time() - begin, max(_status("VmHWM") - before, 0.0)
    if kind != "FAILED" and (seconds > MAX_SECONDS or mb > MAX_MB):
        kind, words = "FAILED", f"{seconds:.1f} CPU seconds, {mb:.0f} MB ({kind}: {words[:200]})"
    return Outcome(kind, words, seconds, mb)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _where(told: str) -> str:
    """Return the last line of the package in a traceback."""
    lines = [line.strip() for line in told.splitlines() if 'File "' in line and "/ncogym/" in line]
    return lines[-1] if lines else ""


def _forget_peak() -> None:
    if CLEAR.exists():  # Linux; elsewhere memory reads as 0
        CLEAR.write_text("5")


def _status(name: str) -> float:
    """Return a size of this process in MB."""
    if not STATUS.exists():
        return 0.0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` after so many CPU seconds."""

    def end(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory(mb: float) -> None:
    """Let this process grow by so much and no more."""
    most = int((_status("VmSize") + mb) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def limit_seconds(seconds: float) -> None:
    """Have this process killed once it has taken so many more CPU seconds, should no signal reach it before."""
    most = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
