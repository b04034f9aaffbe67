from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ncogym import make
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import Abandoned, ArgumentError, NotEnoughMemory
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.policies.graph import GraphPolicy
from ncogym.rollout import (
    LOOK_EVERY,
    act,
    conditions,
    decision_rewards,
    encode,
    log_probs,
    replay,
    rollouts_in_memory,
    score_steps,
)
from ncogym.rollout import memory as memory_
from ncogym.task import Task


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

    def logits(self, encoded, step):
        self.queries.append(step.nodes.shape[1])
        current = step.nodes[..., 1].clamp_min(0).unsqueeze(-1).expand(-1, -1, 3)
        liked = encoded.nodes.gather(1, current) @ self.bilinear @ encoded.nodes.transpose(1, 2)
        return liked.masked_fill(~step.action_mask, -torch.inf)


def make_attention() -> AttentionPolicy:
    """Return a small attention policy, none of whose parts is idle."""
    torch.manual_seed(0)
    policy = AttentionPolicy(Task.of(TSP, num_nodes=6).feature_dims, dim=16, num_layers=2, num_heads=2, feedforward=32)
    nn.init.normal_(policy.edge_bias.network[2].weight, std=0.3)
    return policy


POLICIES = pytest.mark.parametrize(
    ("make_policy", "tolerance"), [(Nearby, 1e-12), (make_attention, 2e-4)], ids=["float64", "attention"]
)


class Countdown:
    """A clock that allows so many looks."""

    allowed = math.inf

    def __init__(self, looks):
        self.looks = looks

    def look(self):
        """Count a look."""
        self.looks -= 1
        if self.looks < 0:
            raise Abandoned("the time is over")


@pytest.fixture
def env():
    """Tours of six nodes."""
    return Task.of(TSP, num_nodes=6)


@pytest.fixture
def instances(env, rng):
    """Three instances."""
    return env.generate(3, rng)


def test_a_rollout_looks_at_the_clock(monkeypatch):
    """It is given up within a few steps once the time is over, and is as without a clock while there is time."""
    env = Task.of(TSP, 50)
    instances, policy, steps = env.generate(2, torch.Generator().manual_seed(0)), make_attention(), []
    logits, plain = policy.logits, play(env, policy, instances)
    assert torch.equal(play(env, policy, instances, clock=Countdown(math.ceil(50 / LOOK_EVERY))).actions, plain.actions)
    monkeypatch.setattr(policy, "logits", lambda *shown: steps.append(shown) or logits(*shown))
    clock = Countdown(3)
    with pytest.raises(Abandoned):
        play(env, policy, instances, clock=clock)
    assert (len(steps), clock.looks) == (3 * LOOK_EVERY, -1)


def test_an_encoder_looks_at_the_clock(env, instances):
    """It is given up before the next of its modules, and looks no more once it is done."""
    policy, clock = make_attention(), Countdown(4)
    with pytest.raises(Abandoned):
        encode(env, policy, instances, clock=clock)
    policy.encode(env.instance_features(instances))
    assert clock.looks == -1
    found, plain = (encode(env, policy, instances, clock=each) for each in (Countdown(1000), None))
    assert torch.equal(found.logit_keys, plain.logit_keys)


@pytest.mark.parametrize(("most", "free"), [("max", None), ("3000000", 1_500_000), ("1000", 0), ("nonsense", None)])
def test_a_container_may_have_less_than_its_machine(monkeypatch, tmp_path, most, free):
    """Its limit counts, less what it holds, but for files that could be dropped; without a limit the machine's does."""
    told = {"max": most, "current": "2000000", "stat": "anon 1000\ninactive_file 500000\nactive_file 7\n"}
    for name, text in told.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(memory_, "CONTAINER", tmp_path)
    found = memory_.free_memory(torch.device("cpu"))
    assert found > 10_000_000 if free is None else found == free


