from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest
import torch

from ncogym import pretrained
from ncogym.baselines import SOLVERS
from ncogym.budget import MaxRollouts
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import CheckpointError
from ncogym.policies import AttentionPolicy, Latent, Policy, PolyNet, Population
from ncogym.pretrained import available, find_policy, load_card, load_policy, save_policy
from ncogym.search import SEARCHES

CARD = {"env": {"name": "tsp", "arguments": {"num_nodes": 5}}, "sizes": [4, 9], "training": {"steps": 3}}


@pytest.fixture(scope="module")
def policy() -> Policy:
    """An attention policy of random weights, none of its arguments at its default."""
    dims = make("tsp").feature_dims
    arguments = {"norm": "rms", "pre_norm": True, "clip": 5.0, "edge_bias": False, "edge_attention": True}
    return AttentionPolicy(dims, dim=12, num_layers=2, num_heads=3, feedforward=8, **arguments)


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    """That policy in a folder."""
    save_policy(policy, tmp_path / "deep" / "tiny", CARD)
    return tmp_path / "deep" / "tiny"


def test_load_gives_back_what_was_saved(policy: Policy, folder: Path) -> None:
    """Weights, arguments and card come back equal, the policy in evaluation mode and named as it was asked for."""
    loaded = load_policy(folder)
    assert loaded.name == str(folder)
    assert loaded.card.items() >= CARD.items()
    assert loaded.card["policy"]["parameters"] == sum(p.numel() for p in policy.parameters())
    assert type(loaded.policy) is AttentionPolicy
    assert (loaded.policy.arguments(), loaded.policy.dims) == (policy.arguments(), policy.dims)
    assert not any(module.training for module in loaded.policy.modules())
    ours, theirs = policy.state_dict(), loaded.policy.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("kind", [Population, Latent, PolyNet])
def test_load_gives_back_a_policy_within_a_policy(tmp_path: Path, kind: type[Policy]) -> None:
    """A conditioned policy comes back with its base, and no weight of either differs."""
    base = functools.partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=8, norm="layer")
    policy = kind(make("tsp").feature_dims, base=base)
    save_policy(policy, tmp_path, CARD)
    loaded = load_policy(tmp_path).policy
    assert type(loaded) is kind
    assert loaded.arguments() == policy.arguments()
    ours, theirs = policy.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_unknown_base_is_refused(tmp_path: Path) -> None:
    """A card whose base is of no known class is refused in one line."""
    base = functools.partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=8)
    save_policy(Population(make("tsp").feature_dims, members=2, base=base), tmp_path, CARD)
    card = json.loads((tmp_path / "card.json").read_text())
    card["policy"]["arguments"]["base"]["class"] = "os.system"
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"policy class 'os\.system' is not known; allowed are AttentionPolicy"):
        load_policy(tmp_path)


def test_half_the_bytes_are_the_weights_rounded(policy: Policy, folder: Path, tmp_path: Path) -> None:
    """Weights written in half the bytes come back as float32, each rounded to float16 and no more."""
    save_policy(policy, tmp_path / "half", CARD, half=True)
    size = {
        name: (path / "weights.safetensors").stat().st_size
        for name, path in (("whole", folder), ("half", tmp_path / "half"))
    }
    parameters = sum(p.numel() for p in policy.parameters())
    assert size["whole"] - size["half"] == pytest.approx(2 * parameters, rel=0.05)
    loaded = load_policy(tmp_path / "half").policy.state_dict()
    for name, value in policy.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float())


def test_folder_holds_nothing_pickled(folder: Path) -> None:
    """A policy on disk is safetensors and JSON, and nothing else."""
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "card.json"}
    json.loads((folder / "card.json").read_text())
    assert (folder / "weights.safetensors").read_bytes()[8:9] == b"{"


