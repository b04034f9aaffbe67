"""A run in a process of its own, for solvers that cannot be told to stop: they are ended, and what they found stands.

A thread could only be left alone, where it goes on taking the processor's time from the next instance, and keeps this
process from ending. The process is forked, which takes milliseconds where a new one would take seconds to import.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ncogym.budget import OVERRUN
from ncogym.errors import NcogymError, NcogymWarning, SolverError
from ncogym.workers import interrupts_held

if TYPE_CHECKING:
    from ncogym.baselines.base import Run

POSSIBLE = hasattr(os, "fork")
WATCH_SECONDS = 0.05  # between two looks at whether a run was cancelled
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends


def aside(job: Callable[[Any, Run], None], problem: Any, run: Run) -> None:
    """Do a job in another process.

    It is ended when the run is cancelled, and at the run's limit, once anything was reported. If it was cancelled
    before, the job is done here: it sees that at its beginning and reports what takes no time, if there is any.

    Raises:
        SolverError: the process died before it reported anything, or the job raised an error that is none of the
            package's.

    Warns:
        NcogymWarning: it died after it had reported something.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    with interrupts_held(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads run: it takes none of their locks
        begin = time.perf_counter()
        child = os.fork()
        run.skip(time.perf_counter() - begin)  # in both processes: the solver is not to pay for it
        if child == 0:
            _work(job, problem, run, writer)
    writer.close()
    try:
        ended = False
        while not (ended or run.cancelled or (run.reports and run.elapsed > OVERRUN * run.limit + WATCH_SECONDS)):
            ended = reader.poll(WATCH_SECONDS) and _heard(reader, run)
        while not ended and reader.poll():
            ended = _heard(reader, run)
    finally:
        begin = time.perf_counter()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reader.close()
        run.skip(time.perf_counter() - begin)
    if run.cancelled and not run.reports:
        job(problem, run)


def _heard(reader: Connection, run: Run) -> bool:
    """Take note of one message; return whether it is the last."""
    try:
        told = reader.recv()
    except EOFError as error:
        if run.reports:
            line = "the solver's process died; what it had found before is the answer"
            warnings.warn(line, NcogymWarning, stacklevel=2)
            return True
        raise SolverError("the solver's process died") from error
    if isinstance(told, Exception):
        raise told
    if isinstance(told, bool):
        run.proven = told
        return True
    run.reports.append(told)
    # each process took off what the fork took by its own clock, this one more where it was kept waiting
    run.skip(min(run.elapsed - told[0], 0.0))
    return False


def _work(job: Callable[[Any, Run], None], problem: Any, run: Run, writer: Connection) -> None:
    """Do the job in the new process, which it ends."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()  # what the parent holds, on a GPU perhaps, is not ours to free
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it is ended when it is cancelled, at any moment, and may not hold the lock of the workers' event at that one
        run = type(run)(run.limit, lambda: False, run.elapsed, run.start)
        run.tell = writer.send
        try:
            job(problem, run)
            writer.send(run.proven)
        except Exception as error:  # noqa: BLE001 - it is raised again by the parent
            writer.send(passed_on(error))
    finally:
        os._exit(0)


def passed_on(error: Exception) -> Exception:
    """Return an error as another process may raise it, with the lines where it came from."""
    outcome = error if isinstance(error, NcogymError) else SolverError(f"{type(error).__name__}: {error}")
    outcome.add_note(traceback.format_exc())
    return outcome