@pytest.mark.parametrize(
    ("problem", "numbers"),
    [
        (("tsp", {"num_nodes": 100}), 2048 * 100 + 64 * 100**2),
        (("knapsack", {"num_items": 99}), 2048 * 100),  # no pairs are looked at
        (("jssp", {"num_jobs": 20, "num_machines": 5}), 2048 * 100 + 6 * 64 * 100 * 20),  # those on a machine
    ],
)
def test_what_an_encoder_holds_is_told_by_its_nodes_and_pairs(problem, numbers, rng):
    """Operations are the nodes of a shop, and the pairs are those that edges connect."""
    env = make(problem[0], **problem[1])
    policy = (GraphPolicy if problem[0] == "jssp" else AttentionPolicy)(env.feature_dims)
    assert memory_.encoding_memory(env, policy, env.generate(2, rng)) == 4 * numbers


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(env, instances, monkeypatch):
    """One line says what an instance takes and what there is."""
    policy = make_attention()
    monkeypatch.setattr(policy, "encode", lambda features: pytest.fail("it was encoded"))
    monkeypatch.setattr(memory_, "free_memory", lambda device: 1000)
    with pytest.raises(
        NotEnoughMemory, match=r"^AttentionPolicy takes about 5\.8e-05 GB to encode tsp of size 6; allow"
    ):
        encode(env, policy, instances)


def play(env, policy, instances, **arguments):
    """Sample rollouts from a fixed seed."""
    encoded = policy.encode(env.instance_features(instances))
    arguments = {"rollouts": 4, "log_prob": True, "acting": "eager", **arguments}
    return act(env, policy, encoded, instances, Sample(), torch.Generator().manual_seed(5), **arguments)


def memory_of(policy, env, instances, queries):
    """Return the bytes in which so many queries of an instance are scored at a time."""
    actions = env.start(instances).action_mask.shape[-1]
    return 4 * 3 * policy.numbers_per_action * actions * instances.batch_size[0] * queries


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
    """Acting and scoring all steps at once have the loss and every gradient of the step-by-step loop."""
    policy = make_policy()
    trajectories = play(env, policy, instances, first_actions=env.first_actions(instances) if starts else None)
    features = env.instance_features(instances)
    parallel = log_probs(env, policy, policy.encode(features), trajectories)
    labelled = log_probs(env, policy, policy.encode(features), replace(trajectories, log_prob=None))
    sequential = sequential_log_prob(env, policy, policy.encode(features), trajectories)
    assert parallel.shape == trajectories.reward.shape
    torch.testing.assert_close(parallel, sequential, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(labelled, sequential, rtol=tolerance, atol=tolerance)
    expected = loss_and_gradients(policy, sequential)
    idle = [name for (name, _), g in zip(policy.named_parameters(), expected[1], strict=True) if not (g != 0).any()]
    assert idle == (["nobody"] if starts and make_policy is make_attention else [])  # after a start there is a node
    assert_same(loss_and_gradients(policy, parallel), expected, tolerance)
    assert_same(loss_and_gradients(policy, labelled), expected, tolerance)


@pytest.mark.parametrize("acting", ["eager", "auto"])
@pytest.mark.parametrize("given", [0, 1, 3])
def test_rollouts_go_on_from_given_actions(env, instances, acting, given):
    """The leading actions are those that are given, and what follows is scored as the policy's own."""
    policy = make_attention()
    first = play(env, policy, instances).actions.flip(1)[..., :given]
    trajectories = play(env, policy, instances, first_actions=first, acting=acting)
    assert trajectories.forced == given
    assert torch.equal(trajectories.actions[..., :given], first)
    assert env.violations(instances, trajectories.actions) == []
    scored = sequential_log_prob(env, policy, policy.encode(env.instance_features(instances)), trajectories)
    torch.testing.assert_close(trajectories.log_prob, scored.detach(), rtol=2e-4, atol=2e-4)


@POLICIES
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 13, 23, 24, 1000])
def test_chunks_change_nothing(env, instances, make_policy, tolerance, known, queries):
    """In chunks of whatever size the loss and every gradient are those of one pass."""
    policy = make_policy()
    trajectories, features = play(env, policy, instances), env.instance_features(instances)
    labels = replace(trajectories, log_prob=None)
    scored = log_probs(env, policy, policy.encode(features), labels, memory=1e9, acting="eager")
    whole = loss_and_gradients(policy, scored)
    memory = memory_of(policy, env, instances, queries)
    given = trajectories if known else labels
    parts = log_probs(env, policy, policy.encode(features), given, memory=memory, acting="eager")
    assert_same(loss_and_gradients(policy, parts), whole, tolerance)


