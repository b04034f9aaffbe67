"""Job shop instances: the standard format and Taillard's, read and written exactly; and Taillard's own generator.

Standard: a line ``jobs machines``, then for each job, in processing order, pairs ``machine duration``; machines count
from 0. A job on a line of its own may leave machines out. A solution may follow, which is not used: a line with its
makespan, then for each machine a line of its operations, numbered from 0 in the file's order (Corsini et al. 2024).

Taillard: a line that begins with ``jobs machines`` (his own files go on with seeds and bounds), then a matrix of
durations and one of machines, each with a row a job, in processing order; machines count from 1. Words stand over his
matrices (``Times``, ``Machines``), or the layout is told from the numbers; what both could mean is refused.

The reader is tolerant in form (numbers wrapped in any way where no job leaves a machine out, CRLF, a byte order mark,
comments: lines with ``#`` or of ``+``, a name on the first line, and in files of the OR-Library's form the text
round ``instance NAME``) and strict in content: each job visits each machine once, or at most once. What it cannot
honour is an `InstanceError` of one line.

References:
    E. Taillard, Benchmarks for basic scheduling problems, European Journal of Operational Research 64, 1993.
    A. Corsini et al., Self-Labeling the Job Shop Scheduling Problem, NeurIPS 2024.
"""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError

MAX_DURATION = 10**9  # of one operation; with at most MAX_OPERATIONS every makespan is exact in float64
MAX_OPERATIONS = 10**6

Matrices = tuple[NDArray[np.int64], NDArray[np.int64]]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def read_jobshop(path: str | os.PathLike[str]) -> Matrices:
    """Read a job shop instance in the standard format or Taillard's.

    Returns:
        Durations and machines, int64 ``[jobs, machines]``, in processing order; machines from 0. Behind a job that
        leaves machines out stand durations 0 and machines -1.

    Raises:
        InstanceError: the file is missing, malformed or can be read in two ways; the text is one line.
    """
    try:
        return _parsed(read_text(path))
    except InstanceError as error:
        shown = os.fspath(path)
        raise InstanceError(f"{shown if shown.isprintable() else ascii(shown)}: {error}") from error


def write_jobshop(path: str | os.PathLike[str], duration: NDArray[np.int64], machine: NDArray[np.int64]) -> None:
    """Write durations and machines ``[jobs, machines]``, as `read_jobshop` returns them, in the standard format.

    Raises:
        InstanceError: `read_jobshop` would refuse the file; nothing is written.
        OSError: the file cannot be written.
    """
    fault = _size_fault(*duration.shape) or matrices_fault(duration, machine)
    lengths = (machine >= 0).sum(1)
    if not fault and not (lengths > 0).all():
        fault = f"job {lengths.argmin()} has no operation, which the format has no line for"
    if not fault and lengths.max() < min(2, duration.shape[1]):
        fault = "every job has one operation, which the format cannot tell from other pairs"
    if fault:
        raise InstanceError(f"{os.fspath(path)}: {fault}")
    pairs = np.stack([machine, duration], axis=-1).reshape(len(duration), -1).tolist()
    rows = (" ".join(map(str, row[: 2 * length])) for row, length in zip(pairs, lengths.tolist(), strict=True))
    lines = [f"{duration.shape[0]} {duration.shape[1]}", *rows]
    Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")


def taillard_matrices(num_jobs: int, num_machines: int, time_seed: int, machine_seed: int) -> Matrices:
    """Generate the instance that Taillard's seeds stand for, with his generator (see `TAILLARD_SEEDS`).

    Durations are drawn from 1..99 job by job; the machines of each job begin in order, and each place is swapped with
    one drawn from itself to the last. Both come from the Lehmer generator ``16807 * seed mod (2**31 - 1)``.

    Returns:
        Durations and machines, int64 ``[jobs, machines]``, in processing order; machines from 0.
    """

    def draw(seed: int, low: int, high: int) -> tuple[int, int]:
        seed = 16807 * seed % (2**31 - 1)  # what Schrage's method computes within 32 bits
        return seed, low + int(seed / (2**31 - 1) * (high - low + 1))

    duration = np.empty((num_jobs, num_machines), dtype=np.int64)
    machine = np.tile(np.arange(num_machines), (num_jobs, 1))
    for job in range(num_jobs):
        for place in range(num_machines):
            time_seed, duration[job, place] = draw(time_seed, 1, 99)
            machine_seed, other = draw(machine_seed, place, num_machines - 1)
            machine[job, [place, other]] = machine[job, [other, place]]
    return duration, machine


