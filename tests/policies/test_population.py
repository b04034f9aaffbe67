from __future__ import annotations

import copy
import functools

import pytest
import torch

from ncogym import make
from ncogym.errors import ArgumentError, CheckpointError, UnsupportedFeatures
from ncogym.features import join_steps
from ncogym.policies import POLICIES, AttentionPolicy, Conditioned, GraphPolicy, Latent, PolyNet, Population
from ncogym.policies.decoding import Sample
from ncogym.policies.graph import FEW
from ncogym.policies.population import repeated
from ncogym.rollout import act, steps_seen

SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}
CASES = {
    "tsp": (make("tsp", num_nodes=6), AttentionPolicy),
    "cvrp": (make("cvrp", num_customers=5), AttentionPolicy),
    "knapsack": (make("knapsack", num_items=7), AttentionPolicy),
    "jssp": (make("jssp", num_jobs=3, num_machines=2), GraphPolicy),
    "graph": (make("tsp", num_nodes=6), GraphPolicy),
}
MEMBERS, BATCH = 3, 2


@pytest.fixture(params=CASES)
def case(request):
    """A problem and what makes the base."""
    env, kind = CASES[request.param]
    if kind is GraphPolicy:
        pytest.importorskip("torch_geometric")
    torch.manual_seed(0)
    return env, functools.partial(kind, **SMALL)


def shaken(policy, scale=0.2):
    """Move all weights away from where they are, so that members differ and no part is idle."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return policy.eval()


def shown(env, plain, rng):
    """Return what a policy reads of instances and of a few random rollouts' steps."""
    instances = env.generate(BATCH, rng)
    features = env.instance_features(instances)
    with torch.no_grad():
        found = act(env, plain, plain.encode(features), instances, Sample(), rng, rollouts=2)
    return features, join_steps(steps_seen(env, instances, found.actions))


def per_row(step, count):
    """Show the same steps to each of the rows of an instance."""
    return type(step)(*(None if value is None else value.repeat_interleave(count, 0) for value in step))


# ---------------------------------------------------------------------- the function


