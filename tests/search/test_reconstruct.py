"""Re-construction, on every problem."""

from __future__ import annotations

import pytest
import torch

from ncogym.books import Progress
from ncogym.budget import MaxRollouts
from ncogym.composing import make_solver, needs_policy
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.search import reconstruct
from ncogym.search.multistart import MultiStart
from ncogym.search.reconstruct import Reconstruct
from ncogym.search.sampling import Sampling


def test_parts_are_rebuilt_and_the_rest_is_kept(tiny, rng, monkeypatch):
    """Every solution is allowed, prefixes are kept exactly, budgets too, and weights."""
    env, policy = tiny[0].resized(8), tiny[1]
    instances, kept, act = env.generate(3, rng), set(), reconstruct.act
    monkeypatch.setattr(reconstruct, "LENGTHS", (1, 2))

    def watched(acted, policy, encoded, image, *arguments, first_actions, **options):
        built = act(acted, policy, encoded, image, *arguments, first_actions=first_actions, **options)
        if first_actions is None or first_actions.dim() == 2:  # the first solutions
            return built
        given = first_actions.shape[-1]
        kept.add(given)
        assert torch.equal(built.actions[..., :given], first_actions)
        assert given < acted.horizon(image)
        return built

    offer = Progress.offer

    def refereed(progress, actions, rollouts=None):
        assert not env.violations(progress.instances, actions)
        return offer(progress, actions, rollouts)

    monkeypatch.setattr(reconstruct, "act", watched)
    monkeypatch.setattr(Progress, "offer", refereed)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    found = Reconstruct(policy, solutions=3, rollouts=2)(env, instances, MaxRollouts(70), rng)
    assert len(kept) > 1
    for each in found:
        assert each.feasible
        assert each.rollouts == 70
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())


@pytest.mark.parametrize(
    ("name", "size"),
    [("tsp", {"num_nodes": 20}), ("cvrp", {"num_customers": 20}), ("jssp", {"num_jobs": 6, "num_machines": 6})],
)
def test_it_beats_sampling(name, size, rng, policies):
    """An untrained policy does better in as many rollouts, when it may keep the better part of what there is."""
    env = make(name, **size)
    policy, instances = policies(env), env.generate(4, rng)
    mine, sampled = (
        solver(env, instances, MaxRollouts(128), rng)
        for solver in (Reconstruct(policy, solutions=4, rollouts=4, temperature=1.0), Sampling(policy))
    )
    assert sum(s.objective for s in mine) < 0.99 * sum(s.objective for s in sampled)


def test_it_goes_on_from_what_there_is(env, policy, instances, rng):
    """It is never worse than what it goes on from, and better somewhere."""
    start = MultiStart(policy)(env, instances, None, rng)
    progress = Progress(env, instances, None)
    progress.take(start)
    Reconstruct(policy, rounds=3).improve(progress, rng)
    found = progress.solutions("both")
    assert all(a.objective <= b.objective for a, b in zip(found, start, strict=True))
    assert any(a.objective < b.objective for a, b in zip(found, start, strict=True))


def test_the_incumbent_is_one_of_the_solutions(env, policy, instances, rng, monkeypatch):
    """With room for one solution alone, what is rebuilt is the best that there is."""
    best = Sampling(policy)(env, instances, MaxRollouts(500), rng)
    cut = []
    monkeypatch.setattr(env.task, "neighbourhood", lambda instance, actions, *_: cut.append(actions) or 1 / 0)
    progress = Progress(env, instances, MaxRollouts(600))
    progress.take(best)
    with pytest.raises(ZeroDivisionError):
        Reconstruct(policy, solutions=1).improve(progress, rng)
    lengths = env.objective(instances, cut[0])
    torch.testing.assert_close(lengths, progress.best.unsqueeze(1).expand_as(lengths))


def test_it_looks_at_all_images(env, policy, instances, rng, monkeypatch):
    """Rounds go through the images of the instance, and encode each once."""
    seen, encoded = [], []
    act, encode = reconstruct.act, reconstruct.encode
    monkeypatch.setattr(reconstruct, "act", lambda *a, **k: seen.append(a[3]["locs"][0, 0].tolist()) or act(*a, **k))
    monkeypatch.setattr(reconstruct, "encode", lambda *a, **k: encoded.append(a[2]) or encode(*a, **k))
    Reconstruct(policy, solutions=2, rollouts=1, images=4, rounds=11)(env, instances, None, rng)
    assert len(encoded) == 4
    assert len({tuple(place) for place in seen}) == 4
    assert seen[:4] == seen[4:8]


def test_images_are_as_many_as_fit_into_memory(env, policy, instances, rng, monkeypatch):
    """Where memory is short, the instance stands alone."""
    encoded, encode = [], reconstruct.encode
    monkeypatch.setattr(reconstruct, "encode", lambda *a, **k: encoded.append(a[2]) or encode(*a, **k))
    monkeypatch.setattr(reconstruct, "search_memory", lambda _: 1.0)
    Reconstruct(policy, solutions=2, rollouts=1, rounds=5)(env, instances, None, rng)
    assert len(encoded) == 1


def test_a_cancelled_search_returns_its_first_solutions(env, policy, instances, rng):
    """Cancelling ends it before the budget does."""
    budget = MaxRollouts(1000)
    budget.cancel.set()
    assert all(s.feasible and s.rollouts < 1000 for s in Reconstruct(policy)(env, instances, budget, rng))


@pytest.mark.parametrize(
    "wrong", [{"solutions": 0}, {"rollouts": 0}, {"images": 0}, {"rounds": 0}, {"share": 1.0}, {"temperature": 0.0}]
)
def test_bad_arguments_are_refused(policy, wrong):
    """The words name the argument."""
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Reconstruct(policy, **wrong)


@pytest.mark.parametrize("name", ["reconstruct", "multistart+symmetry+reconstruct", "nearest-neighbour+reconstruct"])
def test_it_composes_by_name(env, policy, instances, rng, name):
    """Alone, after searches, and after a baseline; it always needs a policy."""
    found = make_solver(name, policy)(env, instances, MaxRollouts(30), rng)
    assert [s.solver for s in found] == [name] * 3
    assert all(s.rollouts == 30 for s in found)
    assert needs_policy(name)
    with pytest.raises(ArgumentError, match="needs a policy"):
        make_solver(name)


@pytest.fixture
def policies():
    """Return a function that gives a small untrained policy for an environment."""
    from ncogym.policies import AttentionPolicy, GraphPolicy

    def made(env):
        kind = GraphPolicy if env.feature_dims.operation else AttentionPolicy
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            return kind(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()

    return made
