"""The command ``ncogym generate``: instances, and labels of them."""

from __future__ import annotations

import errno
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncogym.errors import ArgumentError, NcogymWarning

if TYPE_CHECKING:
    pass

from ncogym.cli.common import DONE, EVALUATED_SEED, LABELLED_SEED, Count, Seed
from ncogym.cli.output import bar, cancelled_by_signals, make_console, use_threads


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
    with cancelled_by_signals() as cancel:
        from ncogym.budget import Budget
        from ncogym.distributed import is_main
        from ncogym.sets import write_labelled
        from ncogym.study import label

        use_threads(1)
        try:
            with bar() as progress:
                budget = Budget(**limits, cancel=cancel)
                found = label(env, instances, seed, labels, budget, workers=workers, progress=progress)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"interrupted; to go on: ncogym {shlex.join(argv)}") from interrupt
    if is_main():
        write_labelled(path, found, {"labels": labels, **limits, "seed": seed})
        mean, proven = float(found.best_known.mean()), sum(found.proven)
        words = f"{path} holds {instances} instances with labels by {labels}: "
        said = f"{words}mean objective {mean:.6g}, {proven} proven"
        make_console().print(said, soft_wrap=True, highlight=False, markup=False)
    return DONE


def _warn_of_published(env: Any, instances: int, seed: int) -> None:
    """Say so where instances that are to be labelled are those of a published set, on which nothing may be trained."""
    from ncogym.evaluation import seeded_instances
    from ncogym.sets import published_among

    for name, count in published_among(env, seeded_instances(env, instances, seed)).items():
        words = f"{count} of the {instances} instances of seed {seed} are in {name}; train will refuse these labels"
        warnings.warn(f"seed: {words}", NcogymWarning, stacklevel=2)
