from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ncogym.envs.cvrp import CVRPEnv
from ncogym.envs.tsp import TSPEnv
from ncogym.errors import ArgumentError
from ncogym.features import StepFeatures
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.rollout import act, log_probs, replay, rollouts_in_memory


class Places(NamedTuple):
    """Where `Nearby` sees the nodes, float64 ``[batch, nodes, 3]``."""

    nodes: Tensor


class Nearby(Policy):
    """A bilinear policy in float64: how much a node is liked depends on its place and on the current node's."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(1)
        self.embed = nn.Parameter(torch.randn(2, 3, generator=drawn, dtype=torch.float64))
        self.bilinear = nn.Parameter(torch.randn(3, 3, generator=drawn, dtype=torch.float64))
        self.queries: list[int] = []

    def arguments(self):
        return {}

    def encode(self, features):
        return Places(torch.tanh(features[0].values.double() @ self.embed))

    def logits(self, encoded, step, condition=None):
        self.queries.append(step.nodes.shape[1])
        current = step.nodes[..., 1].clamp_min(0).unsqueeze(-1).expand(-1, -1, 3)
        liked = encoded.nodes.gather(1, current) @ self.bilinear @ encoded.nodes.transpose(1, 2)
        return liked.masked_fill(~step.action_mask, -torch.inf)


def make_attention() -> AttentionPolicy:
    """Return a small attention policy, none of whose parts is idle."""
    torch.manual_seed(0)
    policy = AttentionPolicy(TSPEnv(num_nodes=6).feature_dims, dim=16, num_layers=2, num_heads=2, feedforward=32)
    nn.init.normal_(policy.edge_bias.network[2].weight, std=0.3)
    return policy


POLICIES = pytest.mark.parametrize(
    ("make_policy", "tolerance"), [(Nearby, 1e-12), (make_attention, 2e-4)], ids=["float64", "attention"]
)


@pytest.fixture
def env():
    """Tours of six nodes."""
    return TSPEnv(num_nodes=6)


@pytest.fixture
def instances(env, rng):
    """Three instances."""
    return env.generate(3, rng)


def play(env, policy, instances, **arguments):
    """Sample recorded rollouts from a fixed seed."""
    encoded = policy.encode(env.instance_features(instances))
    arguments = {"rollouts": 4, "record": True, **arguments}
    return act(env, policy, encoded, instances, Sample(), torch.Generator().manual_seed(5), **arguments)


def sequential_log_prob(env, policy, encoded, trajectories):
    """Score trajectories in the plain loop, a step at a time, with autograd through all of it."""
    state = env.start(trajectories.instances, trajectories.actions.shape[1])
    total = 0.0
    for number, action in enumerate(trajectories.actions.unbind(-1)):
        chosen = torch.log_softmax(policy.logits(encoded, env.step_features(state)), -1).gather(-1, action[..., None])
        if number >= trajectories.forced:
            total = total + chosen.squeeze(-1)
        state = env.advance(state, action)
    return total


def loss_and_gradients(policy, log_prob):
    """Return a loss that weighs each rollout differently, and the gradient of every parameter."""
    weights = torch.linspace(-1, 2, log_prob.numel(), dtype=log_prob.dtype).view_as(log_prob)
    loss = (weights * log_prob).sum()
    return loss.detach(), torch.autograd.grad(loss, list(policy.parameters()))


def assert_same(found, expected, tolerance):
    """Compare losses and gradients, each relative to its own size (biases before a norm have no gradient but noise)."""
    noise = 0.01 * max(theirs.abs().max() for theirs in expected[1])
    for mine, theirs in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        assert (mine - theirs).abs().max() <= tolerance * max(theirs.abs().max(), noise)


# ---------------------------------------------------------------------- the gradient


@POLICIES
@pytest.mark.parametrize("starts", [False, True])
def test_parallel_scores_are_the_sequential_loops(env, instances, make_policy, tolerance, starts):
    """Scoring all recorded steps at once has the loss and every gradient of the step-by-step loop."""
    policy = make_policy()
    trajectories = play(env, policy, instances, first_actions=env.first_actions(instances) if starts else None)
    features = env.instance_features(instances)
    parallel = log_probs(policy, policy.encode(features), trajectories)
    sequential = sequential_log_prob(env, policy, policy.encode(features), trajectories)
    assert parallel.shape == trajectories.reward.shape
    torch.testing.assert_close(parallel, sequential, rtol=tolerance, atol=tolerance)
    expected = loss_and_gradients(policy, sequential)
    idle = [name for (name, _), g in zip(policy.named_parameters(), expected[1], strict=True) if not (g != 0).any()]
    assert idle == (["nobody"] if starts and make_policy is make_attention else [])  # after a start there is a node
    assert_same(loss_and_gradients(policy, parallel), expected, tolerance)


@POLICIES
@pytest.mark.parametrize("max_queries", [1, 5, 23, 24, 1000])
def test_chunks_change_nothing(env, instances, make_policy, tolerance, max_queries):
    """In chunks of whatever size the loss and every gradient are those of one pass."""
    policy = make_policy()
    trajectories, features = play(env, policy, instances), env.instance_features(instances)
    whole = loss_and_gradients(policy, log_probs(policy, policy.encode(features), trajectories))
    parts = log_probs(policy, policy.encode(features), trajectories, max_queries=max_queries)
    assert_same(loss_and_gradients(policy, parts), whole, tolerance)


def test_chunks_bound_what_is_scored_at_once(env, instances):
    """No call scores more queries than allowed, and each query is scored once."""
    policy = Nearby()
    trajectories, encoded = play(env, policy, instances), policy.encode(env.instance_features(instances))
    policy.queries.clear()
    log_probs(policy, encoded, trajectories, max_queries=10)
    assert policy.queries == [10, 10, 4]


def test_the_encoder_runs_backward_once(env, instances):
    """However many chunks are scored, gradients meet at the encoder's output and pass through the encoder once."""
    policy, calls = Nearby(), []
    trajectories, encoded = play(env, policy, instances), policy.encode(env.instance_features(instances))
    encoded.nodes.grad_fn.register_hook(lambda *_: calls.append(1))
    log_probs(policy, encoded, trajectories, max_queries=3).sum().backward()
    assert calls == [1]