@pytest.mark.parametrize("kind", [Population, Latent, PolyNet])
def test_at_first_every_condition_acts_like_the_base(case, rng, kind):
    """On top of a trained policy all conditions have its logits."""
    env, base = case
    plain = shaken(base(env.feature_dims))
    policy = kind(env.feature_dims, base=base).eval()
    policy.begin_from(plain)
    features, step = shown(env, plain, rng)
    condition = policy.draw(5, rng) if kind is Latent else policy.everyone[:, -5:]
    rows = policy.under(policy.encode(features), condition)
    expected = plain.logits(plain.encode(features), step).repeat_interleave(5, 0)
    torch.testing.assert_close(policy.logits(rows, per_row(step, 5)), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("inference", [False, True])
def test_rows_are_the_members_alone(case, rng, inference):
    """Under all members, and under some of them in any order, each row reads as that member's plain policy does."""
    env, base = case
    policy = shaken(Population(env.feature_dims, members=MEMBERS, base=base))
    alone = [policy.member(k) for k in range(MEMBERS)]
    features, step = shown(env, alone[0], rng)
    some = torch.tensor([[2, 0], [1, 1]])
    with torch.inference_mode(inference):
        encoded = policy.encode(features)
        each = [(plain, plain.encode(features)) for plain in alone]
        for condition in (policy.everyone, policy.everyone.clone(), some, torch.tensor([[1]])):
            count = condition.shape[1]
            rows = policy.under(encoded, condition)
            for read in ("logits", "reading"):
                found = getattr(policy, read)(rows, per_row(step, count)).unflatten(0, (BATCH, count))
                for b in range(BATCH):
                    for c, k in enumerate(condition.expand(BATCH, -1)[b].tolist()):
                        plain, own = each[k]
                        expected = getattr(plain, read)(own, step)[b]
                        torch.testing.assert_close(found[b, c], expected, rtol=1e-4, atol=1e-5)
            summary = policy.summary(rows).unflatten(0, (BATCH, count))
            numbers = condition.expand(BATCH, -1)[0].tolist()
            for c, k in enumerate(numbers):
                torch.testing.assert_close(summary[0, c], each[k][0].summary(each[k][1])[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(*(plain.logits(own, step).nan_to_num(0, 0, 0) for plain, own in each[:2]))


def test_gradients_reach_the_encoder_and_the_right_member(case, rng):
    """A row's gradient is its member's alone: that of others is exactly 0, and all are those of the plain policy."""
    env, base = case
    policy = shaken(Population(env.feature_dims, members=MEMBERS, base=base))
    plain = policy.member(1)
    features, step = shown(env, plain, rng)

    def loss(logits):
        return logits.log_softmax(-1).masked_fill(logits == -torch.inf, 0).square().mean()

    loss(plain.logits(plain.encode(features), step)).backward()
    for condition, row in ((policy.everyone, 1), (torch.tensor([[2, 0, 1]]), 2)):
        policy.zero_grad()
        rows = policy.under(policy.encode(features), condition)
        loss(policy.logits(rows, per_row(step, MEMBERS))[row::MEMBERS]).backward()
        for name, parameter in plain.named_parameters():
            found = policy.base.get_parameter(name).grad
            if parameter.grad is None:
                assert found is None or not found.any(), name
            elif found.shape == parameter.shape:  # of the encoder
                torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-4)
            else:
                torch.testing.assert_close(found[1], parameter.grad, rtol=1e-3, atol=1e-4)
                assert not found[[0, 2]].any(), name


@pytest.mark.parametrize("kind", [Population, Latent])
@pytest.mark.parametrize("name", ["tsp", "cvrp"])
def test_rows_are_a_pointer(name, rng, kind):
    """The kernel that the rows are offered to builds what the plain loop does, under conditions that differ."""
    env, attention = CASES[name]
    policy = shaken(kind(env.feature_dims, base=functools.partial(attention, **SMALL)), 0.05)
    instances = env.generate(BATCH, rng)
    condition = policy.draw(4, rng) if kind is Latent else policy.everyone[:, :4].clone()
    with torch.inference_mode():
        encoded = policy.encode(env.instance_features(instances))
        rows = policy.under(encoded, condition)
        pointer = policy.as_pointer(rows)
        state = env.start(instances[torch.arange(BATCH).repeat_interleave(4)], 2)
        action = torch.tensor([[1, 2]]).expand(4 * BATCH, -1)
        step = env.step_features(env.advance(state, action))
        found = policy.logits(rows, step)
        assert pointer is not None
        for row in range(4 * BATCH):
            for i in range(2):
                nodes, seen = step.nodes[row, i], step.action_mask[row, i]
                query = sum(pointer.queries[row, role, node] for role, node in enumerate(nodes.tolist()))
                if pointer.scalars is not None:
                    query = query + pointer.scalars[row] @ step.scalars[row, i]
                heads = query.view(pointer.keys.shape[1], -1, 1)
                scores = (pointer.keys[row] @ heads).squeeze(-1) / heads.shape[1] ** 0.5
                weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
                glimpse = (weights.unsqueeze(1) @ pointer.values[row]).flatten()
                logits = torch.tanh(pointer.logit_keys[row] @ glimpse / len(glimpse) ** 0.5)
                logits = logits + sum(pointer.bias[row, role, node] for role, node in enumerate(nodes.tolist()))
                expected = (pointer.clip * logits).masked_fill(~seen, -torch.inf)
                torch.testing.assert_close(found[row, i], expected, rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).nan_to_num(0, 0, 0).abs().max() > 1e-3


def test_a_layer_is_no_pointer(rng):
    """What a kernel knows nothing of is not offered to one."""
    env, attention = CASES["tsp"]
    policy = PolyNet(env.feature_dims, vectors=4, base=functools.partial(attention, **SMALL)).eval()
    features = env.instance_features(env.generate(BATCH, rng))
    assert policy.as_pointer(policy.under(policy.encode(features), policy.everyone)) is None


def test_rollouts_run_under_members(case, rng):
    """Acting under all members gives solutions of each, those of the first first."""
    env, base = case
    policy = shaken(Population(env.feature_dims, members=MEMBERS, base=base))
    instances = env.generate(BATCH, rng)
    with torch.inference_mode():
        encoded = policy.encode(env.instance_features(instances))
        found = act(env, policy, encoded, instances, Sample(), rng, rollouts=6, condition=policy.everyone)
    assert found.actions.shape[:2] == (BATCH, 6)
    assert found.reward.isfinite().all()


# ---------------------------------------------------------------------- what is shared


def test_the_encoder_is_shared_and_the_decoder_is_not():
    """K members have the encoder's numbers once and the decoder's K times."""
    env, attention = CASES["cvrp"]
    plain = attention(env.feature_dims, **SMALL)
    count = {k: sum(p.numel() for p in make_population(env, k).parameters()) for k in (1, 2, 5)}
    assert count[1] == sum(p.numel() for p in plain.parameters())
    encoder = [plain.embed, plain.layers, plain.edge_bias.network[0]]
    decoder = count[1] - sum(p.numel() for module in encoder for p in module.parameters())
    assert count[2] - count[1] == decoder
    assert count[5] - count[1] == 4 * decoder


def make_population(env, members):
    """Return a small population."""
    return Population(env.feature_dims, members=members, base=functools.partial(AttentionPolicy, **SMALL))


def test_the_conditioned_policy_is_as_wide_as_its_base(case):
    """What bounds memory, and what a value head reads, are the base's."""
    env, base = case
    policy, plain = Population(env.feature_dims, members=2, base=base), base(env.feature_dims)
    for name in ("width", "numbers_per_action", "numbers_per_node", "numbers_per_pair"):
        assert getattr(policy, name) == getattr(plain, name)


def test_everyone_moves_and_is_not_saved():
    """The members' numbers go where the policy goes, copies have their own, and a file has none."""
    policy = make_population(CASES["tsp"][0], 3)
    assert policy.everyone is policy.everyone
    assert policy.everyone.tolist() == [[0, 1, 2]]
    assert copy.deepcopy(policy).everyone.tolist() == [[0, 1, 2]]
    assert policy.to("meta").everyone.device.type == "meta"
    assert not any("members" in name for name in policy.state_dict())
    assert AttentionPolicy(CASES["tsp"][0].feature_dims, **SMALL).everyone is None


# ---------------------------------------------------------------------- beginnings and cards


def test_begins_from_one_of_its_kind_and_from_its_base():
    """Weights of a population are taken over as they are, those of a plain policy by every member."""
    env = CASES["tsp"][0]
    one, other = shaken(make_population(env, 3)), make_population(env, 3)
    other.begin_from(one)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())
    plain = shaken(AttentionPolicy(env.feature_dims, **SMALL))
    other.begin_from(plain)
    for k in range(3):
        theirs = other.member(k).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", [Population, Latent, PolyNet])
def test_weights_that_do_not_fit_are_refused(kind):
    """Another shape, and another kind, are told in one line."""
    dims = CASES["tsp"][0].feature_dims
    policy = kind(dims, base=functools.partial(AttentionPolicy, **SMALL))
    wider = AttentionPolicy(dims, **{**SMALL, "dim": 32})
    for other in (wider, kind(dims, base=functools.partial(AttentionPolicy, **{**SMALL, "dim": 32}))):
        with pytest.raises(CheckpointError, match="cannot begin from") as refused:
            policy.begin_from(other)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [Population, Latent, PolyNet])
