from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym import make
from ncogym.distribution import stack
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError, SolverNotInstalled, UnsupportedFeatures
from ncogym.features import FeatureDims, NodeFeatures, OperationGraph, StepFeatures, join_steps
from ncogym.policies.decoding import Greedy, Sample
from ncogym.policies.graph import GraphPolicy, _read_few, disjunctive_graph, nearest_neighbours
from ncogym.policies.layers import attention
from ncogym.pretrained import load_policy, save_policy
from ncogym.rollout import act, log_probs, replay, steps_seen

pytest.importorskip("torch_geometric")

SHOP = make("jssp", num_jobs=4, num_machines=3)
ENVS = {"shop": SHOP, "tour": make("tsp", num_nodes=9), "routes": make("cvrp", num_customers=9)}


def make_policy(env, **arguments) -> GraphPolicy:
    """Return a small policy whose weights are all away from zero, so that no part of it is idle."""
    torch.manual_seed(0)
    small = {"dim": 16, "num_layers": 2, "num_heads": 4, "feedforward": 32, "neighbours": 3}
    policy = GraphPolicy(env.feature_dims, **{**small, **arguments})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return policy.eval()


def recorded(env, policy, rng, batch=2, rollouts=3, instances=None):
    """Return instances, their encoding, random rollouts and what the policy saw at each step of these."""
    instances = env.generate(batch, rng) if instances is None else instances
    encoded = policy.encode(env.instance_features(instances))
    found = act(env, policy, encoded, instances, Sample(), rng, rollouts=rollouts)
    return instances, encoded, found, seen(env, instances, found.actions)


def seen(env, instances, actions):
    """Return what a policy sees at each step of given rollouts, with queries ``rollouts * steps``."""
    return join_steps(steps_seen(env, instances, actions))


def logits_of(env, policy, instances, steps):
    """Return the policy's logits of given steps."""
    return policy.logits(policy.encode(env.instance_features(instances)), steps)


# ---------------------------------------------------------------------- edges


