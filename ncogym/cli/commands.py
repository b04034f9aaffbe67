"""The commands: one typed function each, which imports what it needs when it runs."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ncogym.errors import ArgumentError, CheckpointError, NcogymError

if TYPE_CHECKING:
    pass

from ncogym.cli.common import (
    BAD,
    DONE,
    EVALUATED_SEED,
    INTERRUPTED,
    UNSOLVED,
    Count,
    Format,
    Seed,
    Threads,
    listed,
    numbers,
)
from ncogym.cli.output import (
    SOLVE_COLUMNS,
    bar,
    busy,
    cancelled_by_signals,
    complain,
    make_console,
    print_json,
    print_table,
    use_threads,
)


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
    with cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.solving import check_output
        from ncogym.solving import solve as solve_file

        for file in files if output is not None else ():
            check_output(file, str(output), problem)
        use_threads(threads)
        try:
            for file in files:
                try:
                    with busy(f"solving {file}"):
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
                        print_json(records[-1])
                    if output is not None:
                        try:
                            solved.write(output)
                        except OSError as error:  # a full disk, say
                            codes.add(complain(error, debug))
                    codes.add(DONE if solved.solution.feasible else UNSOLVED)
                except (ArgumentError, CheckpointError):  # no fault of this file
                    raise
                except NcogymError as error:
                    codes.add(complain(error, debug))
                if cancel.is_set():
                    codes.add(complain(KeyboardInterrupt(), debug))
                    break
        finally:  # what was found is told, whatever goes wrong later
            if format == "table" and records:
                print_table(records, SOLVE_COLUMNS)
    return next(code for code in (INTERRUPTED, BAD, UNSOLVED, DONE) if code in codes)


def train(*, env: Any, resolved: Mapping[str, Any], argv: list[str], **settings: Any) -> int:
    """Train a policy.

    Published runs are in configs/ (`ncogym list configs`); options after --config replace what it says.
    """
    from ncogym.distributed import is_main
    from ncogym.learning import train as run

    folder = Path(settings["output"])
    try:
        run(env, config=dict(resolved), bar=bar, **settings)
    except KeyboardInterrupt as interrupt:
        if not is_main():
            return DONE  # the main process tells
        again = argv if settings["resume"] or not (folder / "last.ckpt").exists() else [*argv, "--resume", "true"]
        line = f"{interrupt or 'interrupted'}; to go on: ncogym train {shlex.join(again)}"
        raise KeyboardInterrupt(line) from interrupt
    if is_main():
        make_console().print(f"{folder / 'policy'} holds the trained policy", soft_wrap=True, markup=False)
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
    limits = {"seconds": numbers("seconds", seconds, float), "rollouts": numbers("rollouts", rollouts, int)}
    if all(limits.values()):
        raise ArgumentError(f"rollouts: {rollouts} is not allowed beside seconds; one budget must hold for all")
    unfinished = None if output is None else Path(output, "unfinished")
    if unfinished is not None:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
    with cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.distributed import is_main
        from ncogym.report import check_folder, rich_table, write_report
        from ncogym.study import study

        if unfinished is not None and not unfinished.exists():
            check_folder(unfinished.parent)
        use_threads(threads)
        with bar() as progress:
            found = study(
                env,
                listed(instances),
                listed(solvers),
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
                print_json(vars(summary))
        else:
            make_console().print(rich_table(evaluation, make_console().width))
    if interrupted:
        again = f"; to go on: ncogym {shlex.join(argv)}" if output is not None else ""
        raise KeyboardInterrupt(f"interrupted{again}")
    return DONE if any(summary.feasible for each in found for summary in each.summaries()) else UNSOLVED


def render(solution: str, /, *, output: str) -> int:
    """Draw a solution that `solve --output` wrote, once it is checked again.

    Args:
        solution: NAME.json; the instance file that it names is looked for here, beside it, and where it was solved.
        output: Picture; its suffix is the format: .png, .svg, .pdf ...
    """
    from ncogym.solving import render as draw

    draw(solution, output)
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

    with busy("measuring"):
        measured = measure(what, env, batch=batch, rollouts=rollouts, device=device, acting=acting, precision=precision)
    if format == "json":
        print_json(measured)
    else:
        print_table([{"fact": key, "value": value} for key, value in measured.items()], {"fact": "", "value": ""})
    return DONE