@pytest.mark.parametrize(("queries", "calls"), [(1, [1] * 24), (4, [4] * 6), (11, [11, 11, 2]), (24, [24])])
def test_chunks_bound_what_is_scored_at_once(env, instances, queries, calls):
    """No call scores more queries than fit, each query is scored once, and none before a gradient is asked for."""
    policy = Nearby()
    trajectories, encoded = play(env, policy, instances), policy.encode(env.instance_features(instances))
    policy.queries.clear()
    scored = log_probs(env, policy, encoded, trajectories, memory=memory_of(policy, env, instances, queries))
    assert policy.queries == []
    scored.sum().backward()
    assert policy.queries == calls


def test_only_what_carries_a_gradient_is_scored(env, instances):
    """Of many rollouts the one that the loss depends on is walked through, with the gradient of scoring all."""
    policy = Nearby()
    trajectories, features = play(env, policy, instances), env.instance_features(instances)
    found = []
    for carrying in (0, 1):
        policy.queries.clear()
        scored = log_probs(env, policy, policy.encode(features), trajectories, carrying=carrying)
        best = trajectories.reward.argmax(1, keepdim=True)
        loss = -scored.gather(1, best).mean()
        found.append((loss.detach(), torch.autograd.grad(loss, list(policy.parameters()))))
        assert policy.queries == [6 if carrying else 24]
    assert_same(found[1], found[0], 1e-12)


