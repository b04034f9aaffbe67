"""Sets of instances: the published ones by name, folders of instance files, files; and what is best known of each.

`open_set` reads them all into an `InstanceSet`. Distributions say which sets are published
(``Distribution.reference_sets``) and how one is built, problems which files and arrays they read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym._files import staged
from ncogym.distribution import Distribution, ReferenceSet
from ncogym.envs import PROBLEMS, build_task, kind_of
from ncogym.envs.formats.arrays import holds, read_arrays, real, whole
from ncogym.envs.formats.foreign import described
from ncogym.errors import ArgumentError, InstanceError
from ncogym.known import Known, agreed, known_of
from ncogym.problem import Arrays, Problem
from ncogym.references import check_solutions, in_one
from ncogym.solution import instances_sha256
from ncogym.task import Task

DIGEST = "instances_sha256"
MAX_ABOUT = 1 << 20  # bytes of what a labelled file says about its labels
LABEL_AXES = {"actions": "batch steps", "objective": "batch", "proven": "batch"}


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """Instances of one problem in their order, and what is known of them.

    Attributes:
        name: as it was asked for, ``kool-tsp100:1000``; of a folder or a file, its name.
        env: the problem; a `Task` where the instances are of one distribution and size.
        blocks: the instances; those that follow each other and have equal keys, dtypes and shapes share a block.
        names: of each instance: its number from 0, its set's name where that is one of several, or its file's.
        best_known: best objective known of each, float64 ``[count]``, NaN where nothing is known.
        proven: of each, whether ``best_known`` is said to be an optimum.
        actions: of each, a published solution of objective ``best_known`` that the referee accepts, int64 ``[steps]``,
            or None.
        best_known_name: what ``best_known`` is called in tables; None where nothing is known of any.
        distribution: name of the one that the instances were drawn from; None where nothing says, as of files.
    """

    name: str
    env: Problem
    blocks: tuple[TensorDict, ...]
    names: tuple[str, ...]
    best_known: Tensor
    proven: tuple[bool, ...]
    actions: tuple[Tensor | None, ...]
    best_known_name: str | None
    distribution: str | None = None

    @property
    def count(self) -> int:
        """The number of instances."""
        return sum(len(block) for block in self.blocks)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The size of each instance, in the units of its problem's `instance_size`."""
        return tuple(size for block in self.blocks for size in [self.env.instance_size(block)] * len(block))

    @property
    def size(self) -> int:
        """The median size; of two in the middle, the smaller."""
        return sorted(self.sizes)[(self.count - 1) // 2]

    @cached_property
    def sha256(self) -> str:
        """Fingerprint: that of the only block (`instances_sha256`), or SHA-256 over the hex digits of all blocks'."""
        digests = [instances_sha256(block) for block in self.blocks]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def unnamed(env: Problem, instances: TensorDict, name: str, distribution: str | None = None) -> InstanceSet:
    """Return instances of which nothing is known as a set.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        name: what tables call the set.
        distribution: name of the one that they were drawn from; None where nothing says.
    """
    count = instances.batch_size[0]
    names, unknown = tuple(map(str, range(count))), torch.full((count,), math.nan, dtype=torch.float64)
    return InstanceSet(name, env, (instances,), names, unknown, (False,) * count, (None,) * count, None, distribution)


def published() -> dict[str, ReferenceSet]:
    """Return the published sets of all problems by name, in the order of tables."""
    return {name: entry for kind in PROBLEMS.values() for name, entry in _sets_of(kind).items()}


def set_names() -> list[str]:
    """Return the names of the published sets, in the order of tables."""
    return list(published())


def open_set(text: str, problem: str | None = None) -> InstanceSet:
    """Open a set of instances.

    Args:
        text: a published set, ``NAME``, or its first instances, ``NAME:COUNT``; all published sets of a problem from
            one to another, ``NAME..NAME``; a folder of instance files; an instance file; or an ``.npz`` file, as
            ``ncogym generate`` writes it, whose labels are then what is best known, or with the arrays that the
            problem's ``from_arrays`` reads. A published name goes before a file of that name.
        problem: its problem; None takes the one that the name, the files or the arrays tell. In a folder, files of
            others are passed over only if it is given.

    Raises:
        ArgumentError: there is no such set, it has fewer instances, or it is of another problem.
        InstanceError: a file is malformed, its problem cannot be told, what is known of it contradicts itself, or a
            published set is not what it was when it was published.
        InvalidSolution: a label of a labelled file breaks a constraint, or has another objective than the file says.
    """
    if problem is not None:
        kind_of(problem)  # which refuses an unknown one
    name, colon, count = text.partition(":")
    first, dots, last = text.partition("..")
    known, path = published(), Path(text)
    if name in known:
        entry = known[name]
        if colon and not (count.isdecimal() and 1 <= int(count) <= entry.count):
            raise ArgumentError(f"instances: {text} is not allowed; COUNT must be from 1 to {entry.count}")
        return _named(text, [name], int(count or entry.count), problem)
    if text and path.is_dir():  # the path of no text is this folder
        return _folder(path, problem)
    if path.is_file():
        return _arrays(path, problem) if path.suffix.lower() == ".npz" else _files(path.name, [path], problem)
    if dots and first in known and last in known:
        return _named(text, _between(first, last), None, problem)
    wanted = [part for part in ((first, last) if dots else (name,)) if part not in known]
    close = [each for part in wanted for each in difflib.get_close_matches(part, known, n=3)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    allowed = "a set (`ncogym list sets`) NAME, NAME:COUNT or NAME..NAME, a folder of instance files, or a file"
    raise ArgumentError(f"instances: {text!r} is neither a set nor a file; {hint}allowed is {allowed}")


# ---------------------------------------------------------------------- published sets


def _sets_of(kind: type[Problem]) -> dict[str, ReferenceSet]:
    """Return the published sets of a problem."""
    return {} if kind.distribution_type is None else kind.distribution_type.reference_sets


def _home(name: str, problem: str | None = None) -> tuple[type[Problem], type[Distribution]]:
    """Return the problem of a published set, and the distribution that publishes it.

    Several problems may share a distribution: then it is the one that is asked for, or the first.
    """
    if problem is not None and name in _sets_of(asked := kind_of(problem)) and asked.distribution_type is not None:
        return asked, asked.distribution_type
    homes = ((kind, kind.distribution_type) for kind in PROBLEMS.values())
    return next((kind, drawn) for kind, drawn in homes if drawn is not None and name in drawn.reference_sets)


def _between(first: str, last: str) -> list[str]:
    """Return the names of a problem's sets from the first to the last."""
    names = list(_home(first)[1].reference_sets)
    if last not in names:
        homes = f"{first} is of {_home(first)[0].name}, {last} of {_home(last)[0].name}"
        raise ArgumentError(f"instances: {first}..{last} is not allowed; {homes}")
    found = names[names.index(first) : names.index(last) + 1]
    if not found:
        raise ArgumentError(f"instances: {first}..{last} is not allowed; {last} comes before {first}")
    return found


def _named(text: str, names: Sequence[str], count: int | None, problem: str | None) -> InstanceSet:
    """Build published sets and join them; of a single one, take the first ``count`` instances."""
    kind, drawn = _home(names[0], problem)
    if problem not in (None, kind.name):
        raise ArgumentError(f"instances: {text} is of {kind.name}, not of {problem}")
    entries = [drawn.reference_sets[name] for name in names]
    wholes = [_verified(drawn, name) for name in names]
    labels = [
        name if entry.count == 1 else f"{name}:{row}" if len(names) > 1 else str(row)
        for name, entry in zip(names, entries, strict=True)
        for row in range(entry.count)
    ]
    values = [value for entry in entries for value in entry.best_known or [math.nan] * entry.count]
    proven = [is_proven for entry in entries for is_proven in entry.proven or [False] * entry.count]
    blocks = _joined(whole[:count] for whole in wholes)
    task = build_task(kind.name, **entries[0].arguments)
    one = all(entry.arguments == entries[0].arguments for entry in entries)
    distributions = {entry.arguments.get("distribution") for entry in entries}
    return InstanceSet(
        name=text,
        env=task if one else task.problem,
        blocks=blocks,
        names=tuple(labels[:count]),
        best_known=torch.tensor(values[:count], dtype=torch.float64),
        proven=tuple(proven[:count]),
        actions=(None,) * len(labels[:count]),
        best_known_name=None if all(map(math.isnan, values[:count])) else "best known (literature)",
        distribution=task.arguments().get("distribution") if len(distributions) == 1 else None,
    )


def _verified(kind: type[Distribution], name: str) -> TensorDict:
    """Build a published set, and refuse it if it is not the one that was published."""
    whole, expected = kind.reference_set(name), kind.reference_sets[name].sha256
    found = instances_sha256(whole)
    if not found.startswith(expected):
        changed = "the generator of numpy or torch, this processor's arithmetic, or this code changed"
        raise InstanceError(
            f"set {name}: hash {found[: len(expected)]} differs from the published {expected}; {changed}"
        )
    return whole


def published_among(env: Problem, instances: TensorDict) -> dict[str, int]:
    """Return the published sets that given instances are in, and how many of the given ones each has.

    Instances are compared one by one and bit for bit, so a prefix, a part or another order of a set is told as well as
    the whole. Only sets of the same problem and size are built.

    Args:
        env: the problem.
        instances: batch size ``[batch]``, all of one shape.

    Example:
        >>> from ncogym.envs import build_task
        >>> from ncogym.sets import published_among
        >>> task = build_task("tsp", num_nodes=50)
        >>> published_among(task, task.seeded(3, 1234))
        {'kool-tsp50': 3}
    """
    kind, size, own = env.problem.distribution_type, env.instance_size(instances), _row_bytes(instances)
    found = dict[str, int]()
    if kind is None:
        return found
    for name, entry in kind.reference_sets.items():
        if kind(**entry.arguments).size == size:
            held = set(_row_bytes(kind.reference_set(name)))
            if count := sum(row in held for row in own):
                found[name] = count
    return found


def _row_bytes(instances: TensorDict) -> list[bytes]:
    """Return what tells each instance from others: the bytes of its tensors."""
    parts = [
        [f"{key} {value.dtype} {tuple(value.shape[1:])} ".encode() + row.tobytes() for row in value.cpu().numpy()]
        for key, value in sorted(instances.items())
    ]
    return [b"".join(each) for each in zip(*parts, strict=True)]


def _joined(instances: Iterable[TensorDict]) -> tuple[TensorDict, ...]:
    """Join instances to blocks of equal keys, dtypes and shapes, in their order."""

    def alike(one: TensorDict) -> list[Any]:
        return [(key, value.dtype, value.shape[1:]) for key, value in sorted(one.items())]

    return tuple(torch.cat(list(group)) for _, group in groupby(instances, alike))


# ---------------------------------------------------------------------- folders and files


def _folder(folder: Path, problem: str | None) -> InstanceSet:
    suffixes = list(dict.fromkeys(suffix for kind in PROBLEMS.values() for suffix in kind.suffixes))
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if problem is None:
        homes = dict.fromkeys(recognise(path).name for path in files)
        if len(homes) > 1:
            raise InstanceError(f"{folder}: its files are of {' and '.join(homes)}; say which problem is meant")
    else:
        files = [path for path in files if _is_of(path, problem)]
    if not files:
        what = "an instance" if problem is None else f"an instance of {problem}"
        raise InstanceError(f"{folder}: no file there is {what}; suffixes are {', '.join(suffixes)}")
    return _files(folder.resolve().name, files, problem)


def _is_of(path: Path, problem: str) -> bool:
    """Return whether a file is of a problem; numbers that others could read as well are."""
    names = [kind.name for kind in _kinds(path)]
    if problem not in names or len(names) == 1:
        return problem in names
    try:
        return recognise(path).name == problem
    except InstanceError:  # nobody can read it, or several can
        kind_of(problem)().read(path)
        return True


def _files(name: str, files: Sequence[Path], problem: str | None) -> InstanceSet:
    """Read instance files of one problem, and what an index or a solution beside them says of each."""
    env = recognise(files[0], problem)
    instances = [env.read(path) for path in files]
    known = known_of(env, files, instances, _problems)
    blocks = _joined(instances)
    return _of_files(name, env, blocks, [path.stem for path in files], known)


def _of_files(
    name: str, env: Problem, blocks: tuple[TensorDict, ...], names: Sequence[str], known: Sequence[Known]
) -> InstanceSet:
    sources = dict.fromkeys(each.source for each in known if each.source is not None)
    return InstanceSet(
        name=name,
        env=env,
        blocks=blocks,
        names=tuple(names),
        best_known=torch.tensor([each.value for each in known], dtype=torch.float64),
        proven=tuple(each.proven for each in known),
        actions=tuple(each.actions for each in known),
        best_known_name=f"best known ({', '.join(sources)})" if sources else None,
    )


def _arrays(path: Path, problem: str | None) -> InstanceSet:
    """Read the instances of an ``.npz`` file, and the solutions that it has of them."""
    arrays = read_arrays(path)
    if "about" in arrays:
        return _labelled(path, arrays, problem)
    kinds = [PROBLEMS[problem]] if problem else list(PROBLEMS.values())
    try:
        found = {kind: contents for kind in kinds if (contents := kind.from_arrays(arrays)) is not None}
    except InstanceError as error:
        raise InstanceError(f"{path}: {error}") from error
    if len(found) != 1:
        of = " and ".join(kind.name for kind in found) or problem or "any problem"
        told = f"are those of {of}; say which problem is meant" if found else f"are not those of {of}"
        raise InstanceError(f"{path}: its arrays ({', '.join(arrays)}) {told}")
    [(kind, contents)] = found.items()
    env, instances, count = kind(), contents.instances, len(contents.instances)
    values = [math.nan] * count if contents.best_known is None else contents.best_known.tolist()
    proven = [False] * count if contents.proven is None else contents.proven.tolist()
    known = []
    for row, (value, is_proven) in enumerate(zip(values, proven, strict=True)):
        known.append(Known() if math.isnan(value) else Known(value, is_proven, path.name))
        if contents.actions is not None and not math.isnan(value):
            one, actions = instances[row : row + 1], contents.actions[row]
            if broken := env.violations(one, actions[None, None]):
                raise InstanceError(f"{path}: instance {row}: {broken[0].reason}")
            known[-1] = agreed(env, f"{path}: instance {row}", one, known[-1], actions, together=True)
    return _of_files(path.name, env, (instances,), [str(row) for row in range(count)], known)


# ---------------------------------------------------------------------- labelled files


def write_labelled(path: Path, labelled: InstanceSet, about: Mapping[str, Any]) -> None:
    """Write instances of one shape and a solution of each to an ``.npz`` file that `open_set` reads.

    Beside the instances' arrays it has ``actions`` ``[batch, steps]`` with padding, ``objective`` and ``proven``
    ``[batch]``, and ``about``, JSON text. The file appears whole or not at all, and the same set gives the same bytes.

    Args:
        path: of the file; it is replaced.
        labelled: a set of one block whose solutions are all known.
        about: how the labels came about, in plain values; "labels", who made them, must be in it.
    """
    env, (instances,) = labelled.env, labelled.blocks
    told = {
        **about,
        "env": {"name": env.name, "arguments": env.arguments()},
        DIGEST: instances_sha256(instances),
    }
    arrays = {
        **{key: value.numpy() for key, value in instances.items()},
        "actions": in_one(env, labelled.blocks, [a for a in labelled.actions if a is not None]).numpy(),
        "objective": labelled.best_known.numpy(),
        "proven": np.array(labelled.proven),
        "about": np.array(json.dumps(told)),
    }
    with staged(path.parent) as made:
        np.savez(made / path.name, **arrays)


def _labelled(path: Path, arrays: Arrays, problem: str | None) -> InstanceSet:
    """Return the set in a labelled file, each label checked and scored by the referee."""
    told = arrays["about"]
    try:
        if told.dtype.kind != "U" or told.size != 1 or told.nbytes > MAX_ABOUT:
            raise ValueError("it is no text, or a long one")
        about = json.loads(str(told))
        name, who, digest, arguments = about["env"]["name"], about["labels"], about[DIGEST], about["env"]["arguments"]
        if not isinstance(arguments, dict):
            raise TypeError("the arguments of env are no object")
        task = build_task(name)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InstanceError(f"{path}: what it says about its labels cannot be read ({error})") from error
    if problem not in (None, name):
        raise ArgumentError(f"instances: {path} is of {name}, not of {problem}")
    labels = {key: arrays[key] for key in LABEL_AXES if key in arrays}
    try:
        contents = task.from_arrays({key: each for key, each in arrays.items() if key not in (*labels, "about")})
        if contents is None or not holds(labels, LABEL_AXES, {}):
            raise InstanceError(f"its arrays ({', '.join(arrays)}) are not those of labelled {name}")
        env = _told_task(task, arguments, contents.instances)
        actions, objective = whole(labels, "actions"), real(labels, "objective").double()
    except (InstanceError, ArgumentError) as error:
        raise InstanceError(f"{path}: {error}") from error
    instances = contents.instances
    if len(instances) != len(actions):
        raise InstanceError(f"{path}: it has {len(instances)} instances, but labels of {len(actions)}")
    check_solutions(env, instances, actions, objective, path)
    if instances_sha256(instances) != digest:
        raise InstanceError(f"{path}: its instances are not those that were labelled")
    return InstanceSet(
        name=path.name,
        env=env,
        blocks=(instances,),
        names=tuple(map(str, range(len(instances)))),
        best_known=objective,
        proven=tuple((labels["proven"] != 0).tolist()),
        actions=tuple(actions),
        best_known_name=f"{who} ({path.name})",
        distribution=env.arguments().get("distribution"),
    )


def _told_task(task: Task, told: Mapping[str, Any], instances: TensorDict) -> Task:
    """Return the problem and distribution that a labelled file tells, of no other size than its instances have.

    A size that is told is compared with them before anything of that size is built; device and batch size are nobody's
    to tell.

    Args:
        task: the problem, with its default arguments.
        told: the arguments in the file.
        instances: of the file.

    Raises:
        InstanceError: the file tells another size, or arguments that are not those of a distribution.
        ArgumentError: the value of an argument is not allowed.
    """
    default, fitting = task.arguments(), task.sized_like(instances).arguments()
    if unknown := told.keys() - default.keys():
        allowed = ", ".join(default)
        raise InstanceError(f"it tells {', '.join(sorted(unknown))} of {task.name}; allowed are {allowed}")
    larger = task.resized(2 * task.size).arguments()
    sizes = {key: fitting[key] for key, value in default.items() if larger[key] != value}
    if task.distribution.frame:  # instances differ in size, and what is told is about their mean
        sizes = {}
    for key, size in sizes.items():
        if told.get(key, size) != size:
            raise InstanceError(f"it tells {key} {told[key]!r}, but its instances have {size}")
    return build_task(task.name, **{**told, **sizes})


# ---------------------------------------------------------------------- whose file is it?


def recognise(path: str | Path, problem: str | None = None) -> Problem:
    """Return the problem that reads a file.

    Args:
        path: an instance file.
        problem: its problem; None tells it from the header that TSPLIB and CVRPLIB files have, from the suffix, or, for
            a suffix that several problems share (.txt), by which of them can read the numbers.

    Raises:
        ArgumentError: the problem is unknown. InstanceError: there is no such file, or nothing in it tells a problem.
    """
    if problem is not None:
        return kind_of(problem)()
    kinds = _kinds(path)
    if not kinds:
        if told := described(path):
            raise InstanceError(f"{path}: {told}")
        known = ", ".join(dict.fromkeys(s for kind in PROBLEMS.values() for s in kind.suffixes))
        suffix = Path(path).suffix.lower()
        raise InstanceError(
            f"{path}: neither its header nor its suffix {suffix!r} tells a known problem ({known}); pass --problem"
        )
    if len(kinds) == 1:
        return kinds[0]()
    reasons = {}
    for kind in kinds:
        try:
            kind().read(path)
        except InstanceError as error:
            reasons[kind.name] = str(error).removeprefix(f"{path}: ")
    left = [kind.name for kind in kinds if kind.name not in reasons]
    if len(left) == 1:
        return kind_of(left[0])()
    if left:
        raise InstanceError(f"{path}: it reads as {' and as '.join(left)}; pass --problem")
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise InstanceError(f"{path}: {described(path) or f'its numbers are those of no known problem ({told})'}")


def _kinds(path: str | Path) -> list[type[Problem]]:
    """Return the problem that a file's header names, or else those that read files of its suffix."""
    told, suffix = _header_type(path), Path(path).suffix.lower()
    named = [kind for kind in PROBLEMS.values() if kind.name == told]
    return named or [kind for kind in PROBLEMS.values() if suffix in kind.suffixes]


def _problems(path: Path) -> list[str]:
    """Return the names of the problems that a file may be of by its header or suffix."""
    try:
        return [kind.name for kind in _kinds(path)]
    except InstanceError:
        return []


def _header_type(path: str | Path) -> str | None:
    """Return the TYPE that a file's header names, which is our problem's name in capitals, or None."""
    try:
        with open(path, encoding="latin-1") as file:
            match = re.search(r"^[ \t]*TYPE[ \t]*:?[ \t]*(\w+)", file.read(4096), re.MULTILINE | re.IGNORECASE)
    except OSError as error:
        raise InstanceError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    return match[1].lower() if match else None
