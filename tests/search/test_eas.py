from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, GraphPolicy
from ncogym.rollout import act, encode
from ncogym.search import EAS, Sampling, eas

VARIANTS = ("embeddings", "layer", "table")


def small(env, kind=AttentionPolicy):
    """Return an untrained policy for a problem, the same in each run."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return kind(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()


# ---------------------------------------------------------------------- it searches


@pytest.mark.parametrize("variant", VARIANTS)
def test_beats_as_many_samples_of_the_policy(rng, variant: str) -> None:
    """An untrained policy is tuned, so that 600 rollouts find far shorter tours than 600 samples."""
    env = make("tsp", num_nodes=20)
    policy, instances = small(env), env.generate(8, rng)
    search = EAS(policy, variant, rollouts=20, learning_rate=0.02)
    mean = {
        s.name: sum(found.objective for found in s(env, instances, MaxRollouts(600), rng)) / 8
        for s in (Sampling(policy), search)
    }
    assert mean[search.name] < 0.95 * mean["sampling"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_tuned_is_what_acts(rng, monkeypatch, variant: str) -> None:
    """The mean rollout, and not only the best of many, becomes shorter from the first round to the last five."""
    env, lengths = make("tsp", num_nodes=20), []
    instances = env.generate(4, rng)

    def watched(*args, **kwargs):
        built = act(*args, **kwargs)
        lengths.append(-built.reward.mean())
        return built

    monkeypatch.setattr("ncogym.search.base.act", watched)
    EAS(small(env), variant, rollouts=20, learning_rate=0.02)(env, instances, MaxRollouts(600), rng)
    assert sum(lengths[-5:]) / 5 < 0.95 * lengths[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_is_its_instances_alone(env, policy, instances, monkeypatch, variant: str) -> None:
    """With the same noise each instance of a batch finds what it finds alone, to the last tour."""
    noise = torch.rand(30, 7, 3, 7, generator=torch.Generator().manual_seed(1))

    def search(rows: slice):
        numbers, built = iter(noise), []

        def noisy(*args, **kwargs):
            built.append(act(*args, **kwargs, noise=next(numbers)[:, rows]))
            return built[-1]

        monkeypatch.setattr("ncogym.search.base.act", noisy)
        generator = torch.Generator().manual_seed(2)
        solver = EAS(policy, variant, rollouts=7, learning_rate=0.02)
        found = solver(env, instances[rows], MaxRollouts(7 * 20), generator)
        return torch.stack([each.actions for each in built], dim=1), [s.objective for s in found]

    together, best = search(slice(None))
    for row in range(3):
        alone, own = search(slice(row, row + 1))
        assert (alone[0] == together[row]).float().mean() > 0.99  # rounding may decide a near tie
        assert own[0] == pytest.approx(best[row], rel=1e-6)
    assert not torch.equal(together[:, 0], together[:, -1])


def test_nothing_is_tuned_by_the_zeroth_step(env, policy, instances) -> None:
    """Before the first step an encoding with a layer gives the logits of the policy itself."""
    state = env.start(instances, 2)
    state = env.advance(state, torch.tensor([[0, 1]] * 3))
    step = env.step_features(state)
    with torch.inference_mode():
        encoded = encode(env, policy, instances)
        layered = eas._layered(policy, encoded, torch.Generator().manual_seed(1))
        found = [policy.logits(each, step) for each in (encoded, layered)]
    assert (layered.inner != 0).all()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_layer_reads_scalars_as_the_policy_does(rng) -> None:
    """The same holds where a step shows scalars and instances are encoded in parts."""
    env = make("cvrp", num_customers=6)
    policy, instances = small(env), env.generate(3, rng)
    state = env.advance(env.start(instances, 2), torch.tensor([[1, 2]] * 3))
    step = env.step_features(state)
    with torch.inference_mode():
        encoded = encode(env, policy, instances, budget_bytes=1)
        found = [policy.logits(each, step) for each in (encoded, eas._layered(policy, encoded, rng))]
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_table_multiplies_the_odds_of_the_incumbent(env, policy, instances, rng, monkeypatch) -> None:
    """Between two actions at the incumbent's node, the odds are those of the policy to the power, times sigma."""
    shown = []

    def watched(env, policy, encoded, instances, decoding, *args, **kwargs):
        built = act(env, policy, encoded, instances, decoding, *args, **kwargs)
        shown.append((encoded, decoding, built.actions))
        return built

    monkeypatch.setattr("ncogym.search.base.act", watched)
    EAS(policy, "table", rollouts=1, alpha=0.7, sigma=5.0)(env, instances, MaxRollouts(2), rng)
    (plain, _, built), (tabled, decoding, _) = shown
    tour = built[:, 0]
    state = env.start(instances)
    for step in range(1, 5):
        state = env.advance(state, tour[:, step - 1 : step])
        with torch.no_grad():
            was, now = (policy.logits(e, env.step_features(state))[:, 0] for e in (plain, tabled))
        now = now / decoding.temperature
        taken, other = tour[:, step : step + 1], tour[:, step + 1 : step + 2]
        odds = now.gather(1, taken) - now.gather(1, other)
        expected = 0.7 * (was.gather(1, taken) - was.gather(1, other)) + torch.tensor(5.0).log()
        torch.testing.assert_close(odds, expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- it leaves the policy alone


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_policy_is_left_as_it_was(env, instances, rng, variant: str, training: bool) -> None:
    """Weights stay bit-identical, and flags, gradients and mode stay, too."""
    policy = small(env).train(training)
    next(policy.parameters()).requires_grad_(False)
    flags = [p.requires_grad for p in policy.parameters()]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    EAS(policy, variant, rollouts=5, learning_rate=0.1)(env, instances, MaxRollouts(30), rng)
    assert policy.training is training
    assert [p.requires_grad for p in policy.parameters()] == flags
    assert all(p.grad is None for p in policy.parameters())
    after = policy.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# ---------------------------------------------------------------------- budgets


@pytest.mark.parametrize("rollouts", [1, 4, 5, 13, 50])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rollouts_are_those_of_the_budget(env, policy, instances, rng, variant: str, rollouts: int) -> None:
    """Exactly as many rollouts are built as the budget allows, each solution is checked, and the name is told."""
    found = EAS(policy, variant, rollouts=5)(env, instances, MaxRollouts(rollouts), rng)
    assert [s.rollouts for s in found] == [rollouts] * 3
    actions = torch.stack([s.actions for s in found])
    assert [s.objective for s in found] == env.objective(instances, actions[:, None])[:, 0].tolist()
    assert all(s.feasible and s.solver in ("eas", "eas-lay", "eas-tab") for s in found)


@pytest.mark.parametrize("budget", [None, Budget()])
def test_steps_end_the_search_where_nothing_limits(env, policy, instances, rng, budget) -> None:
    """Without a limit it takes its number of steps."""
    assert EAS(policy, rollouts=4, steps=3)(env, instances, budget, rng)[0].rollouts == 12


@pytest.mark.parametrize("variant", VARIANTS)
def test_seconds_end_the_search(env, policy, instances, rng, ticking, variant: str) -> None:
    """A budget in seconds is kept, with several rounds in it."""
    found = EAS(policy, variant, rollouts=10)(env, instances, MaxSeconds(1), rng)  # of each of three instances
    assert 0.5 < found[0].seconds < 1.05
    assert found[0].rollouts > 8


def test_patience_ends_the_search(env, policy, instances, rng) -> None:
    """On tours of seven nodes nothing improves for long."""
    found = EAS(policy, rollouts=20)(env, instances, Budget(patience=200), rng)
    assert 200 <= found[0].rollouts < 5000


@pytest.mark.parametrize("variant", VARIANTS)
def test_cancelled_search_returns_the_best_so_far(env, policy, instances, rng, monkeypatch, variant: str) -> None:
    """When it is interrupted in its third round, the best checked solution of three rounds is the answer."""
    budget, built = MaxRollouts(10_000), []

    def interrupted(*args, **kwargs):
        built.append(act(*args, **kwargs))
        if len(built) == 3:
            budget.cancel.set()
        return built[-1]

    monkeypatch.setattr("ncogym.search.base.act", interrupted)
    found = EAS(policy, variant, rollouts=7)(env, instances, budget, rng)
    best = env.objective(instances, torch.cat([each.actions for each in built], dim=1)).amin(1)
    assert [s.objective for s in found] == best.tolist()
    assert all(s.feasible and s.rollouts == 21 for s in found)


def test_trace_only_improves(env, policy, instances, rng) -> None:
    """Along the anytime curve rollouts grow and the objective falls to the answer."""
    for solution in EAS(policy, rollouts=4)(env, instances, MaxRollouts(100), rng):
        assert all(a.rollouts < b.rollouts and a.objective > b.objective for a, b in pairwise(solution.trace))
        assert solution.trace[-1].objective == solution.objective


def test_same_seed_same_answer(env, policy, instances) -> None:
    """The generator's seed decides every draw, whatever the mode of the caller."""
    tours = []
    for mode in (True, False):
        with torch.inference_mode(mode):
            found = EAS(policy, rollouts=5)(env, instances, MaxRollouts(20), torch.Generator().manual_seed(1))
        tours.append([s.actions.tolist() for s in found])
    assert tours[0] == tours[1]


# ---------------------------------------------------------------------- every problem, as far as it goes


PROBLEMS = [
    ({"name": "tsp", "num_nodes": 6}, AttentionPolicy, VARIANTS),
    ({"name": "tsp", "num_nodes": 6}, GraphPolicy, VARIANTS),
    ({"name": "cvrp", "num_customers": 6}, AttentionPolicy, VARIANTS),
    ({"name": "atsp", "num_nodes": 6}, AttentionPolicy, VARIANTS),
    ({"name": "knapsack", "num_items": 8}, AttentionPolicy, ("embeddings", "layer")),
    ({"name": "jssp", "num_jobs": 3, "num_machines": 3}, GraphPolicy, ("embeddings", "layer")),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("problem", "kind", "offered"), PROBLEMS)
def test_every_problem(rng, problem, kind, offered, variant: str) -> None:
    """A few rollouts of each problem are feasible, or the variant is refused in one line."""
    if kind is GraphPolicy:
        pytest.importorskip("torch_geometric")
    env = make(**problem)
    policy, instances = small(env, kind), env.generate(2, rng)
    search = EAS(policy, variant, rollouts=4, learning_rate=0.05)
    if variant in offered:
        found = search(env, instances, MaxRollouts(18), rng)
        assert all(s.feasible and s.rollouts == 18 for s in found)
    else:
        with pytest.raises(UnsupportedFeatures, match=f"^variant: '{variant}' is not allowed") as refused:
            search(env, instances, MaxRollouts(18), rng)
        assert "\n" not in str(refused.value)


def test_policy_without_a_bias_gets_a_table(env, instances, rng) -> None:
    """A pointer that adds nothing to its logits still has room for a table."""
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2, feedforward=8, edge_bias=False).eval()
    found = EAS(policy, "table", rollouts=5)(env, instances, MaxRollouts(20), rng)
    assert all(s.feasible for s in found)


def test_fields_may_be_chosen(env, policy, instances, rng) -> None:
    """What is not tuned stays, and a field that is not there is refused with those that are."""
    assert EAS(policy, tuned=("logit_keys",), rollouts=5)(env, instances, MaxRollouts(10), rng)[0].feasible
    with pytest.raises(UnsupportedFeatures, match="tuned: 'tables' is not allowed; AttentionPolicy encodes keys"):
        EAS(policy, tuned=("tables",))(env, instances, MaxRollouts(10), rng)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rollouts", 0),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("imitation", -0.1),
        ("alpha", 0.0),
        ("sigma", 0.9),
    ],
)
def test_bad_values_are_refused(policy, argument: str, value: float) -> None:
    """A value that makes no sense is told with what is allowed."""
    with pytest.raises(ArgumentError, match=f"{argument}: {value} is not allowed; it must be"):
        EAS(policy, **{argument: value})
