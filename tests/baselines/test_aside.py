from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ncogym.baselines import aside as module
from ncogym.baselines.aside import aside
from ncogym.baselines.base import Run
from ncogym.errors import ArgumentError, NcogymWarning, SolverError

pytestmark = pytest.mark.skipif(not module.POSSIBLE, reason="processes cannot be forked here")


def is_there(process: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def report_and_hang(problem, run):
    """Report the process, and hear nothing from then on."""
    run.report([os.getpid()])
    time.sleep(3600)


def test_what_is_reported_and_proven_comes_back():
    """Reports come with the seconds of one clock, from another process, and so does the proof."""

    def job(problem, run):
        run.report([problem])
        run.report([os.getpid()])
        run.prove()

    run = Run(math.inf, lambda: False)
    begin = run.elapsed
    aside(job, 7, run)
    (first, seven), (second, (process,)) = run.reports
    assert begin <= first <= second <= run.elapsed
    assert (seven, run.proven) == ([7], True)
    assert process != os.getpid()
    assert not is_there(process)


def test_a_cancelled_job_is_ended_with_what_it_has():
    """A job that hears nothing is over once the run is cancelled, and so is its process; what it reported stands."""
    run = Run(3000.0, lambda: bool(run.reports))
    aside(report_and_hang, None, run)
    ((_, (process,)),) = run.reports
    assert run.elapsed < 1500
    assert not run.proven
    assert not is_there(process)


def test_a_job_is_ended_at_its_limit():
    """A job that goes on beyond its limit is over, with what it reported."""
    run = Run(0.01, lambda: False)
    aside(report_and_hang, None, run)
    assert len(run.reports) == 1
    assert run.elapsed < 1500


def test_a_first_report_is_waited_for():
    """Where nothing was reported by the limit the job goes on until something is: the books say that it was late."""

    def job(problem, run):
        while run.elapsed < 0.3:
            time.sleep(0.01)
        run.report([1])
        time.sleep(3600)

    run = Run(0.01, lambda: False)
    aside(job, None, run)
    assert [actions for _, actions in run.reports] == [[1]]


def test_what_is_cancelled_before_a_report_is_done_here():
    """A job that was cancelled too early for any answer may give one that takes no time."""

    def job(problem, run):
        if run.cancelled:
            run.report([os.getpid()])
        else:
            time.sleep(3600)

    looks = iter([False, False, False])  # of the process that is to do it, and of this one
    run = Run(3000.0, lambda: next(looks, True))
    aside(job, None, run)
    assert [actions for _, actions in run.reports] == [[os.getpid()]]


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (ArgumentError("nodes: too many"), ArgumentError, "^nodes: too many"),
        (ValueError("odd"), SolverError, "^ValueError: odd"),
    ],
)
def test_errors_come_back(error, raised, words):
    """An error of the package is raised as it is, others as a solver's, with the lines where they came from."""

    def job(problem, run):
        raise error

    with pytest.raises(raised, match=words) as caught:
        aside(job, None, Run(math.inf, lambda: False))
    assert "in job" in caught.value.__notes__[0]


def test_a_process_that_dies_is_told():
    """A solver that ends its process is an error in words."""

    def job(problem, run):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(SolverError, match="the solver's process died"):
        aside(job, None, Run(math.inf, lambda: False))


def test_what_a_process_found_before_it_died_stands():
    """A solver whose process ends for want of memory, say, has an answer if it had found one, and that is told."""

    def job(problem, run):
        run.report([7])
        os.kill(os.getpid(), signal.SIGKILL)

    run = Run(math.inf, lambda: False)
    with pytest.warns(NcogymWarning, match="the solver's process died; what it had found before is the answer"):
        aside(job, None, run)
    assert [actions for _, actions in run.reports] == [[7]]
    assert not run.proven


def test_a_job_aside_takes_no_lock_to_look_whether_it_is_cancelled():
    """Its process may be ended at any moment, and workers share one event, whose lock it would never give back."""

    def job(problem, run):
        run.report([run.cancelled])

    here = os.getpid()
    run = Run(math.inf, lambda: os.getpid() != here)
    aside(job, None, run)
    assert [actions for _, actions in run.reports] == [[False]]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux ends a process with its parent")
def test_nothing_is_left_of_a_killed_parent(tmp_path):
    """A process that is killed takes the solver's process with it."""

    def job(problem, run):
        (tmp_path / "partial").write_text(str(os.getpid()))
        (tmp_path / "partial").rename(tmp_path / "process")
        time.sleep(3600)

    parent = os.fork()
    if parent == 0:
        aside(job, None, Run(math.inf, lambda: False))
        os._exit(0)
    while not (tmp_path / "process").exists():
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    process = int((tmp_path / "process").read_text())
    with suppress(FileNotFoundError, ProcessLookupError):  # it is gone
        while Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.01)


def test_the_solver_does_not_pay_for_the_process(monkeypatch):
    """What it takes to make a process and to end it is no time of the run."""
    now, fork, wait = [100.0], os.fork, os.waitpid

    def slow(seconds, call, *given):
        now[0] += seconds
        return call(*given)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(module.os, "fork", lambda: slow(5.0, fork))
    monkeypatch.setattr(module.os, "waitpid", lambda *given: slow(7.0, wait, *given))
    run = Run(math.inf, lambda: False)
    aside(lambda problem, run: run.report([1]), None, run)
    assert (run.reports, run.elapsed) == ([(0.0, [1])], 0.0)
    assert now == [112.0]