def test_probabilities_of_all_solutions_sum_to_one(rng):
    """Over all 24 tours of four nodes, and over the six that share a forced start, probabilities sum to 1."""
    env, policy = TSPEnv(num_nodes=4), Nearby()
    instances = env.generate(2, rng)
    every = torch.tensor(list(itertools.permutations(range(4)))).expand(2, -1, -1)
    encoded = policy.encode(env.instance_features(instances))
    chances = log_probs(policy, encoded, replay(env, instances, every)).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    forced = log_probs(policy, encoded, replay(env, instances, every, forced=1)).exp()
    torch.testing.assert_close(forced.view(2, 4, 6).sum(2), torch.ones(2, 4, dtype=torch.float64))


# ---------------------------------------------------------------------- acting


def test_samples_come_as_often_as_scored(rng):
    """The log-probability of a tour is the frequency with which it is drawn."""
    env, policy = TSPEnv(num_nodes=3), Nearby()
    instances = env.generate(1, rng)
    drawn = play(env, policy, instances, rollouts=20_000)
    every = torch.tensor(list(itertools.permutations(range(3))))[None]
    encoded = policy.encode(env.instance_features(instances))
    chances = log_probs(policy, encoded, replay(env, instances, every))[0].exp()
    found = torch.stack([(drawn.actions[0] == tour).all(-1).double().mean() for tour in every[0]])
    assert (found - chances).abs().max() < 0.015  # over four standard deviations of the widest, 0.0035


def test_forced_starts_do_not_count(env, instances):
    """Rollouts begin with the given actions, and these add nothing to the log-probability."""
    policy, starts = Nearby(), env.first_actions(instances)
    trajectories = play(env, policy, instances, first_actions=starts)
    assert trajectories.forced == 1
    assert torch.equal(trajectories.actions[..., 0], starts)
    encoded = policy.encode(env.instance_features(instances))
    whole = log_probs(policy, encoded, replay(env, instances, trajectories.actions))
    first = torch.log_softmax(policy.logits(encoded, env.step_features(env.start(instances, 6))), -1)
    first = first.gather(-1, starts.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probs(policy, encoded, trajectories), whole - first)


@pytest.mark.parametrize("starts", [False, True])
def test_replay_is_what_acting_recorded(env, instances, starts):
    """Walking through a rollout's own actions records the same features, reward and actions."""
    acted = play(env, Nearby(), instances, first_actions=env.first_actions(instances) if starts else None)
    replayed = replay(env, instances, acted.actions, forced=acted.forced)
    assert torch.equal(replayed.actions, acted.actions)
    assert torch.equal(replayed.reward, acted.reward)
    assert replayed.forced == acted.forced
    assert torch.equal(replayed.steps.nodes, acted.steps.nodes)
    assert torch.equal(replayed.steps.action_mask, acted.steps.action_mask)


def test_recorded_queries_are_rollouts_times_steps(env, instances):
    """Query ``rollout * steps + step`` is what that rollout saw before its action of that step."""
    trajectories = play(env, Nearby(), instances)
    actions, seen = trajectories.actions, trajectories.steps.nodes.unflatten(1, (4, 6))
    assert (seen[:, :, 0] == -1).all()
    assert torch.equal(seen[:, :, 1:, 1], actions[..., :-1])
    assert torch.equal(seen[:, :, 1:, 0], actions[..., :1].expand(-1, -1, 5))