def _parsed(text: str) -> Matrices:
    """Read the file's text; errors do not name the file yet."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#") and line.strip("+ ")]
    header, rest = _header(lines)
    jobs, machines = header[:2]
    if fault := _size_fault(jobs, machines):
        raise InstanceError(fault)
    rows: list[list[int]] = []
    titles: list[tuple[str, int]] = []  # Taillard's words and how many numbers come before each
    for number, line in rest:
        if line.lower().rstrip(":") in ("times", "machines"):
            titles.append((line.lower().rstrip(":"), sum(map(len, rows))))
        else:
            rows.append([_whole(token, number) for token in line.split()])
    size = jobs * machines
    numbers = np.array([value for row in rows for value in row], dtype=np.int64)
    by_line = None if titles or len(header) > 2 else _by_line(rows, jobs, machines)
    if len(numbers) != 2 * size:
        if isinstance(by_line, tuple):
            return by_line
        needed = f"{jobs} jobs on {machines} machines need {2 * size}"
        raise InstanceError(by_line or f"{len(numbers)} numbers follow the line 'jobs machines'; {needed}")
    standard = (numbers[1::2].reshape(jobs, machines), numbers[0::2].reshape(jobs, machines))
    taillard = (numbers[:size].reshape(jobs, machines), numbers[size:].reshape(jobs, machines) - 1)
    if titles and titles != [("times", 0), ("machines", size)]:
        raise InstanceError("'Times' must stand over the durations and 'Machines' over the machines, once each")
    if titles or len(header) > 2:
        return _checked(taillard, base=1)
    lengths = [len(row) for row in rows]
    if lengths == [2 * machines] * jobs:  # a line of pairs for each job
        return _checked(standard)
    readings = [each for each, base in ((standard, 0), (taillard, 1)) if not matrices_fault(*each, base)]
    readings += [by_line] if isinstance(by_line, tuple) else []
    if len(readings) > 1:
        ways = "in two ways, as pairs 'machine duration' and as Taillard's two matrices"
        advice = "each job's pairs on one line, or 'Times' and 'Machines' over the matrices"
        raise InstanceError(f"the numbers can be read {ways}; allowed is one of {advice}")
    if readings:
        return readings[0]
    return _checked(taillard, base=1) if lengths == [machines] * (2 * jobs) else _checked(standard)


def _by_line(rows: list[list[int]], jobs: int, machines: int) -> Matrices | str | None:
    """Read pairs 'machine duration', a job a line, and perhaps a solution.

    Returns:
        The matrices; what is wrong with their numbers; or None where the lines are not such.
    """
    pairs, solution = rows[:jobs], rows[jobs:]
    if len(pairs) < jobs or any(len(row) % 2 or not 0 < len(row) <= 2 * machines for row in pairs):
        return None
    if max(map(len, pairs)) < min(4, 2 * machines):  # points, edges, items ... are pairs, too
        return None
    duration, machine = np.zeros((jobs, machines), dtype=np.int64), np.full((jobs, machines), -1)
    for job, row in enumerate(pairs):
        machine[job, : len(row) // 2], duration[job, : len(row) // 2] = row[0::2], row[1::2]
        if min(row[0::2]) < 0:
            return f"job {job} has the machine {min(row[0::2])}; machines are 0 to {machines - 1}"
    if fault := matrices_fault(duration, machine):
        return fault
    used, load = machine[machine >= 0], duration[machine >= 0]
    least = int(max(duration.sum(1).max(), np.bincount(used, load).max()))
    orders = [np.flatnonzero(used == each).tolist() for each in range(machines)]
    if not solution or (
        len(solution[0]) == 1
        and solution[0][0] >= least
        and (not solution[1:] or [sorted(row) for row in solution[1:]] == orders)
    ):
        return duration, machine
    allowed = f"a makespan of at least {least}, and below it a line of its operations for each machine"
    return f"what stands below the jobs is no solution; allowed is {allowed}"


def _header(lines: list[tuple[int, str]]) -> tuple[list[int], list[tuple[int, str]]]:
    """Return the numbers of the line 'jobs machines' and the lines below it, past the text that files have above it."""
    named = False
    for place, (number, line) in enumerate(lines):
        tokens = line.split()
        if all(_NUMBER.fullmatch(token) for token in tokens):
            if len(tokens) not in (2, 6):
                raise InstanceError(f"line {number}: 'jobs machines' must be two numbers, got {len(tokens)}")
            rest = lines[place + 1 :]
            if any(re.match(r"instance\b|nb of jobs\b", line, re.IGNORECASE) for _, line in rest):
                raise InstanceError("the file holds several instances; it must hold one")
            return [_whole(token, number) for token in tokens], rest
        is_name = re.match(r"instance\s", line, re.IGNORECASE)
        title = not place and not _NUMBER.fullmatch(tokens[0])
        if not (title or named or is_name or re.match(r"nb of jobs\b", line, re.IGNORECASE)):
            raise InstanceError(f"line {number}: {_shown(line)} is not 'jobs machines', two whole numbers")
        named = named or bool(is_name)
    raise InstanceError("the line 'jobs machines' is missing" if lines else "the file is empty")


def _whole(token: str, line: int) -> int:
    if not _WHOLE.fullmatch(token):
        raise InstanceError(f"line {line}: {_shown(token)} is not a whole number of at most 18 digits")
    return int(token)


def _size_fault(jobs: int, machines: int) -> str | None:
    """Say why an instance of this size is not allowed, if so."""
    if jobs < 1 or machines < 1 or jobs * machines > MAX_OPERATIONS:
        return f"{jobs} jobs on {machines} machines are not allowed; from 1 of each to {MAX_OPERATIONS} operations are"
    return None


def matrices_fault(duration: NDArray[np.int64], machine: NDArray[np.int64], base: int = 0) -> str | None:
    """Say what is wrong with durations and machines ``[jobs, machines]``, if anything; jobs are counted from 0.

    Machine -1 with duration 0 is no operation, allowed at the end of a row; not where machines are told from 1.
    """
    wrong = (duration < 0) | (duration > MAX_DURATION)
    if wrong.any():
        worst = int(wrong.argmax())
        value = int(duration.flat[worst])
        return f"job {worst // duration.shape[1]} has a duration of {value}; allowed are 0 to {MAX_DURATION}"
    nothing = (machine == -1) & (base == 0)
    if nothing.all():
        return "there is no operation; at least one is needed"
    wrong = (nothing & (duration > 0)) | (nothing & ~np.logical_and.accumulate(nothing[:, ::-1], axis=1)[:, ::-1])
    if wrong.any():
        return f"job {int(wrong.any(1).argmax())} has the machine -1, no operation, with a duration or before another"
    machines = machine.shape[1]
    for job, row in enumerate(machine.tolist()):
        seen: set[int] = set()
        for each in row[: machines - int(nothing[job].sum())]:
            if not 0 <= each < machines:
                return f"job {job} has the machine {each + base}; machines are {base} to {machines - 1 + base}"
            if each in seen:
                return f"job {job} has the machine {each + base} twice; it must visit each machine once"
            seen.add(each)
    return None


def _checked(matrices: Matrices, base: int = 0) -> Matrices:
    if fault := matrices_fault(*matrices, base):
        raise InstanceError(fault)
    return matrices


def _shown(text: str) -> str:
    """Return text quoted for a message: one line, printable, and short."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