class Strong(Nearby):
    """A condition is a factor of what is liked; each has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(0.1, 3, 3, dtype=torch.float64))

    def under(self, encoded, condition):
        each = encoded.nodes.unsqueeze(1) * self.factors[condition].view(*condition.shape, 1, 1)
        return Places(each.flatten(0, 1))


def plainly(env, policy, instances, acted):
    """Return the log-probabilities of rollouts under conditions, one (instance, condition) after the other."""
    found = []
    for row in range(3):
        for part, number in zip(acted.actions[row].chunk(3), acted.condition.expand(3, -1)[row], strict=True):
            features = env.instance_features(instances[row : row + 1])
            encoded = policy.under(policy.encode(features), number.view(1, 1))
            taken = replay(env, instances[row : row + 1], part.unsqueeze(0), forced=acted.forced)
            found.append(log_probs(env, policy, encoded, taken)[0])
    return torch.cat(found).view(3, -1)


@pytest.mark.parametrize("most", [1.0, 400.0, 64e6])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("carrying", [0, 2, 5])
def test_a_condition_follows_its_rollout(env, instances, most, shared, carrying, monkeypatch):
    """However the batch is parted, rollouts act and are scored under their own condition, with its own gradient."""
    monkeypatch.setattr(conditions, "ROWS_MOST", most)
    policy, drawn = Strong(), torch.tensor([[2, 0, 1], [1, 1, 0], [0, 2, 2]])
    condition = drawn[:1] if shared else drawn
    noise, first = torch.rand(6, 3, 6, generator=torch.Generator().manual_seed(1)), torch.arange(6).expand(3, -1)
    acted = play(env, policy, instances, condition=condition, noise=noise, first_actions=first)
    assert acted.condition is condition
    assert acted.actions.shape == (3, 6, 6)
    assert acted.actions[..., 0].equal(first)
    expected = plainly(env, policy, instances, acted)
    torch.testing.assert_close(acted.log_prob, expected, check_dtype=False, rtol=1e-6, atol=1e-6)
    encoded = policy.encode(env.instance_features(instances))
    labelled = log_probs(env, policy, encoded, replace(acted, log_prob=None))
    torch.testing.assert_close(labelled, expected)
    weights = torch.zeros(3, 6, dtype=torch.float64)
    weights[:, :carrying] = torch.linspace(1, 2, carrying, dtype=torch.float64)
    weights = weights.flip(1) if carrying else weights + torch.linspace(1, 2, 6, dtype=torch.float64)
    parameters = list(policy.parameters())
    wanted = torch.autograd.grad((expected * weights).sum(), parameters)
    scored = log_probs(env, policy, encoded, acted, carrying=carrying)
    found = torch.autograd.grad((scored * weights).sum(), parameters)
    assert_same((scored.detach(), found), (expected.detach(), wanted), 1e-6)


def test_one_instance_under_conditions_is_encoded_once(env, instances):
    """A search on one instance pays for the tables of its conditions once a round."""
    policy, calls = Strong(), []
    under = policy.under
    policy.under = lambda *given: (calls.append(1), under(*given))[1]
    play(env, policy, instances[:1], condition=torch.arange(3).view(1, 3), rollouts=6)
    assert calls == [1]


def test_rollouts_are_shared_out_among_conditions(env, instances):
    """A number of rollouts that the conditions do not divide is refused."""
    with pytest.raises(ArgumentError, match="rollouts: 4 is not allowed under 3 conditions; it must be a multiple"):
        play(env, Strong(), instances, condition=torch.arange(3).view(1, 3))


def test_the_encoder_runs_backward_once(env, instances):
    """However many chunks are scored, gradients meet at the encoder's output and pass through the encoder once."""
    policy, calls = Nearby(), []
    trajectories, encoded = play(env, policy, instances), policy.encode(env.instance_features(instances))
    encoded.nodes.grad_fn.register_hook(lambda *_: calls.append(1))
    log_probs(env, policy, encoded, trajectories, memory=1).sum().backward()
    assert calls == [1]


def test_what_acted_in_autocast_learns_in_full(rng):
    """Under autocast a decoder's weight that acting used before has its gradient all the same."""
    env = Task.of(CVRP, num_customers=6)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    instances = env.generate(2, rng)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            encoded = policy.encode(env.instance_features(instances))
            acted = act(env, policy, encoded, instances, Sample(), rng, rollouts=4, log_prob=True, acting="eager")
            if not gradients:
                kept = acted
            scored = log_probs(env, policy, encoded, replace(kept, log_prob=acted.log_prob), acting="eager")
        gradients.append(torch.autograd.grad(scored.sum(), policy.scalars.weight)[0])
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.1 * gradients[0].abs().max().item())


def test_probabilities_of_all_solutions_sum_to_one(rng):
    """Over all 24 tours of four nodes, and over the six that share a forced start, probabilities sum to 1."""
    env, policy = Task.of(TSP, num_nodes=4), Nearby()
    instances = env.generate(2, rng)
    every = torch.tensor(list(itertools.permutations(range(4)))).expand(2, -1, -1)
    encoded = policy.encode(env.instance_features(instances))
    chances = log_probs(env, policy, encoded, replay(env, instances, every)).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(2, dtype=torch.float64))
    forced = log_probs(env, policy, encoded, replay(env, instances, every, forced=1)).exp()
    torch.testing.assert_close(forced.view(2, 4, 6).sum(2), torch.ones(2, 4, dtype=torch.float64))


# ---------------------------------------------------------------------- acting


