"""Files that people bring and no problem reads: what they are, and what can be done with them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError

_ARRAYS = "save its arrays by name with numpy.savez and pass the .npz file"
_TABLE = "a table, whose columns have no fixed meaning"
_REWRITE = (
    "write a TSPLIB or CVRPLIB file (a matrix of distances: EDGE_WEIGHT_TYPE EXPLICIT; places: EUC_2D, EXACT_2D, GEOM)"
)
_PICKLE = "a pickle, which runs code when it is opened and is never read"
_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet"), (_TABLE, _REWRITE)),
    **dict.fromkeys((".json", ".yaml", ".yml", ".xml"), ("data of no format that is known here", _REWRITE)),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".ckpt"), (_PICKLE, _ARRAYS)),
    ".npz": ("a file of arrays, many instances in one", "`ncogym evaluate --instances` takes it"),
    ".npy": ("an array without a name", _ARRAYS),
    ".fjs": ("a flexible job shop, whose operations choose among machines", "no problem here has that choice"),
}
_DIMACS = re.compile(r"^p[ \t]+[a-z]+[ \t]+[0-9]+[ \t]+[0-9]+[ \t]*$", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*(TYPE|DIMENSION)[ \t]*:?[ \t]*([\w-]+)", re.IGNORECASE | re.MULTILINE)


def described(path: str | os.PathLike[str]) -> str | None:
    """Say in one line what a file is that no problem reads, and what can be done, or None where nothing tells it."""
    if told := _SUFFIXES.get(Path(path).suffix.lower()):
        return "it is {}; {}".format(*told)
    try:
        text = read_text(path)
    except InstanceError:
        return None
    header = {word.upper(): value.upper() for word, value in reversed(_HEADER.findall(text[:4096]))}
    if len(header) == 2:
        return f"its header says TYPE {header['TYPE']}, which is that of no problem here (`ncogym list envs`)"
    if _DIMACS.search(text):
        return "it is a graph in DIMACS' format, of which several problems can be asked; say which by --problem (mis)"
    if _is_flexible(text):
        return "it is {}; {}".format(*_SUFFIXES[".fjs"])
    return None


def _is_flexible(text: str) -> bool:
    """Return whether lines are jobs of as many operations as each begins with, with as many 'machine duration' each."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows or len(rows[0]) not in (2, 3) or rows[0][0] != str(len(rows) - 1):
        return False
    for row in rows[1:]:
        if not all(re.fullmatch("[0-9]{1,9}", token) for token in row):
            return False
        at, numbers = 1, [int(token) for token in row]
        for _ in range(min(numbers[0], len(row))):
            if at >= len(row):
                return False
            at += 1 + 2 * numbers[at]
        if at != len(row):
            return False
    return True