def test_the_arguments_are_nested(kind):
    """A card holds the base's class and arguments within those of the conditioned policy, and its class is known."""
    policy = kind(CASES["tsp"][0].feature_dims, base=functools.partial(AttentionPolicy, **SMALL))
    described = policy.arguments()["base"]
    assert described == {"class": "AttentionPolicy", "arguments": policy.base.arguments()}
    assert POLICIES[kind.__name__] is kind
    assert issubclass(kind, Conditioned)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (Population, {"members": 0}, "members: 0 is not allowed; it must be from 1 to 4096"),
        (Population, {"members": 10**12}, "members: 1000000000000 is not allowed; it must be from 1 to 4096"),
        (Population, {"base": Latent}, "base: Latent is not allowed; it must be a policy of no conditions"),
        (Latent, {"latent_dim": 0}, "latent_dim: 0 is not allowed"),
        (Latent, {"scale": 0.0}, "scale: 0.0 is not allowed; it must be above 0"),
        (PolyNet, {"vectors": 0}, "vectors: 0 is not allowed"),
        (PolyNet, {"vectors": 10**12}, "vectors: 1000000000000 is not allowed; it must be from 1 to 65536"),
        (PolyNet, {"hidden": 0}, "hidden: 0 is not allowed"),
    ],
)
def test_bad_arguments_are_refused(kind, arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        kind(CASES["tsp"][0].feature_dims, **{"base": functools.partial(AttentionPolicy, **SMALL), **arguments})


def test_a_plain_policy_takes_no_conditions(rng):
    """It says so."""
    env, attention = CASES["tsp"]
    policy = attention(env.feature_dims, **SMALL)
    encoded = policy.encode(env.instance_features(env.generate(BATCH, rng)))
    with pytest.raises(UnsupportedFeatures, match="AttentionPolicy takes no conditions"):
        policy.under(encoded, torch.zeros(1, 1))


def test_repeated_rows_lie_side_by_side(rng):
    """The rows of an instance are the same and follow one another; what is not there stays so."""
    env, attention = CASES["cvrp"]
    policy = attention(env.feature_dims, **SMALL).eval()
    encoded = policy.encode(env.instance_features(env.generate(BATCH, rng)))
    rows = repeated(encoded, 3)
    assert torch.equal(rows.keys, encoded.keys[[0, 0, 0, 1, 1, 1]])
    assert rows.context is None


def test_members_are_clones_at_first(case):
    """Unless they are to learn from scratch, all members begin with the same weights."""
    env, base = case
    policy = Population(env.feature_dims, members=MEMBERS, base=base)
    first, *others = [policy.member(number).state_dict() for number in range(MEMBERS)]
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())