def test_the_disjunctive_graph_is_its_definition(rng):
    """Edges go along jobs, both ways, and between all pairs on a machine, in each instance, skipping the absent."""
    jobs = torch.arange(3).repeat_interleave(4).expand(2, -1)
    machines = torch.randint(-1, 3, jobs.shape, generator=rng)
    present, edges = disjunctive_graph(jobs, machines)
    assert present.tolist() == [i for i, machine in enumerate(machines.flatten().tolist()) if machine >= 0]
    there = [(i // 12, jobs.flatten()[i].item(), machines.flatten()[i].item()) for i in present.tolist()]
    expected = []
    for i, (row, job, machine) in enumerate(there):
        if i and there[i - 1][:2] == (row, job):
            expected += [(i - 1, i, 0), (i, i - 1, 1)]
        expected += [(j, i, 3 if i == j else 2) for j, o in enumerate(there) if (o[0], o[2]) == (row, machine)]
    assert edges.values.sum(-1).eq(1).all()
    assert sorted(zip(*edges.ends.tolist(), edges.values.argmax(-1).tolist(), strict=True)) == sorted(expected)


@pytest.mark.parametrize("kinds", [None, torch.tensor([0, 1, 0, 0, 0, 0])])
def test_nearest_neighbours_are_its_definition(kinds, rng):
    """A node and its nearest ordinary nodes hear each other, depots hear and are heard; edges carry both moves."""
    moves = torch.rand(2, 6, 6, 2, generator=rng)
    edges = nearest_neighbours(moves, kinds, 2)
    depots = [] if kinds is None else kinds.nonzero().flatten().tolist()
    expected = set()
    for row in range(2):
        for i in range(6):
            others = sorted((j for j in range(6) if j != i and j not in depots), key=lambda j: moves[row, i, j, 0])
            heard = range(6) if i in depots else {*others[:2], *depots, i}
            expected |= {edge for j in heard for edge in ((6 * row + j, 6 * row + i), (6 * row + i, 6 * row + j))}
    found = list(zip(*edges.ends.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected
    for (j, i), values in zip(found, edges.values, strict=True):
        assert torch.equal(values, torch.cat([moves[i // 6, i % 6, j % 6], moves[i // 6, j % 6, i % 6]]))


def test_more_neighbours_than_nodes_are_all_nodes(rng):
    """In a small instance everyone hears everyone."""
    assert nearest_neighbours(torch.rand(1, 4, 4, 1, generator=rng), None, 10).ends.shape == (2, 16)


# ---------------------------------------------------------------------- operations


def test_the_names_of_jobs_and_machines_do_not_matter(rng):
    """Renumbered jobs have renumbered logits; renumbered machines change nothing."""
    policy = make_policy(SHOP)
    instances, encoded, found, steps = recorded(SHOP, policy, rng)
    logits = policy.logits(encoded, steps)
    order, names = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    new_name = order.argsort()
    renamed = instances.clone()
    renamed["duration"], renamed["machine"] = instances["duration"][:, order], names[instances["machine"][:, order]]
    others = seen(SHOP, renamed, new_name[found.actions])
    torch.testing.assert_close(logits_of(SHOP, policy, renamed, others), logits[..., order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits[..., order], logits)


def test_instances_of_different_sizes_share_a_batch(rng):
    """Padded to the size of others, an instance has the logits that it has alone."""
    policy = make_policy(SHOP)
    sizes = [(4, 3), (2, 5), (5, 2)]
    alone = [make("jssp", num_jobs=j, num_machines=m).generate(1, rng) for j, m in sizes]
    together, _, found, steps = recorded(SHOP, policy, rng, instances=stack(alone, JSSP.padding))
    logits = logits_of(SHOP, policy, together, steps).unflatten(1, found.actions.shape[1:])
    for row, ((jobs, machines), instance) in enumerate(zip(sizes, alone, strict=True)):
        length = jobs * machines
        own = seen(SHOP, instance, found.actions[row : row + 1, :, :length])
        expected = logits_of(SHOP, policy, instance, own).unflatten(1, (-1, length))
        torch.testing.assert_close(logits[row : row + 1, :, :length, :jobs], expected, rtol=1e-4, atol=1e-5)


def test_an_action_is_scored_among_the_allowed_ones(rng):
    """Logits depend on the numbers and on the operations of other allowed actions, never on those of masked ones."""
    policy = make_policy(SHOP)
    _, encoded, _, steps = recorded(SHOP, policy, rng)
    step = steps.select(slice(0, 1))._replace(action_mask=torch.tensor([[[True, True, True, False]]] * 2))
    logits = policy.logits(encoded, step)
    for action, counts in ((1, True), (3, False)):
        numbers, operations = step.candidates.clone(), step.candidate_nodes.clone()
        numbers[:, :, action] += 1
        operations[:, :, action] += 1
        for other in (step._replace(candidates=numbers), step._replace(candidate_nodes=operations)):
            assert torch.allclose(policy.logits(encoded, other)[..., 0], logits[..., 0], atol=1e-6) != counts


def test_a_single_allowed_action_has_probability_one(rng):
    """Where one action is left its log-probability is 0, and its gradients are numbers."""
    policy = make_policy(SHOP)
    _, encoded, found, steps = recorded(SHOP, policy, rng)
    mask = F.one_hot(found.actions.flatten(1), 4).bool()
    logits = policy.logits(encoded, steps._replace(action_mask=mask))
    assert torch.equal(logits == -math.inf, ~mask)
    assert (torch.log_softmax(logits, -1)[mask] == 0).all()
    logits[mask].sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


def test_a_value_head_reads_what_is_there(rng):
    """Padded to the size of others, an instance has the words that it has alone; only open candidates count."""
    policy = make_policy(SHOP)
    alone = [make("jssp", num_jobs=j, num_machines=m).generate(1, rng) for j, m in [(4, 3), (2, 5)]]
    _, encoded, _, steps = recorded(SHOP, policy, rng, instances=stack(alone, JSSP.padding))
    summary, reading = policy.summary(encoded), policy.reading(encoded, steps)
    assert summary.shape == (2, policy.width)
    assert reading.shape == (*steps.action_mask.shape[:2], policy.width)
    for row, instance in enumerate(alone):
        one = policy.encode(SHOP.instance_features(instance))
        torch.testing.assert_close(policy.summary(one)[0], summary[row], rtol=1e-4, atol=1e-5)
    shut = policy.network._compared(encoded, steps)[0, 4]
    torch.testing.assert_close(reading[0, 4], shut[steps.action_mask[0, 4]].amax(0))
    assert (reading[0, 0] - reading[0, 5]).abs().max() > 0.01


def test_plain_products_are_attention(rng):
    """The form of attention for few keys is the fused kernel's function, whatever the size of the scores."""
    q, k, v = torch.randn(3, 5, 2, 7, 4, generator=rng)
    mask = (torch.rand(5, 1, 7, 7, generator=rng) < 0.5) | torch.eye(7, dtype=torch.bool)
    for scale in (1.0, 1e3):
        found, expected = _read_few(q * scale, k, v, mask), attention(q * scale, k, v, mask)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # processors round otherwise


def test_it_learns_a_schedule(rng):
    """A few steps of imitation make a given solution of one instance far likelier."""
    policy = GraphPolicy(SHOP.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    instance, _, found, _ = recorded(SHOP, policy, rng, batch=1, rollouts=1)
    labels = replay(SHOP, instance, found.actions)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        encoded = policy.encode(SHOP.instance_features(instance))
        loss = -log_probs(SHOP, policy, encoded, labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    encoded = policy.encode(SHOP.instance_features(instance))
    assert torch.equal(act(SHOP, policy, encoded, instance, Greedy(), rng).actions, found.actions)


# ---------------------------------------------------------------------- nodes


def test_a_node_hears_its_neighbourhood_only(rng):
    """With one layer, what is far from a node does not reach its embedding; with more layers it does."""
    env = ENVS["tour"]
    features = env.instance_features(env.generate(1, rng))
    far = features[1].values[0, 0, :, 0].argmax().item()
    moved = NodeFeatures(features[0].values + F.one_hot(torch.tensor(far), 9).unsqueeze(-1))
    for layers, hears in ((1, False), (6, True)):
        network = make_policy(env, num_layers=layers, neighbours=2).network
        one, other = (network.encode_nodes(network.embed(f), (f, features[1])) for f in (features[0], moved))
        assert torch.equal(one[0, 0], other[0, 0]) != hears
        assert not torch.equal(one[0, far], other[0, far])


def test_the_names_of_nodes_do_not_matter(rng):
    """Renumbering the nodes renumbers the logits and changes nothing else."""
    env = ENVS["tour"]
    policy = make_policy(env)
    instances, encoded, found, steps = recorded(env, policy, rng)
    order = torch.randperm(9, generator=rng)
    renamed = instances.clone()
    renamed["locs"] = instances["locs"][:, order]
    expected = policy.logits(encoded, steps)[..., order]
    others = seen(env, renamed, order.argsort()[found.actions])
    torch.testing.assert_close(logits_of(env, policy, renamed, others), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- both


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
class TestContract:
    """What holds for every environment that it reads."""

    def test_masked_actions_alone_are_at_minus_infinity(self, env, rng):
        """Exactly the masked actions have the logit -inf; logits are float32; the encoding begins with the batch."""
        policy = make_policy(env)
        _, encoded, _, steps = recorded(env, policy, rng)
        logits = policy.logits(encoded, steps)
        assert logits.dtype == torch.float32
        assert torch.equal(logits == -math.inf, ~steps.action_mask)
        assert logits[steps.action_mask].isfinite().all()
        assert all(tensor is None or tensor.shape[0] == 2 for tensor in encoded)

    def test_its_rollouts_are_solutions(self, env, rng):
        """What it builds breaks no constraint."""
        instances, _, found, _ = recorded(env, make_policy(env), rng)
        assert env.violations(instances, found.actions) == []

    def test_queries_and_rows_do_not_see_one_another(self, env, rng):
        """A query of an instance has the same logits alone and among whole trajectories of other instances."""
        policy = make_policy(env)
        instances, encoded, _, steps = recorded(env, policy, rng)
        together = policy.logits(encoded, steps)
        for row in range(2):
            encoded = policy.encode(env.instance_features(instances[row : row + 1]))
            for query in range(0, together.shape[1], 5):
                parts = (None if f is None else f[row : row + 1, query : query + 1] for f in steps)
                alone = policy.logits(encoded, StepFeatures(*parts))
                expected = together[row : row + 1, query : query + 1]
                torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)

    def test_every_weight_is_used(self, env, rng):
        """No parameter is without a gradient: what is built is part of the function."""
        policy = make_policy(env)
        _, encoded, _, steps = recorded(env, policy, rng)
        steps.nodes[:, 0] = -1  # nobody plays a role there
        policy.logits(encoded, steps)[steps.action_mask].square().sum().backward()
        idle = [name for name, p in policy.named_parameters() if p.grad is None or not (p.grad != 0).any()]
        assert idle == []

    def test_low_precision_is_close(self, env, rng):
        """Under autocast to bfloat16 logits are float32 and near to those of full precision, with gradients."""
        policy = make_policy(env)
        instances, encoded, _, steps = recorded(env, policy, rng)
        mask = steps.action_mask
        expected = policy.logits(encoded, steps)[mask]
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(env, policy, instances, steps)
        assert logits.dtype == torch.float32
        assert (logits[mask] - expected).abs().max() < 0.05 * expected.abs().max()
        logits[mask].sum().backward()
        assert all(p.grad.isfinite().all() for p in policy.parameters())

    def test_scoring_reads_no_value(self, env, rng):
        """Logits need no tensor's value on the host: they run on the meta device, which has none."""
        policy = make_policy(env)
        _, encoded, _, steps = recorded(env, policy, rng)
        encoded, steps = (type(t)(*(None if f is None else f.to("meta") for f in t)) for t in (encoded, steps))
        assert policy.to("meta").logits(encoded, steps).shape == steps.action_mask.shape

    def test_it_comes_back_from_disk(self, env, rng, tmp_path):
        """A saved policy, loaded again, gives the same logits."""
        policy = make_policy(env)
        instances, encoded, _, steps = recorded(env, policy, rng)
        save_policy(policy, tmp_path, {"env": {"name": env.name}, "sizes": [4, 4]})
        loaded = load_policy(tmp_path).policy
        assert loaded.arguments() == policy.arguments()
        expected = policy.logits(encoded, steps)
        assert torch.equal(logits_of(env, loaded, instances, steps), expected)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        (FeatureDims(node=3), "neither OperationGraph nor NodeFeatures and edges of them"),
        (FeatureDims(node=0, edge=2), "neither OperationGraph nor NodeFeatures and edges of them"),
        (FeatureDims(node=0, operation=3, roles=1), "roles of operations"),
    ],
)
def test_unreadable_environments_are_refused(dims, words):
    """It cannot be built for an environment that shows no edges, or nodes in roles beside operations."""
    with pytest.raises(UnsupportedFeatures, match=words):
        GraphPolicy(dims)


def test_other_features_than_it_was_built_for_are_refused(rng):
    """Features or steps of another kind of environment are refused by a line that names them and what is read."""
    policy, tour = make_policy(SHOP), ENVS["tour"]
    with pytest.raises(UnsupportedFeatures, match="EdgeFeatures and NodeFeatures; here it reads OperationGraph"):
        policy.encode(tour.instance_features(tour.generate(1, rng)))
    graph = SHOP.instance_features(SHOP.generate(1, rng))
    assert isinstance(graph[0], OperationGraph)
    with pytest.raises(UnsupportedFeatures, match="read OperationGraph; here it reads EdgeFeatures and NodeFeatures"):
        make_policy(tour).encode(graph)
    _, encoded, _, steps = recorded(SHOP, policy, rng)
    for name in ("candidates", "scalars", "candidate_nodes"):
        with pytest.raises(UnsupportedFeatures, match=f"built for {name} and this step shows none"):
            policy.logits(encoded, steps._replace(**{name: None}))


def test_a_missing_package_is_named(monkeypatch):
    """Without torch-geometric it cannot be built; the line says how to install it."""
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(SolverNotInstalled, match=r"GraphPolicy needs torch-geometric .*pip install 'ncogym\[graph\]'"):
        GraphPolicy(SHOP.feature_dims)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 3}, "num_heads: 3 is not allowed; it must divide dim, which is 64"),
        ({"dim": 0}, "dim"),
        ({"num_layers": 0}, "num_layers: 0 is not allowed; it must be at least 1"),
        ({"neighbours": 0}, "neighbours: 0 is not allowed"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        GraphPolicy(SHOP.feature_dims, **arguments)