def test_rewards_are_the_signed_objective(env, instances):
    """The reward is minus the objective where less is better, and the objective itself where more is."""

    class Longest(TSPEnv):
        sense = "max"

    shortest = play(env, Nearby(), instances)
    objective = env.objective(instances, shortest.actions)
    assert torch.equal(shortest.reward, -objective.float())
    longest = play(Longest(num_nodes=6), Nearby(), instances)
    assert torch.equal(longest.reward, env.objective(instances, longest.actions).float())


def test_acting_is_valid_and_holds_no_graph(env, instances):
    """Every rollout is a tour, and no logits carry an autograd graph, even from an encoding with gradients."""
    policy, graphs = make_attention(), []
    encoded = policy.encode(env.instance_features(instances))

    def watch(logits, rng):
        graphs.append(logits.requires_grad)
        return Sample()(logits, rng)

    trajectories = act(env, policy, encoded, instances, watch, torch.Generator(), rollouts=20)
    assert trajectories.actions.shape == (3, 20, 6)
    assert env.violations(instances, trajectories.actions) == []
    assert encoded.keys.requires_grad
    assert graphs == [False] * 6


def test_the_seed_decides_what_is_sampled(env, instances):
    """The same seed gives the same rollouts, another seed others, and the global generator is left alone."""
    policy, before = Nearby(), torch.random.get_rng_state()
    encoded = policy.encode(env.instance_features(instances))
    runs = [
        act(env, policy, encoded, instances, Sample(), torch.Generator().manual_seed(seed), rollouts=8).actions
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_greedy_follows_the_highest_logit(env, instances, rng):
    """A greedy rollout takes the likeliest action of each step, so that it draws nothing."""
    policy = Nearby()
    encoded = policy.encode(env.instance_features(instances))
    before = rng.get_state()
    greedy = act(env, policy, encoded, instances, Greedy(), rng, record=True)
    assert torch.equal(before, rng.get_state())
    logits = policy.logits(encoded, greedy.steps)
    assert torch.equal(logits.argmax(-1), greedy.actions.flatten(1))


def test_unrecorded_trajectories_cannot_be_scored(env, instances):
    """What was not recorded is refused in words."""
    policy = Nearby()
    encoded = policy.encode(env.instance_features(instances))
    trajectories = act(env, policy, encoded, instances, Greedy(), torch.Generator())
    assert trajectories.steps is None
    with pytest.raises(ArgumentError, match="record=True"):
        log_probs(policy, encoded, trajectories)


def test_scalars_and_candidates_are_recorded_too(env, instances, rng):
    """Every field that a problem shows reaches the parallel pass, query by query."""

    class Chatty(TSPEnv):
        def step_features(self, state):
            step = super().step_features(state)
            return StepFeatures(*step[:2], state.num_left.float()[..., None], step.action_mask.float()[..., None])

    steps = play(Chatty(num_nodes=6), Nearby(), instances).steps
    assert steps.scalars.shape == (3, 24, 1)
    assert steps.scalars[0, :, 0].tolist() == [6, 5, 4, 3, 2, 1] * 4
    assert torch.equal(steps.candidates[..., 0].bool(), steps.action_mask)


def test_rollouts_in_memory_shrink_with_size(env, rng):
    """Fewer rollouts fit where instances are larger or more or the policy is wider, and at least one always does."""
    large, policy = TSPEnv(num_nodes=60), Nearby()
    few = rollouts_in_memory(large, policy, large.generate(4, rng), 1e6)
    assert few < rollouts_in_memory(env, policy, env.generate(4, rng), 1e6)
    assert few < rollouts_in_memory(large, policy, large.generate(1, rng), 1e6)
    assert rollouts_in_memory(large, policy, large.generate(4, rng), 1.0) == 1
    policy.numbers_per_action *= 4
    assert rollouts_in_memory(large, policy, large.generate(4, rng), 1e6) == few // 4


def test_acting_ends_when_all_rollouts_are_done(rng):
    """Where rollouts end at different times, steps that pad every row are not walked, and the last one is padding."""
    env = CVRPEnv(num_customers=20)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(3, rng)
    encoded = policy.encode(env.instance_features(instances))

    def last_allowed(logits: Tensor, rng: torch.Generator) -> Tensor:
        """Serve customers from the last to the first, and go home when no other fits."""
        return (torch.arange(21) * logits.isfinite()).argmax(-1)

    built = act(env, policy, encoded, instances, last_allowed, rng, rollouts=2, record=True)
    steps = built.actions.shape[-1]
    assert 20 < steps < env.horizon(instances) == 40
    assert env.violations(instances, built.actions) == []
    assert not built.actions[..., -1].any()
    whole = env.padded(instances, built.actions, 40)
    assert torch.equal(env.objective(instances, whole), env.objective(instances, built.actions))
    scored = log_probs(policy, encoded, built)
    longer = log_probs(policy, encoded, replay(env, instances, whole))
    torch.testing.assert_close(scored, longer, rtol=1e-4, atol=1e-4)