def test_samples_come_as_often_as_scored(rng):
    """The log-probability of a tour is the frequency with which it is drawn."""
    env, policy = Task.of(TSP, num_nodes=3), Nearby()
    instances = env.generate(1, rng)
    drawn = play(env, policy, instances, rollouts=20_000)
    every = torch.tensor(list(itertools.permutations(range(3))))[None]
    encoded = policy.encode(env.instance_features(instances))
    chances = log_probs(env, policy, encoded, replay(env, instances, every))[0].exp()
    found = torch.stack([(drawn.actions[0] == tour).all(-1).double().mean() for tour in every[0]])
    assert (found - chances).abs().max() < 0.015  # over four standard deviations of the widest, 0.0035


def test_forced_starts_do_not_count(env, instances):
    """Rollouts begin with the given actions, and these add nothing to the log-probability."""
    policy, starts = Nearby(), env.first_actions(instances)
    trajectories = play(env, policy, instances, first_actions=starts)
    assert trajectories.forced == 1
    assert torch.equal(trajectories.actions[..., 0], starts)
    encoded = policy.encode(env.instance_features(instances))
    whole = log_probs(env, policy, encoded, replay(env, instances, trajectories.actions))
    first = torch.log_softmax(policy.logits(encoded, env.step_features(env.start(instances, 6))), -1)
    first = first.gather(-1, starts.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probs(env, policy, encoded, trajectories), whole - first)


def test_replay_has_the_reward_of_acting(env, instances):
    """Given actions are scored like those that were acted, and their log-probability is not known."""
    acted = play(env, Nearby(), instances, first_actions=env.first_actions(instances))
    replayed = replay(env, instances, acted.actions, forced=acted.forced)
    assert torch.equal(replayed.actions, acted.actions)
    assert torch.equal(replayed.reward, acted.reward)
    assert replayed.forced == acted.forced == 1
    assert replayed.log_prob is None


def test_rewards_are_the_signed_objective(env, instances):
    """The reward is minus the objective where less is better, and the objective itself where more is."""

    class Longest(TSP):
        sense = "max"

    shortest = play(env, Nearby(), instances)
    objective = env.objective(instances, shortest.actions)
    assert torch.equal(shortest.reward, -objective.float())
    longest = play(Task.of(Longest, 6), Nearby(), instances)
    assert torch.equal(longest.reward, env.objective(instances, longest.actions).float())


def test_acting_is_valid_and_holds_no_graph(env, instances):
    """Every rollout is a tour, and no logits carry an autograd graph, even from an encoding with gradients."""
    policy, graphs = make_attention(), []
    encoded = policy.encode(env.instance_features(instances))

    class Watch(Sample):
        def __call__(self, logits, noise):
            graphs.append(logits.requires_grad)
            return super().__call__(logits, noise)

    trajectories = act(env, policy, encoded, instances, Watch(), torch.Generator(), rollouts=20, acting="eager")
    assert not trajectories.actions.is_inference()
    assert not trajectories.reward.is_inference()
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
    greedy = act(env, policy, encoded, instances, Greedy(), rng)
    assert torch.equal(before, rng.get_state())
    state = env.start(instances)
    for action in greedy.actions.unbind(-1):
        assert torch.equal(policy.logits(encoded, env.step_features(state)).argmax(-1), action)
        state = env.advance(state, action)


def test_noise_may_be_given(env, instances):
    """Numbers that are passed in are what is drawn from, one a decision."""
    policy, noise = Nearby(), torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(5))
    drawn = play(env, policy, instances)
    assert torch.equal(play(env, policy, instances, noise=noise).actions, drawn.actions)
    assert not torch.equal(play(env, policy, instances, noise=noise.flip(0)).actions, drawn.actions)


@pytest.mark.parametrize(("name", "value"), [("acting", "fast"), ("precision", "float16")])
def test_other_ways_of_acting_are_refused(env, instances, name, value):
    """A way of acting that there is not is refused in one line."""
    with pytest.raises(ArgumentError, match=f"^{name}: '{value}' is not allowed; it must be one of"):
        play(env, Nearby(), instances, **{name: value})


