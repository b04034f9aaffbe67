"""Which numbers settings may be: every one of them, from the signatures themselves."""

from __future__ import annotations

import contextlib
import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ncogym.algorithms import ALGORITHMS, POMO, PPO, Imitation, Reinforce, SelfLabelling
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import ArgumentError, NcogymError
from ncogym.policies import POLICIES, AttentionPolicy
from ncogym.training.data import Generated
from ncogym.training.limits import check
from ncogym.training.module import Optimiser, TrainingModule
from ncogym.training.run import Labels, ValidationSettings, train

ENV = make("tsp", num_nodes=6)
BAD = {int: (-1, 2**70, math.nan, True), float: (-1.0, math.nan, math.inf, -math.inf)}
ZERO = ("streams", "threads", "scoring_bytes", "seed", "warmup_steps", "rotations", "anneal", "weight_decay")
ZERO += ("gradient_clip",)


def numbers(function: Any) -> dict[str, type]:
    """Return the parameters of a function that are numbers, or numbers or None, and of which kind."""
    function = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(function)
    kinds = {name: next((k for k in (int, float) if hints[name] in (k, k | None)), None) for name in hints}
    return {name: kind for name, kind in kinds.items() if kind is not None}


TRAIN = partial(train, ENV, make_solver, output="unused")
HOMES: dict[str, Any] = {"": TRAIN, "labels.": Labels, "validation.": ValidationSettings, "optimiser": Optimiser}
GIVEN = {"": train, "labels.": Labels, "validation.": ValidationSettings, "optimiser": Optimiser}
SETTINGS = [(home, name, kind) for home, function in GIVEN.items() for name, kind in numbers(function).items()]


@pytest.mark.parametrize(("home", "name", "kind"), SETTINGS, ids=str)
def test_every_number_has_a_range(
    home: str, name: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number of `train` or of its groups may be negative, endless or none, nor 0 but where that means something."""
    monkeypatch.chdir(tmp_path)
    said = name if home == "optimiser" else f"{home}{name}"
    for value in (*BAD[kind], *(() if name in ZERO else (0,))):
        with pytest.raises(ArgumentError) as refusal:
            HOMES[home](**{name: value})
        assert str(refusal.value).startswith(f"{said}: {value} is not allowed; it must be ")
    assert not list(tmp_path.iterdir())


def test_numbers_within_others() -> None:
    """Those in pairs and lists have a range, too."""
    for bad in ((0.9, 1.0), (-0.1, 0.9), (math.nan, 0.9)):
        with pytest.raises(ArgumentError, match=r"^betas: .* is not allowed; it must be at least 0 and below 1$"):
            Optimiser(betas=bad)
    with pytest.raises(ArgumentError, match=r"^validation\.sizes: 0 is not allowed; it must be at least 1"):
        ValidationSettings(sizes=[5, 0])
    for bad in ((0, 5), (5, -1), (6, 5)):
        with pytest.raises(ArgumentError, match=r"^sizes: "):
            train(ENV, make_solver, sizes=bad)


PARTS = [(kind, name, of) for kind in (*ALGORITHMS.values(), *POLICIES.values()) for name, of in numbers(kind).items()]


@pytest.mark.parametrize(("kind", "name", "of"), PARTS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_parts_refuse_in_words(kind: type, name: str, of: type) -> None:
    """An algorithm or a policy is not built with a number below 0 or none, and refuses others in words."""
    needed = {"base": partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)}
    given = {key: needed[key] for key in inspect.signature(kind).parameters if key in needed}
    first = (ENV.feature_dims,) if kind in POLICIES.values() else ()
    for value in (-1, *(() if of is int else (math.nan,))):
        with pytest.raises(NcogymError, match=name):
            kind(*first, **given, **{name: value})
    for value in (0, *(() if of is int else (math.inf,))):
        with contextlib.suppress(NcogymError):
            kind(*first, **given, **{name: value})


def test_counts_of_an_algorithm_have_an_end() -> None:
    """Rollouts, latents and the like that nothing can count are refused before training, in one line."""
    huge = 2**70
    policy = AttentionPolicy(ENV.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    source = Generated(ENV, 6, 6, 60)
    for algorithm in (SelfLabelling(huge), Imitation(huge), POMO(huge), PPO(epochs=huge), Reinforce(rollouts=huge)):
        with pytest.raises(ArgumentError, match=rf"^algorithm\.\w+: {huge} is not allowed; it must be at least 0 and"):
            TrainingModule(policy, algorithm, source, Optimiser(), 10, 10, 0)


def test_check_by_hand() -> None:
    """Bounds hold as they say, None passes, and the words name those that there are."""
    check("a", None, least=1)
    check("a", 1, least=1, most=1)
    check("a", 0.5, above=0, below=1)
    for value, bounds, words in (
        (0, {"above": 0}, "above 0"),
        (1, {"below": 1, "least": 0}, "at least 0 and below 1"),
        (3, {"most": 2}, "at most 2"),
        ("1", {"least": 1}, "at least 1"),
        (math.nan, {}, "a finite number"),
    ):
        with pytest.raises(ArgumentError, match=f"^a: {value} is not allowed; it must be {words}$"):
            check("a", value, **bounds)