def test_members_may_be_drawn_apart(case, rng):
    """A population that learns from scratch has one encoder and decoders that differ; cards say so."""
    env, base = case
    torch.manual_seed(0)
    policy = Population(env.feature_dims, members=MEMBERS, base=base, alike=False)
    assert policy.arguments()["alike"] is False
    alone = [dict(policy.member(number).named_parameters()) for number in range(MEMBERS)]
    differ = {name for name in alone[0] if not alone[0][name].equal(alone[1][name])}
    assert differ
    assert all(any(name.startswith(part) for part in policy.base.decoder) for name in differ)


def test_members_may_begin_apart(rng):
    """Where no trained policy comes before them, each is drawn by itself, all with the one encoder."""
    env, attention = CASES["tsp"]
    policy = Population(env.feature_dims, members=3, base=functools.partial(attention, **SMALL), alike=False).eval()
    assert policy.arguments()["alike"] is False
    one, other = policy.member(0), policy.member(2)
    features, step = shown(env, one, rng)
    torch.testing.assert_close(one.embeddings(features).nodes, other.embeddings(features).nodes)
    found = [plain.logits(plain.encode(features), step).nan_to_num(0, 0, 0) for plain in (one, other)]
    assert not torch.allclose(*found, atol=1e-3)


@pytest.mark.filterwarnings("error::UserWarning")
def test_members_compare_many_candidates(rng):
    """With more jobs than the plain products are the faster for, vmap still has a rule for all that a step does."""
    pytest.importorskip("torch_geometric")
    env = make("jssp", num_jobs=FEW + 1, num_machines=1)
    policy = shaken(Population(env.feature_dims, members=2, base=functools.partial(GraphPolicy, **SMALL)))
    plain = policy.member(1)
    features, step = shown(env, plain, rng)
    found = policy.logits(policy.under(policy.encode(features), policy.everyone), per_row(step, 2))[1::2]
    torch.testing.assert_close(found, plain.logits(plain.encode(features), step), rtol=1e-4, atol=1e-4)