def test_a_graph_takes_cuda(env, instances):
    """What takes a GPU says so where there is none."""
    with pytest.raises(ArgumentError, match=r"^acting: 'graph' is not allowed on cpu"):
        play(env, Nearby(), instances, acting="graph")


COMPILED = """
import torch
from ncogym import rollout
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.rollout import act
from ncogym.task import Task

rng = torch.Generator()
for env in (Task.of(TSP, 6), Task.of(CVRP, 6)):
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    instances = env.generate(3, rng)
    encoded = policy.encode(env.instance_features(instances))
    for decoding in (Greedy(), Sample()):
        plain, compiled = (
            act(env, policy, encoded, instances, decoding, rng.manual_seed(1), rollouts=5, acting=acting, log_prob=True)
            for acting in ("eager", "compile")
        )
        assert torch.equal(plain.actions, compiled.actions)
        torch.testing.assert_close(plain.log_prob, compiled.log_prob, rtol=1e-4, atol=1e-4)
print("the same")
"""


@pytest.mark.slow
def test_a_compiled_step_acts_the_same():
    """For the same seed a compiled step takes the actions of the plain loop; jaxtyping's checks cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("acting", ["compile", "graph"])
@pytest.mark.parametrize("decoding", [Greedy(), Sample()], ids=["greedy", "sample"])
@pytest.mark.parametrize("make_env", [TSP, CVRP])
def test_every_way_acts_the_same_on_a_gpu(make_env, decoding, acting):
    """On a GPU a compiled step and a captured graph take the actions of the plain loop, call after call."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    env = make_env(20)
    policy = AttentionPolicy(env.feature_dims, dim=32, num_layers=1, num_heads=2, feedforward=32).cuda()
    for seed in (1, 2):
        rng = torch.Generator("cuda").manual_seed(seed)
        instances = env.generate(4, rng)
        encoded = policy.encode(env.instance_features(instances))
        plain, other = (
            act(env, policy, encoded, instances, decoding, rng.manual_seed(seed), rollouts=9, acting=a, log_prob=True)
            for a in ("eager", acting)
        )
        steps = max(plain.actions.shape[-1], other.actions.shape[-1])
        same = (env.padded(instances, plain.actions, steps) == env.padded(instances, other.actions, steps)).all(-1)
        assert same.float().mean() > 0.9  # rounding may decide a near tie
        torch.testing.assert_close(plain.log_prob[same], other.log_prob[same], rtol=1e-3, atol=1e-3)
        assert env.violations(instances, other.actions) == []


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_low_precision_is_close(precision, rng):
    """Acting in lower precision gives solutions whose log-probability is near that of scoring in float32."""
    env = Task.of(CVRP, num_customers=20)
    policy = AttentionPolicy(env.feature_dims, dim=32, num_layers=1, num_heads=2, feedforward=32)
    instances = env.generate(4, rng)
    encoded = policy.encode(env.instance_features(instances))
    before = torch.get_float32_matmul_precision()
    acted = act(
        env, policy, encoded, instances, Sample(), rng, rollouts=8, acting="eager", precision=precision, log_prob=True
    )
    assert torch.get_float32_matmul_precision() == before
    assert env.violations(instances, acted.actions) == []
    assert acted.log_prob.dtype == torch.float32
    exact = log_probs(env, policy, encoded, replace(acted, log_prob=None))
    assert (acted.log_prob - exact).abs().max() < 0.02 * exact.abs().mean()


def test_rollouts_in_memory_shrink_with_size(env, rng):
    """Fewer rollouts fit where instances are larger or more or the policy is wider, and at least one always does."""
    large, policy = Task.of(TSP, num_nodes=60), Nearby()
    few = rollouts_in_memory(large, policy, large.generate(4, rng), 1e6)
    assert few < rollouts_in_memory(env, policy, env.generate(4, rng), 1e6)
    assert few < rollouts_in_memory(large, policy, large.generate(1, rng), 1e6)
    assert rollouts_in_memory(large, policy, large.generate(4, rng), 1.0) == 1
    policy.numbers_per_action *= 4
    assert rollouts_in_memory(large, policy, large.generate(4, rng), 1e6) == few // 4