def test_shipped_name_wins_over_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ships is loaded by its name, wherever the caller stands."""
    monkeypatch.setattr(pretrained, "SHIPPED", folder.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert available() == ["tiny"]
    assert load_policy("tiny").name == "tiny"


def test_everything_that_ships_loads() -> None:
    """Each policy that ships with the package loads, and its card says sizes and problem."""
    for name in available():
        loaded = load_policy(name)
        low, high = loaded.card["sizes"]
        assert 0 < low <= high
        assert find_policy(loaded.card["env"]["name"], low, (loaded.card["policy"]["class"],)) is not None


def test_nearest_sizes_are_found(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size inside the training sizes is preferred, then the nearest; another problem's policies do not count."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    for name, problem, sizes in [("a", "tsp", [10, 20]), ("b", "tsp", [40, 60]), ("c", "other", [1, 99])]:
        save_policy(policy, tmp_path / name, {"env": {"name": problem}, "sizes": sizes})
    assert [find_policy("tsp", size) for size in (1, 15, 29, 31, 50, 500)] == ["a", "a", "a", "b", "b", "b"]
    assert find_policy("other", 5) == "c"
    assert find_policy("third", 5) is None


def test_plain_searches_find_plain_policies(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies that take conditions are found only where their class is asked for."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    base = functools.partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=8)
    for name, each, sizes in [
        ("plain", policy, [10, 20]),
        ("many", Population(policy.dims, members=2, base=base), [50, 60]),
        ("latent", Latent(policy.dims, base=base), [90, 100]),
    ]:
        save_policy(each, tmp_path / name, {"env": {"name": "tsp"}, "sizes": sizes})
    assert find_policy("tsp", 55) == "plain"
    assert find_policy("tsp", 55, ("Population",)) == "many"
    assert find_policy("tsp", 10, ("Population", "Latent")) == "many"
    assert find_policy("tsp", 95, ("Population", "Latent")) == "latent"
    assert find_policy("tsp", 55, ("PolyNet",)) is None


def test_unknown_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a shipped name nor a policy's folder: the line quotes it and lists what ships."""
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    with pytest.raises(CheckpointError, match=r"policy: 'nobody' is neither a shipped policy \(none\) nor a folder"):
        load_policy("nobody")
    with pytest.raises(CheckpointError, match=r"nor a folder with card\.json"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a policy's card"),
        ("[]", "not a policy's card"),
        ('{"format": 1}', "not a policy's card"),
        ('{"policy": {"class": "AttentionPolicy", "dims": {}}, "env": {}}', "not a policy's card"),
        ("[" * 10**5, "not a policy's card .RecursionError"),
        (" " * 17 * 2**20, "not a policy's card .ValueError: over 16 MB"),
    ],
)
def test_broken_card_is_refused(folder: Path, text: str, words: str) -> None:
    """A card that is no JSON or lacks what it must have is refused by its path."""
    (folder / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=words) as refused:
        load_card(folder)
    assert str(folder / "card.json") in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 99, "format 99 is not allowed; this version reads 1"),
        ("class", "os.system", "policy class 'os.system' is not known; allowed are AttentionPolicy"),
        ("arguments", {"dim": 24}, "the weights do not fit the card"),
        ("arguments", {"width": 12}, "the weights do not fit the card"),
        ("arguments", {"dim": 0}, "the weights do not fit the card"),
        ("dims", {"node": 3, "roles": 2}, "the weights do not fit the card"),
        (
            "dims",
            {"node": 2, "edge": 1, "roles": 2},
            r"layers\.0\.edge_scores\.0\.weight: \[16, 1\], in the file \[16, 2\]",
        ),
        # what would take hours and terabytes to build
        ("arguments", {"num_layers": 10**9}, "the weights do not fit the card .it has many more layers than they"),
        ("arguments", {"dim": 10**9, "num_heads": 1}, "the weights do not fit the card"),
        ("arguments", {"feedforward": 10**12}, "the weights do not fit the card"),
        ("dims", {"node": 2, "kinds": 10**12, "edge": 1, "roles": 2}, "the weights do not fit the card"),
        ("dims", {"node": 2, "roles": 10**30}, "the weights do not fit the card"),
        # what a constructor was not made for
        ("arguments", {"num_heads": 0.5}, "the weights do not fit the card"),
        ("arguments", {"clip": None}, "the weights do not fit the card"),
        ("arguments", [], "the weights do not fit the card"),
        ("class", ["AttentionPolicy"], "the weights do not fit the card"),
        ("dims", {"node": "2"}, "the weights do not fit the card"),
    ],
)
def test_card_that_does_not_fit_is_refused(folder: Path, key: str, value: object, words: str) -> None:
    """A card of another format, class or shape than the weights is refused in one line."""
    card = json.loads((folder / "card.json").read_text())
    (card if key == "format" else card["policy"])[key] = value
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=words) as refused:
        load_policy(folder)
    assert "\n" not in str(refused.value)