# the job shop instances ta01 to ta80 of his benchmark, ten of a size: time seed, machine seed, time seed, ...
_SIZES = ((15, 15), (20, 15), (20, 20), (30, 15), (30, 20), (50, 15), (50, 20), (100, 20))
_SEEDS = """
840612802 398197754 1314640371 386720536 1227221349 316176388 342269428 1806358582 1603221416 1501949241 1357584978
1734077082 44531661 1374316395 302545136 2092186050 1153780144 1393392374 73896786 1544979948
533484900 317419073 1894307698 1474268163 874340513 509669280 1124986343 1209573668 1463788335 529048107 1056908795
25321885 195672285 1717580117 961965583 1353003786 1610169733 1734469503 532794656 998486810
1035939303 773961798 5997802 1872541150 1357503601 722225039 806159563 1166962073 1902815253 1879990068 1503184031
1850351876 1032645967 99711329 229894219 1158117804 823349822 108033225 1297900341 489486403
98640593 1981283465 1839268120 248890888 573875290 2081512253 1670898570 788294565 1118914567 1074349202 178750207
294279708 1549372605 596993084 798174738 151685779 553410952 1329272528 1661531649 1173386294
1841414609 1357882888 2116959593 1546338557 796392706 1230864158 532496463 254174057 2020525633 978943053 524444252
185526083 1569394691 487269855 1460267840 1631446539 198324822 1937476577 38071822 1541985579
17271 718939 660481279 449650254 352229765 949737911 1197518780 166840558 1376020303 483922052 2106639239 955932362
1765352082 1209982549 1105092880 1349003108 907248070 919544535 2011630757 1845447001
8493988 2738939 1991925010 709517751 342093237 786960785 1634043183 973178279 341706507 286513148 320167954 1411193018
1089696753 298068750 433032965 1589656152 615974477 331205412 236150141 592292984
302034063 1203569070 1437643198 1692025209 1792475497 1039908559 1647273132 1012841433 696480901 1689682358 1785569423
1092647459 117806902 739059626 1639154709 1319962509 2007423389 749368241 682761130 262763021
"""

TAILLARD_SEEDS: dict[str, tuple[int, int, int, int]] = {
    f"ta{number + 1:02}": (*_SIZES[number // 10], int(time_seed), int(machine_seed))
    for number, (time_seed, machine_seed) in enumerate(zip(*[iter(_SEEDS.split())] * 2, strict=True))
}
"""Arguments of `taillard_matrices` for each instance of the benchmark, by name."""