@pytest.mark.parametrize("bytes_", [1.0, 40e3, 1e9])
def test_encoding_in_parts_changes_nothing(env, rng, bytes_):
    """However few instances are encoded at a time, the encoding is that of all at once."""
    policy, instances = make_attention(), env.generate(7, rng)
    calls, encoder = [], policy.encode
    policy.encode = lambda features: (calls.append(features[0].values.shape[0]), encoder(features))[1]
    found = encode(env, policy, instances, bytes_)
    each = 4 * (policy.numbers_per_node * 6 + policy.numbers_per_pair * 36)
    assert calls == [len(part) for part in torch.arange(7).split(max(1, int(bytes_ / each)))]
    for mine, theirs in zip(found, encoder(env.instance_features(instances)), strict=True):
        assert (mine is None) is (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_memory_is_a_share_of_what_is_free(monkeypatch):
    """Searches and scoring take a fixed amount where there is plenty, and a share of little."""
    device = torch.device("cpu")
    assert 2**20 < memory_.free_memory(device) < 2**50
    monkeypatch.setattr(memory_, "free_memory", lambda device: 2**40)
    assert (memory_.search_memory(device), memory_.scoring_memory(device)) == (512e6, 256e6)
    monkeypatch.setattr(memory_, "free_memory", lambda device: 1e8)
    assert (memory_.search_memory(device), memory_.scoring_memory(device)) == (0.5e8, 0.25e8)


def test_acting_ends_when_all_rollouts_are_done(rng):
    """Where rollouts end at different times, steps that pad every row are not walked, and the last one is padding."""
    env = Task.of(CVRP, num_customers=20)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(3, rng)
    encoded = policy.encode(env.instance_features(instances))

    class LastAllowed(Greedy):
        """Serve customers from the last to the first, and go home when no other fits."""

        plain = False

        def __call__(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
            return (torch.arange(21) * logits.isfinite()).argmax(-1)

    built = act(env, policy, encoded, instances, LastAllowed(), rng, rollouts=2)
    steps = built.actions.shape[-1]
    assert 20 < steps < env.horizon(instances) == 40
    assert env.violations(instances, built.actions) == []
    assert not built.actions[..., -1].any()
    whole = env.padded(instances, built.actions, 40)
    assert torch.equal(env.objective(instances, whole), env.objective(instances, built.actions))
    scored = log_probs(env, policy, encoded, replace(built, log_prob=None))
    longer = log_probs(env, policy, encoded, replay(env, instances, whole))
    torch.testing.assert_close(scored, longer, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- decisions one by one


class Worded(Nearby):
    """`Nearby` with words for a value head: the first node's place, and how many nodes are open beside the current."""

    width = 3

    def summary(self, encoded):
        return encoded.nodes[:, 0]

    def reading(self, encoded, step):
        current = encoded.nodes.gather(1, step.nodes[..., 1].clamp_min(0).unsqueeze(-1).expand(-1, -1, 3))
        return current * step.action_mask.sum(-1, keepdim=True)


class Scored(NamedTuple):
    """What these tests read of decisions."""

    log_prob: Tensor
    value: Tensor
    entropy: Tensor


def reads(policy, encoded, head):
    """Return a reader of log-probability, of the value that a head gives to what it may read, and of entropy."""
    summary = policy.summary(encoded).detach().unsqueeze(1)

    def read(decision):
        reading = decision.reading.detach()
        return decision.chosen, head(torch.cat([summary.expand_as(reading), reading], -1)), decision.entropy

    return read


def head(read):
    """Value what is read by a fixed sum."""
    return read @ torch.arange(6, dtype=read.dtype)


@pytest.mark.parametrize("starts", [False, True])
def test_each_decision_is_the_sequential_loops(env, instances, starts):
    """Log-probability, entropy and value of each decision are those of the step-by-step loop, and so are gradients."""
    policy = Worded()
    drawn = play(env, policy, instances, first_actions=env.first_actions(instances) if starts else None)
    encoded = policy.encode(env.instance_features(instances))
    found = Scored(*score_steps(env, policy, encoded, drawn, reads(policy, encoded, head)))
    assert found.log_prob.shape == (*drawn.reward.shape, 6 - drawn.forced)
    state = env.start(instances, drawn.actions.shape[1])
    for number, action in enumerate(drawn.actions.unbind(-1)):
        shown = env.step_features(state)
        if number >= drawn.forced:
            each = torch.distributions.Categorical(logits=policy.logits(encoded, shown))
            read = torch.cat(
                [policy.summary(encoded).unsqueeze(1).expand(-1, action.shape[1], -1), policy.reading(encoded, shown)],
                -1,
            )
            decision = number - drawn.forced
            torch.testing.assert_close(found.log_prob[..., decision], each.log_prob(action))
            torch.testing.assert_close(found.entropy[..., decision], each.entropy())
            torch.testing.assert_close(found.value[..., decision], head(read))
        state = env.advance(state, action)
    passed = torch.autograd.grad(found.value.sum(), list(policy.parameters()), retain_graph=True)
    assert not any(gradient.any() for gradient in passed)
    whole = log_probs(env, policy, policy.encode(env.instance_features(instances)), drawn, acting="eager")
    (slope,) = torch.autograd.grad(found.entropy.sum(), policy.bilinear, retain_graph=True)
    assert slope.abs().max() > 0
    assert slope.isfinite().all()
    assert_same(loss_and_gradients(policy, found.log_prob.sum(-1)), loss_and_gradients(policy, whole), 1e-12)


@pytest.mark.parametrize("queries", [1, 5, 13, 23, 24])
def test_chunks_of_decisions_change_nothing(env, instances, queries):
    """In chunks, which are bounded and computed again for the gradient, numbers and gradients are those of one pass."""
    policy, features = Worded(), env.instance_features(instances)
    drawn, scale = play(env, policy, instances), nn.Parameter(torch.ones((), dtype=torch.float64))
    found = []
    for memory in (1e9, memory_of(policy, env, instances, queries)):
        encoded = policy.encode(features)
        policy.queries.clear()
        read = reads(policy, encoded, lambda read: scale * head(read))
        steps = Scored(*score_steps(env, policy, encoded, drawn, read, memory=memory))
        assert max(policy.queries) <= (24 if memory == 1e9 else queries)
        assert sum(policy.queries) == 24
        loss = (steps.log_prob * steps.value.detach() + steps.value.square() + steps.entropy).sum()
        found.append((loss.detach(), torch.autograd.grad(loss, [*policy.parameters(), scale])))
    assert_same(found[1], found[0], 1e-12)


def test_rewards_of_decisions_add_up(rng):
    """Rewards of decisions add up to the reward, and none follows the end, behind which nothing is open."""
    env = Task.of(CVRP, num_customers=6)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    instances = env.generate(3, rng)
    drawn = play(env, policy, instances)
    encoded = policy.encode(env.instance_features(instances))
    reward, is_open = decision_rewards(env, drawn)
    (log_prob,) = score_steps(env, policy, encoded, drawn, lambda decision: [decision.chosen])
    torch.testing.assert_close(reward.sum(-1), drawn.reward)
    returns = (drawn.actions == 0).long().flip(-1).cumprod(-1).sum(-1)
    lengths = drawn.actions.shape[-1] - returns  # to the last customer, after whom it is done
    assert torch.equal(is_open.sum(-1), lengths)
    assert returns.min() < returns.max()
    assert not reward[~is_open].any()
    assert not log_prob[~is_open].any()
    assert log_prob.requires_grad
    assert not reward.requires_grad