def test_a_base_without_end_is_refused(folder: Path) -> None:
    """A policy within a policy, hundreds of times, is one line."""
    depth, text = 300, (folder / "card.json").read_text()
    card = json.loads(text)
    arguments = json.dumps(card["policy"]["arguments"])
    card["policy"] |= {"class": "Population", "arguments": "HERE"}
    nested = '{"base": {"class": "Population", "arguments": ' * depth + arguments + "}}" * depth
    (folder / "card.json").write_text(json.dumps(card).replace('"HERE"', nested))
    with pytest.raises(CheckpointError, match="the weights do not fit the card") as refused:
        load_policy(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [Population, PolyNet, Latent])
@pytest.mark.parametrize("norm", ["batch", "rms"])
def test_nothing_is_left_to_chance_by_loading(tmp_path: Path, kind: type[Policy], norm: str) -> None:
    """Loading draws no weights, least of all for each member, and every tensor that is not saved is there, too."""
    base = functools.partial(AttentionPolicy, dim=8, num_layers=1, num_heads=2, feedforward=8, norm=norm)
    arguments = {"members": 300, "alike": False} if kind is Population else {}
    policy = kind(make("tsp").feature_dims, base=base, **arguments)
    save_policy(policy, tmp_path, CARD, half=True)
    before = torch.get_rng_state()
    loaded = load_policy(tmp_path).policy
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.arguments() == policy.arguments()
    assert all(torch.equal(one, other) for one, other in zip(policy.buffers(), loaded.buffers(), strict=True))
    for one, other in zip(policy.parameters(), loaded.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one.half().float(), other)
        assert other.requires_grad
        assert other.data_ptr() % 16 == 0


def test_others_may_read_what_was_saved(policy: Policy, tmp_path: Path) -> None:
    """Both files have the permissions that the umask leaves to new files."""
    before = os.umask(0o022)
    try:
        save_policy(policy, tmp_path, CARD)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        "card.json": "0o644",
        "weights.safetensors": "0o644",
    }


@pytest.mark.parametrize("harm", ["missing", "empty", "cut"])
def test_damaged_weights_are_refused(folder: Path, harm: str) -> None:
    """Weights that are missing or cut short are refused in one line, by their folder."""
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if harm != "missing":
        weights.write_bytes(whole[: len(whole) // 2 if harm == "cut" else 0])
    with pytest.raises(CheckpointError, match="the weights do not fit the card") as refused:
        load_policy(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", available())
def test_every_shipped_policy_beats_a_simple_rule(name: str) -> None:
    """The weights fit their problem, and a few rollouts are better than the plainest heuristic that takes it."""
    loaded = load_policy(name)
    described, (low, _) = loaded.card["env"], loaded.card["sizes"]
    env = make(described["name"], **described["arguments"]).resized(low)
    rng = torch.Generator().manual_seed(0)
    instances = env.generate(4, rng)
    rules = ("nearest-neighbour", "ratio-greedy", "dispatch:MWKR", "degree-greedy")
    rule = next(solver for solver in (SOLVERS[rule]() for rule in rules) if solver.supports(env, instances))
    plain = [s.objective for s in rule(env, instances, None, rng)]
    able = [n for n, s in SEARCHES.items() if isinstance(s, type) and isinstance(loaded.policy, s.policies or ())]
    solver = next(iter(able), "auto")
    found = make_solver(solver, loaded.policy)(env, instances, MaxRollouts(32), rng)
    assert all(s.feasible for s in found)
    better = sum(s.objective for s in found) - sum(plain)
    assert (better if env.sense == "max" else -better) > 0


def test_shipped_policies_are_small_and_measured() -> None:
    """A clone stays light, and every card says what the weights reached."""
    assert sum(path.stat().st_size for path in pretrained.SHIPPED.rglob("*")) < 40e6
    for name in available():
        assert load_policy(name).card["measured"]["gap_percent"]
