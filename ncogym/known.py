"""What is known of instance files: values that an ``index.csv`` lists, and solutions that are published beside them.

An index is a table with the columns ``name`` or ``file``, ``best_known``, and maybe ``proven_optimal`` and ``problem``.
It lies in the folder of the files or in the one above, and the nearer one goes first. A row is of the file that its
``file`` names, from the index's folder on; without a ``file``, of the one instance file of that ``name``, with its
suffix or without. What a row says is never given to a file that it may not be of: a name that two files have, and two
values for one file, are refused.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tensordict import TensorDict
from torch import Tensor

from ncogym.envs import PROBLEMS
from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError, NcogymWarning
from ncogym.problem import Problem
from ncogym.records import record_beside, wrote

AS_GOOD = 1e-6  # relative: objectives with decimals are rounded in files, or summed in another order
INDEX = "index.csv"
COLUMNS = ("name", "file", "problem", "best_known", "proven_optimal")
UNKNOWN = ("", "-", "?", "n/a", "nan")  # a best known value that is none
PROVEN = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


class Known(NamedTuple):
    """What is known of an instance: its best objective, whether that is an optimum, who says so, and a solution."""

    value: float = math.nan
    proven: bool = False
    source: str | None = None
    actions: Tensor | None = None


def known_of(
    env: Problem,
    files: Sequence[Path],
    instances: Sequence[TensorDict],
    problems: Callable[[Path], Sequence[str]],
) -> list[Known]:
    """Return what is known of each of some instance files of one folder.

    Args:
        env: their problem.
        files: their paths.
        instances: their contents, each of batch size ``[1]``.
        problems: returns the names of the problems that a file may be of.

    Raises:
        InstanceError: an index is malformed, contradicts itself or the published solution, or does not tell which of
            several files a row is of.

    Warns:
        NcogymWarning: rows are of no file, or a published solution cannot be read.
    """
    listed = _listed(files, problems)
    return [
        agreed(env, path, instance, listed.get(path.name, Known()), published_solution(env, path, instance))
        for path, instance in zip(files, instances, strict=True)
    ]


def published_solution(env: Problem, path: Path, instance: TensorDict) -> Tensor | None:
    """Return the solution that is published beside an instance file, int64 ``[steps]``, or None.

    One that `solve` wrote there is not published.

    Warns:
        NcogymWarning: it cannot be read, breaks a constraint, or could as well be of another file beside it.
    """
    rivals = {
        path.with_suffix(suffix)
        for kind in PROBLEMS.values()
        if kind.published_suffix == env.published_suffix
        for suffix in kind.suffixes
    } - {path}
    try:
        if env.published_suffix and path.with_suffix(env.published_suffix).is_file():
            for rival in filter(Path.is_file, sorted(rivals)):
                raise InstanceError(f"it could be that of {rival.name}, too")
        if env.published_suffix and wrote(path.with_suffix(env.published_suffix), record_beside(path)):
            return None
        return env.published_solution(path, instance)
    except (InstanceError, OSError) as error:
        text = f"{path}: the solution beside it is left out, and no gap is taken to it ({error})"
        warnings.warn(text, NcogymWarning, stacklevel=2)
        return None


def agreed(
    env: Problem,
    where: str | Path,
    instance: TensorDict,
    listed: Known,
    actions: Tensor | None,
    together: bool = False,
) -> Known:
    """Join what is listed of an instance of batch size ``[1]`` and a published solution that the referee accepts.

    Args:
        env: the problem.
        where: named by errors.
        instance: batch size ``[1]``.
        listed: goes before the solution.
        actions: the solution, or None.
        together: whether both are of one source, which says that the solution is no worse than what is listed.

    Raises:
        InstanceError: the solution is better than an optimum, or worse than its own source says.
    """
    if actions is None:
        return listed
    objective = float(env.objective(instance, actions[None, None]))
    if math.isnan(listed.value):
        return Known(objective, False, "published solutions", actions)
    worse = (objective - listed.value) * (1 if env.sense == "min" else -1)
    close = 0.0 if listed.value.is_integer() and objective.is_integer() else AS_GOOD * abs(listed.value)
    if (listed.proven and worse < -close) or (together and worse > close):
        told = f"{'the optimum' if worse < 0 else 'its objective'} is {listed.value:.15g} by {listed.source}"
        raise InstanceError(f"{where}: the published solution has the objective {objective:.15g}, but {told}")
    return listed if abs(worse) > close else listed._replace(actions=actions)


# ---------------------------------------------------------------------- index.csv


class _Row(NamedTuple):
    """A row with a value: its number in the table, what it is of, and what it says."""

    number: int
    name: str
    file: str
    problem: str
    value: float
    proven: bool


def _listed(files: Sequence[Path], problems: Callable[[Path], Sequence[str]]) -> dict[str, Known]:
    """Return what the indexes say, by file name."""
    here = files[0].parent.resolve()
    found: dict[str, Known] = {}
    for index in dict.fromkeys((here.parent / INDEX, here / INDEX)):
        if index.is_file():
            found |= _told(index, here, {path.name for path in files}, problems)
    return found


def _told(index: Path, here: Path, asked: set[str], problems: Callable[[Path], Sequence[str]]) -> dict[str, Known]:
    """Return what an index says of files in the folder ``here``."""
    rows = _rows(index)
    by_name, by_path = _instance_files(index.parent, here)
    of_file: dict[str, list[_Row]] = defaultdict(list)
    nowhere = []
    for row in rows:
        places = _places(row, index, by_name, by_path, problems)
        of_here = [path for path in places if path.parent == here and path.name in asked]
        if of_here and len({path.resolve() for path in places}) > 1:
            which = " and ".join(str(path.relative_to(index.parent)) for path in places)
            cure = "a column 'file' with the path from here tells which"
            raise InstanceError(f"{index}, row {row.number}: {row.file or row.name!r} may be {which}; {cure}")
        for path in of_here:
            of_file[path.name].append(row)
        meant = index.parent / (row.file or row.name)
        if not places and (index.parent == here or not row.file or os.path.realpath(meant.parent) == str(here)):
            nowhere.append(row.file or row.name)
    if nowhere:
        names = ", ".join(nowhere[:3]) + ", ..." * (len(nowhere) > 3)
        told = f"{len(nowhere)} of its {len(rows)} values are of no instance file there: {names}"
        warnings.warn(f"{index}: {told}", NcogymWarning, stacklevel=2)
    for name, of_one in of_file.items():
        if len({row.value for row in of_one}) > 1:
            numbers = " and ".join(str(row.number) for row in of_one)
            values = " and ".join(f"{row.value:.15g}" for row in of_one)
            raise InstanceError(f"{index}, rows {numbers}: they contradict each other, {values} are of {name}")
    return {name: Known(rows[0].value, any(r.proven for r in rows), index.name) for name, rows in of_file.items()}


def _instance_files(home: Path, here: Path) -> tuple[Mapping[str, list[Path]], Mapping[Path, list[Path]]]:
    """Return the instance files that an index in ``home`` may be of, by name with and without suffix, and by path."""
    suffixes = {suffix for kind in PROBLEMS.values() for suffix in kind.suffixes}
    by_name: dict[str, list[Path]] = defaultdict(list)
    by_path: dict[Path, list[Path]] = defaultdict(list)
    for folder in [here] if home == here else [home, *(path for path in sorted(home.iterdir()) if path.is_dir())]:
        with suppress(PermissionError):
            for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes):
                by_path[path.resolve()].append(path)
                for name in {path.name, path.stem}:
                    by_name[name].append(path)
    return by_name, by_path


def _places(
    row: _Row,
    index: Path,
    by_name: Mapping[str, list[Path]],
    by_path: Mapping[Path, list[Path]],
    problems: Callable[[Path], Sequence[str]],
) -> list[Path]:
    """Return the files that a row may be of."""
    if row.file:
        path = Path(os.path.realpath(index.parent / row.file))
        if path in by_path:
            return by_path[path]
        with suppress(OSError):  # a name that is too long
            if path.exists():
                return [path]
        return [moved for moved in by_name.get(path.name, []) if moved.name == path.name]
    found = by_name.get(row.name, [])
    found = [path for path in found if path.name == row.name] or found
    return [path for path in found if row.problem in problems(path)] if row.problem in PROBLEMS else found


def _rows(index: Path) -> list[_Row]:
    """Read the rows of an index that say a value, in their order."""
    try:
        text = read_text(index)
        first = text.lstrip().split("\n", 1)[0]
        lines = csv.reader(
            io.StringIO(text.lstrip(), newline=""),
            delimiter=max(",;\t", key=first.count),
            skipinitialspace=True,
            strict=True,
        )
        table = [[cell.strip() for cell in line] for line in lines]
    except (InstanceError, csv.Error) as error:
        raise InstanceError(f"{index}: not a table with commas ({error})") from error
    header = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in table[0]] if table else []
    if "best_known" not in header or not {"name", "file"} & set(header):
        if table:
            told = f"its first row has no columns 'best_known' and 'name' or 'file' ({', '.join(table[0])[:80]})"
            warnings.warn(f"{index}: {told}, so nothing is known by it", NcogymWarning, stacklevel=2)
        return []
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise InstanceError(f"{index}: column {twice[0]} is there twice")
    rows = []
    for number, cells in enumerate(table[1:], 2):
        if any(cells[len(header) :]):
            raise InstanceError(f"{index}, row {number}: {len(cells)} cells, but the first row has {len(header)}")
        name, file, problem, told, proven = (dict(zip(header, cells, strict=False)).get(key, "") for key in COLUMNS)
        if told.lower() in UNKNOWN:
            continue
        try:
            value, is_proven = float(told), PROVEN[re.split(r"\W", proven.lower(), maxsplit=1)[0]]
            if not math.isfinite(value):
                raise ValueError
        except (ValueError, KeyError) as error:
            words = f"best_known {told!r} and proven_optimal {proven.lower()!r} are not a number and true or false"
            raise InstanceError(f"{index}, row {number}: {words}") from error
        rows.append(_Row(number, name, file.replace("\\", "/"), problem.lower(), value, is_proven))
    return rows
