"""Policies on disk: weights as safetensors beside a JSON card; nothing is pickled.

A policy is a folder with ``weights.safetensors`` and ``card.json``. Those that ship with the package lie in
``ncogym/weights/NAME``; `load_policy` takes such a name or the path of any other folder.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch.overrides import TorchFunctionMode

from ncogym._files import staged
from ncogym.errors import CheckpointError
from ncogym.features import FeatureDims
from ncogym.policies import POLICIES
from ncogym.policies.base import Policy, subclasses
from ncogym.policies.population import Conditioned

# what the arguments in a card may lead to before it is known that they are none
FAULTS = (
    OSError,
    SafetensorError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
)
SHIPPED = Path(__file__).parent / "weights"
FORMAT = 1
MAX_CARD = 1 << 24  # bytes
MAX_CALLS = 16  # of torch to make a tensor of a policy, on average; up to 7 are needed


class Pretrained(NamedTuple):
    """A policy in evaluation mode and its card.

    Attributes:
        policy: the network.
        card: its class, arguments, problem, training and measured gaps.
        name: the shipped name or the folder, as it was given.
    """

    policy: Policy
    card: dict[str, Any]
    name: str


def available() -> list[str]:
    """Return the names of the policies that ship with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/card.json"))


def save_policy(policy: Policy, folder: str | Path, card: dict[str, Any], *, half: bool = False) -> None:
    """Write a policy's weights and card to ``folder``, each file whole or not at all.

    Args:
        policy: of a class in `ncogym.policies.POLICIES`, or of one of your own, whose module must be imported before it
            can be loaded.
        folder: made if it does not exist.
        card: what is known of it: ``env``, ``sizes``, ``training``, measured gaps.
        half: write weights as float16, in half the bytes; `load_policy` returns float32 in any case.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "policy": {
            "class": policy.card_name(),
            "arguments": policy.arguments(),
            "dims": asdict(policy.dims),
            "parameters": sum(p.numel() for p in policy.parameters()),
        },
        **card,
    }
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in policy.state_dict().items()
    }
    with staged(target) as made:
        (made / "weights.safetensors").write_bytes(save(tensors))  # save_file would let nobody else read it
        (made / "card.json").write_text(json.dumps(described, indent=1, default=str) + "\n")


def load_card(name_or_path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the card of a policy.

    Raises:
        CheckpointError: there is no such policy, or its card is not one.
    """
    given = str(name_or_path)
    folder = SHIPPED / given if given in available() else Path(given)
    path = folder / "card.json"
    if not path.is_file():
        shipped = ", ".join(available()) or "none"
        raise CheckpointError(f"policy: {given!r} is neither a shipped policy ({shipped}) nor a folder with card.json")
    try:
        if path.stat().st_size > MAX_CARD:
            raise ValueError(f"over {MAX_CARD >> 20} MB")
        card = json.loads(path.read_text(encoding="utf-8"))
        card["policy"]["class"], card["policy"]["dims"], card["env"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a policy's card ({type(error).__name__}: {error})") from error
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {card.get('format')!r} is not allowed; this version reads {FORMAT}")
    return folder, card


def load_policy(name_or_path: str | Path, device: torch.device | str = "cpu") -> Pretrained:
    """Load a policy by its shipped name or from a folder, in evaluation mode.

    Args:
        name_or_path: a name from `available`, or a folder that `save_policy` or a training run wrote.
        device: where the weights go.

    Raises:
        CheckpointError: it does not exist, or its weights do not fit its card.
    """
    folder, card = load_card(name_or_path)
    path = folder / "weights.safetensors"
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
        policy = _outline(folder, card["policy"], shapes)
        dtypes = {name: tensor.dtype for name, tensor in policy.state_dict().items()}
        read = load_file(path, device="cpu")  # copied, as its tensors lie where the file has them
        policy.load_state_dict({name: read[name].to(dtype, copy=True) for name, dtype in dtypes.items()}, assign=True)
    except CheckpointError:
        raise
    except FAULTS as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: the weights do not fit the card ({first_line})") from error
    return Pretrained(policy.to(device).eval(), card, str(name_or_path))


def _outline(folder: Path, described: dict[str, Any], shapes: Mapping[str, Sequence[int]]) -> Policy:
    """Return the policy that a card describes on the meta device, without numbers, if it has the tensors of a file.

    Whatever the card says, neither memory nor time is spent on more than the file holds.

    Raises:
        CheckpointError: its tensors are not those of the file.
    """
    with torch.device("meta"), _Counted(MAX_CALLS * (len(shapes) + 10)):
        policy = _make(folder, described)(FeatureDims(**described["dims"]))
    needed = {name: list(tensor.shape) for name, tensor in policy.state_dict().items()}
    for name in sorted(needed.keys() | shapes.keys()):
        if needed.get(name) != shapes.get(name):
            told = ["no such tensor" if each is None else each for each in (needed.get(name), shapes.get(name))]
            raise CheckpointError(
                f"{folder}: the weights do not fit the card ({name}: {told[0]}, in the file {told[1]})"
            )
    return policy


class _Counted(TorchFunctionMode):
    """Ends what calls torch more often than so many times, in this thread."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has many more layers than they")
        return func(*args, **(kwargs or {}))


def _make(folder: Path, described: dict[str, Any]) -> Callable[[FeatureDims], Policy]:
    """Return what makes the policy that a card describes, and within it the policy that it conditions."""
    kind = _class(described["class"])
    if kind is None:
        raise CheckpointError(
            f"{folder}: policy class {described['class']!r} is not known; allowed are {', '.join(POLICIES)}, "
            "and those of modules that were imported before (--import MODULE)"
        )
    arguments = dict(described["arguments"])
    if "base" in arguments:
        arguments["base"] = _make(folder, arguments["base"])
    return functools.partial(kind, **arguments)


def _class(name: Any) -> type[Policy] | None:
    """Return the policy class of that name on a card; nothing is imported for it."""
    known = {kind.card_name(): kind for kind in subclasses(Policy) if "." in kind.card_name()}
    return {**known, **POLICIES}.get(name)


def find_policy(env_name: str, size: int, classes: tuple[str, ...] | None = None) -> str | None:
    """Return the shipped policy for a problem whose training sizes are nearest to ``size``, or None.

    Args:
        env_name: the problem.
        size: of its instances.
        classes: names of policy classes, any of which will do; None is all but those that take conditions.
    """
    if classes is None:
        classes = tuple(name for name, kind in POLICIES.items() if not issubclass(kind, Conditioned))
    candidates = []
    for name in available():
        _, card = load_card(name)
        if card["env"]["name"] == env_name and card["policy"]["class"] in classes:
            low, high = card["sizes"]
            candidates.append((max(low - size, size - high, 0), name))
    return min(candidates)[1] if candidates else None
