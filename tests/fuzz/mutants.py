"""Strategies that damage files: what a disk, an editor, another program or an attacker makes of a valid one."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

_NUMBERS = """
0 1 -1 2 3 1.5 -0 1e-320 1e-9 1e9 1e15 1e17 1e300 1e308 -1e308 1e400 nan inf -inf NaN Infinity 1000000 100000000
2147483648 -2147483649 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616
+5 1_000 0x10 007 1,5 1.0 .5 5. 1e 1d3 ½ ١٢ ⑤ －
"""
_WORDS = """
EOF TYPE TSP ATSP CVRP HCP EXPLICIT EUC_2D GEO ATT FULL_MATRIX UPPER_ROW DIMENSION DEPOT_SECTION NODE_COORD_SECTION
EDGE_WEIGHT_SECTION DEMAND_SECTION TOUR_SECTION Route #1: Cost : -1 # , ; | true false null None = =1+1 @SUM(1)
../../x /dev/zero C:\\x % { } [ ] ( ) ' " & * ! --- ...
"""
_DTYPES = "f2 f4 f8 >f8 i1 u1 i2 i4 i8 >i8 u8 g ? c16 U3 S3 O M8[s] m8[s] V3"
NUMBERS = [*_NUMBERS.split(), "9" * 400, "9" * 5000, "0." + "0" * 400 + "1"]
WORDS, DTYPES = _WORDS.split(), _DTYPES.split()
BYTES = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b"\x0b", b"\x0c", b"\x1a"),
    *("\u2028\u00a0\u200b\u00e9\u202e\U0001f600".encode(), "\u00a0".encode(), b" " * 5000, b"\n" * 5000),
    *(b"[" * 3000, b"{" * 3000, b"(" * 3000, b"-" * 3000),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3.5, 10**6, 10**9, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(0.0, -0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "0", "1e400", "\ud800", "\0", "é", "x" * 300, "../../x", "/dev/zero", "os.system", "a\nb", "$\\frac{$"),
    *(
        [],
        {},
        [[]],
        [None],
        ["x"],
        [1, 2],
        [-1],
        [10**30],
        [1.5],
        [True],
        {"": None},
        {"name": "x"},
        {"device": "cuda"},
    ),
    *([[[[[]]]]], [0] * 1000, ["x" * 1000]),
]
# what a setting of a run may also be; a demand for more memory than there is, or for a year's work, is no fault
SETTINGS = [value for value in VALUES if not (isinstance(value, int) and abs(value) >= 10**6)] + [-(2**70), 2**70]


def _place(draw: Draw, length: int) -> int:
    """Draw a place in something, its ends more often than others."""
    return draw(st.one_of(st.integers(0, length), st.sampled_from([0, length])))


# ---------------------------------------------------------------------- bytes and lines


def damaged(draw: Draw, raw: bytes) -> bytes:
    """Flip, cut, insert or repeat bytes."""
    how, at = (
        draw(st.sampled_from(["flip", "flip", "cut", "head", "insert", "repeat", "empty"])),
        _place(draw, len(raw)),
    )
    if how == "flip" and raw:
        changed = bytearray(raw)
        for _ in range(draw(st.integers(1, 4))):
            changed[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if how == "cut":
        return raw[:at]
    if how == "head":
        return raw[at:]
    if how == "insert":
        return raw[:at] + draw(st.one_of(st.sampled_from(BYTES), st.binary(min_size=1, max_size=8))) + raw[at:]
    if how == "repeat":
        end = draw(st.integers(at, len(raw)))
        return raw[:end] + raw[at:end] * draw(st.integers(1, 3)) + raw[end:]
    return b""


def _tokens(draw: Draw, line: str, other: list[str]) -> str:
    """Change a word of a line."""
    words = re.split(r"(\s+)", line)
    at = draw(st.integers(0, len(words) - 1))
    how = draw(st.sampled_from(["number", "number", "word", "own", "drop", "twice", "blank", "case"]))
    if how == "number":
        words[at] = draw(st.sampled_from(NUMBERS))
    elif how == "word":
        words[at] = draw(st.sampled_from(WORDS))
    elif how == "own":
        words[at] = draw(st.sampled_from(other))
    elif how == "drop":
        del words[at]
    elif how == "twice":
        words.insert(at, words[at] + " ")
    elif how == "blank":
        blank = draw(st.sampled_from(["\t", ", ", ";", "", "  ", "\u00a0", " : "]))
        return re.sub(r"\s+", lambda _: blank, line)
    else:
        return line.swapcase()
    return "".join(words)


def text(draw: Draw, raw: bytes) -> bytes:
    """Change lines and words of a text, or its bytes."""
    for _ in range(draw(st.integers(1, 3))):
        if not raw or draw(st.integers(0, 5)) == 0:
            raw = damaged(draw, raw)
            continue
        lines = raw.decode("utf-8", "surrogateescape").split("\n")
        at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        how = draw(
            st.sampled_from(["words", "words", "words", "drop", "twice", "swap", "join", "crlf", "blank", "many"])
        )
        if how == "words":
            lines[at] = _tokens(draw, lines[at], lines[to].split() or ["x"])
        elif how == "drop":
            del lines[at]
        elif how == "twice":
            lines.insert(to, lines[at])
        elif how == "swap":
            lines[at], lines[to] = lines[to], lines[at]
        elif how == "join":
            lines[at : at + 2] = [" ".join(lines[at : at + 2])]
        elif how == "crlf":
            lines = [f"{line}\r" for line in lines]
        elif how == "blank":
            lines.insert(at, draw(st.sampled_from(["", "#", "   ", "EOF", "COMMENT : x"])))
        else:
            lines[at:at] = [lines[to]] * draw(st.sampled_from([10, 1000]))
        raw = "\n".join(lines).encode("utf-8", "surrogateescape")
    return raw


# ---------------------------------------------------------------------- nested values: JSON and YAML


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, part in inner for each in _paths(part, (*path, key)))]


def tree(draw: Draw, value: Any, values: list[Any] = VALUES) -> Any:
    """Change a nested value somewhere: another value, a key less, a key more, a wrapping."""
    value = {"top": copy.deepcopy(value)}
    for _ in range(draw(st.integers(1, 2))):
        paths = _paths(value)[1:401]
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        owner = value
        for key in way:
            owner = owner[key]
        how = draw(st.sampled_from(["value", "value", "value", "drop", "rename", "wrap", "add", "near"]))
        if how == "value":
            owner[last] = copy.deepcopy(draw(st.sampled_from(values)))
        elif how == "drop" and way:
            del owner[last]
        elif how == "rename" and isinstance(owner, dict) and way:
            owner[draw(st.sampled_from(["x", "name", "class_path", "device", "base", "", "é"]))] = owner.pop(last)
        elif how == "wrap":
            owner[last] = draw(st.sampled_from([[owner[last]], {"x": owner[last]}, [owner[last]] * 3]))
        elif how == "add" and isinstance(owner[last], dict):
            owner[last][draw(st.sampled_from(["x", "base", "device", "batch_size"]))] = draw(st.sampled_from(values))
        elif isinstance(owner[last], int | float):
            number = owner[last]
            near = [number + 1, number - 1, -number, str(number), number + 0.5, bool(number)]
            owner[last] = draw(st.sampled_from(near))
    return value["top"]


def _nested(draw: Draw, raw: str) -> str:
    """Put something deep, or something twice, into JSON text."""
    depth = draw(st.sampled_from([50, 900, 100_000]))
    begun = draw(st.sampled_from(["[", '{"a":']))
    deep = begun * depth + draw(st.sampled_from(["", "1" + ("]" if begun == "[" else "}") * depth]))
    colon = [match.end() for match in re.finditer(":", raw)] or [0]
    at = draw(st.sampled_from(colon))
    within, twice = raw[:at] + deep + "," + raw[at:], raw.replace("{", '{"x": 1, "x": 2, ', 1)
    return draw(st.sampled_from([deep, within, raw + raw, twice]))


def json_text(draw: Draw, raw: bytes) -> bytes:
    """Change JSON as a tree, as text, or by depth."""
    how = draw(st.sampled_from(["tree", "tree", "tree", "text", "deep"]))
    if how == "tree":
        return json.dumps(tree(draw, json.loads(raw))).encode()
    return _nested(draw, raw.decode()).encode() if how == "deep" else text(draw, raw)


ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" if n else "a0: &a0 [x, x]" for n in range(9))
YAML_LINES = [
    *(
        "x: &a [*a]",
        "<<: *b",
        "x: !!python/object/apply:os.system ['true']",
        "x: !!binary ====",
        "!!set {x}",
        "%YAML 9",
    ),
    *(
        "---",
        "? x",
        "x: 2001-01-01",
        "seed: 0o17",
        "seed: 1:20:30",
        "env: &e {name: *e}",
        "\tx: 1",
        "x: |",
        ALIASES,
        "- x",
    ),
]


def yaml_text(draw: Draw, raw: bytes) -> bytes:
    """Change YAML as a tree, as text, or by depth, aliases and tags."""
    how = draw(st.sampled_from(["tree", "tree", "tree", "text", "deep", "line", "twice"]))
    if how == "tree":
        changed = tree(draw, yaml.safe_load(raw), SETTINGS)
        return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    if how == "text":
        return text(draw, raw)
    if how == "deep":
        key = draw(st.sampled_from(sorted(yaml.safe_load(raw))))
        depth = draw(st.sampled_from([50, 900, 3000]))
        return raw + f"\n{key}: {'[' * depth}{']' * depth}\n".encode()
    lines = raw.decode().split("\n")
    at = draw(st.integers(0, len(lines)))
    lines.insert(at, draw(st.sampled_from(YAML_LINES if how == "line" else lines)))
    return "\n".join(lines).encode()


# ---------------------------------------------------------------------- arrays and tensors

EXTREMES = [
    0,
    1,
    -1,
    0.5,
    1e-320,
    1e9,
    1e15,
    1e17,
    1e300,
    1e308,
    np.nan,
    np.inf,
    -np.inf,
    2.0**53 + 2,
    2.0**63,
    -(2.0**63),
]


def _array(draw: Draw, array: np.ndarray) -> np.ndarray:
    """Change an array: entries, dtype, axes or size."""
    how = draw(st.sampled_from(["entry", "entry", "entry", "all", "dtype", "axes", "size", "shape", "value"]))
    if how in ("entry", "all") and array.size and array.dtype.kind in "biuf":
        changed, value = array.copy(), draw(st.sampled_from(EXTREMES))
        at = slice(None) if how == "all" else draw(st.integers(0, array.size - 1))
        with np.errstate(all="ignore"):
            changed.reshape(-1)[at] = np.asarray(value).astype(array.dtype)
        return changed
    if how == "dtype":
        try:
            with np.errstate(all="ignore"):
                return array.astype(draw(st.sampled_from(DTYPES)))
        except (TypeError, ValueError):
            return array
    if how == "axes" and array.ndim:
        views = [array[None], array[..., None], array.T, array.ravel(), array[:0], array[:1], array.reshape(-1)[-1:]]
        return draw(st.sampled_from(views))
    if how == "size":
        count = draw(st.sampled_from([2, 3, 100]))
        axis = draw(st.integers(0, max(array.ndim - 1, 0)))
        return np.concatenate([array] * count, axis) if array.ndim else array
    if how == "shape" and array.ndim:
        return np.zeros(draw(st.lists(st.integers(0, 6), max_size=4)), array.dtype)
    return np.array(draw(st.sampled_from([0, 5.5, "x", "é", b"x", [1, 2], [[]], True])))


def npz(draw: Draw, raw: bytes) -> bytes:
    """Change the arrays of an ``.npz`` file, what it says about its labels, a header of them, or its bytes."""
    if draw(st.integers(0, 3)) == 0:
        return damaged(draw, raw)
    with np.load(io.BytesIO(raw)) as file:
        arrays = dict(file)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        how = draw(st.sampled_from(["array", "array", "array", "about", "about", "drop", "rename", "add"]))
        if how == "about" and "about" in arrays:
            try:
                arrays["about"] = np.array(json_text(draw, str(arrays["about"]).encode()).decode("utf-8", "replace"))
            except ValueError:  # it was damaged already
                arrays["about"] = np.array("")
        elif how == "drop" and len(arrays) > 1:
            del arrays[name]
        elif how == "rename":
            other = draw(st.sampled_from(["locs", "dists", "demand", "x", "actions", "é", "a/b", "about"]))
            arrays[other] = arrays.pop(name)
        elif how == "add":
            arrays[draw(st.sampled_from(["proven", "actions", "objective", "ref_cost", "ref_tour", "x"]))] = arrays[
                name
            ]
        else:
            arrays[name] = _array(draw, arrays[name])
    packed = io.BytesIO()
    draw(st.sampled_from([np.savez, np.savez_compressed]))(packed, **arrays)
    changed = packed.getvalue()
    if draw(st.integers(0, 5)) == 0:
        changed = _header(draw, changed)
    return damaged(draw, changed) if draw(st.integers(0, 7)) == 0 else changed


def _header(draw: Draw, raw: bytes) -> bytes:
    """Change the header of an array within an ``.npz`` file, whose checksums then hold again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as file, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as other:
        chosen = draw(st.sampled_from(file.namelist()))
        for name in file.namelist():
            content = file.read(name)
            if name == chosen:
                length = 10 + int.from_bytes(content[8:10], "little")
                header, numbers = content[10:length], content[length:]
                old, new = draw(
                    st.sampled_from(
                        [
                            (rb"\d+,", b"1000000000,"),
                            (rb"\(.*?\)", b"(1000000000000, 50, 2)"),
                            (rb"\(.*?\)", b"(-1, 2)"),
                            (rb"\(.*?\)", b"(0,)"),
                            (rb"\(.*?\)", b"((((("),
                            (rb"'<..'", b"'|O'"),
                            (rb"'<..'", b"'<U500000000'"),
                            (rb"'<..'", b"'<f8'"),
                            (rb"'<..'", b"[('a', '<f4')]"),
                            (rb"False", b"True"),
                            (rb"False", b"1 and 2"),
                        ]
                    )
                )
                header = re.sub(old, new, header, count=1).strip().ljust(117) + b"\n"
                if draw(st.booleans()):
                    numbers = bytes(1 << draw(st.sampled_from([4, 10, 16, 20, 22, 24, 27])))
                content = content[:8] + len(header).to_bytes(2, "little") + header + numbers
            other.writestr(name, content)
    return out.getvalue()


def safetensors(draw: Draw, raw: bytes) -> bytes:
    """Change the header of a ``.safetensors`` file as a tree, or its bytes."""
    if draw(st.booleans()):
        return damaged(draw, raw)
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(tree(draw, json.loads(raw[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]
