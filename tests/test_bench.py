from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from ncogym import bench as module
from ncogym.algorithms import POMO
from ncogym.bench import REPETITIONS, Setting, bench, decode, num_decisions, train_step, uniform, walk
from ncogym.envs import PROBLEMS, Problem, make
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Rollouts, Work

KEYS = {
    *("what", "env", "device", "batch", "rollouts", "dtype", "acting", "seconds_median", "instances_per_second"),
    *("steps_per_second", "peak_memory_bytes", "versions"),
}
TINY: dict[str, dict[str, int]] = {
    "tsp": {"num_nodes": 4},
    "atsp": {"num_nodes": 4},
    "cvrp": {"num_customers": 4},
    "knapsack": {"num_items": 4},
    "jssp": {"num_jobs": 2, "num_machines": 2},
    "vrptw": {"num_customers": 4},
    **{name: {"num_nodes": 5} for name in ("mis", "mvc", "clique", "mds", "maxcut")},
}


@pytest.fixture
def env() -> Problem:
    """Tours of five nodes."""
    return make("tsp", num_nodes=5)


@pytest.fixture
def setting(env: Problem, rng: torch.Generator) -> Setting:
    """Two instances with three rollouts each."""
    return Setting(env, env.generate(2, rng), torch.tensor([[0, 3, 1], [4, 2, 2]]), rng)


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[Rollouts]:
    """What policies do while the test lasts."""
    seen: list[Rollouts] = []
    act = module.act

    def watched(*arguments: Any, **options: Any) -> Rollouts:
        seen.append(act(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(module, "act", watched)
    return seen


@pytest.mark.parametrize("what", ["env", "decode", "train"])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_every_problem_is_measured(problem: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each problem can be walked, decoded and trained on, with the promised keys and a positive speed."""
    if problem == "jssp" and what != "env":
        pytest.importorskip("torch_geometric")
    monkeypatch.setattr(module, "REPETITIONS", 1)
    found = bench(what, make(problem, **TINY[problem]), batch=2, rollouts=3, device="cpu")
    assert set(found) == KEYS
    assert found["env"] == problem
    assert 50e6 < found["peak_memory_bytes"] < 1e12
    assert found["versions"]["torch"] == torch.__version__
    assert (found["what"], found["device"], found["dtype"]) == (what, "cpu", "float32")
    assert found["acting"] in (["eager"] if problem in ("knapsack", "jssp") else ["eager", "kernel"])
    assert 0 < found["steps_per_second"] * found["seconds_median"] <= 2 * 3 * 8


@pytest.mark.parametrize("what", ["env", "decode", "train"])
def test_speeds_follow_from_the_median(env: Problem, what: str) -> None:
    """Instances and decisions per second are those of one repetition over its seconds."""
    found = bench(what, env, batch=2, rollouts=3, device="cpu")
    seconds = found["seconds_median"]
    assert found["instances_per_second"] == pytest.approx(2 / seconds)
    assert found["steps_per_second"] == pytest.approx(2 * 3 * 5 / seconds)


def test_median_leaves_out_the_warm_up(env: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six runs the first is not timed, and the middle one of the other five counts."""
    runs: list[int] = []
    clock = iter([0, 5, 10, 11, 20, 29, 30, 33, 40, 42])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))

    def run() -> torch.Tensor:
        runs.append(1)
        return torch.arange(5).view(1, 1, 5)

    monkeypatch.setattr(module, "walk", lambda setting: run)
    assert bench("env", env, batch=1, rollouts=1, device="cpu")["seconds_median"] == 3
    assert len(runs) == REPETITIONS + 1 == 6


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_walk_builds_whole_random_solutions(problem: str, rng: torch.Generator) -> None:
    """Each rollout of a walk is a complete solution; rollouts differ, from their first action on, and so do walks."""
    env = make(problem, **TINY[problem])
    instances = env.generate(2, rng)
    run = walk(Setting(env, instances, torch.zeros(2, 30, dtype=torch.int64), rng))
    actions, others = run(), run()
    assert actions.shape[:2] == (2, 30)
    assert env.violations(instances, actions) == []
    assert all(len(set(row[:, 0].tolist())) > 1 for row in actions)
    assert not torch.equal(actions, others)


def test_walk_ends_soon_after_its_last_rollout(rng: torch.Generator) -> None:
    """Where one tour could serve all, the walk ends long before the bound on the number of steps."""
    env = make("cvrp", num_customers=40)
    instances = env.generate(2, rng).update({"capacity": torch.full((2,), 1e6)})
    run = walk(Setting(env, instances, torch.zeros(2, 1, dtype=torch.int64), rng))
    lengths = []
    for _ in range(5):
        actions = run()
        assert env.violations(instances, actions) == []
        lengths.append((actions.shape[-1], num_decisions(env, instances, actions)))
    assert all(steps < 80 and decisions < 2 * steps for steps, decisions in lengths)


def test_padding_is_no_decision() -> None:
    """Three customers of half a load each: one rollout goes home twice on its way and another once, then both pad."""
    env = make("cvrp", num_customers=3)
    instances = TensorDict(
        {"locs": torch.rand(1, 4, 2), "demand": torch.tensor([[0.0, 5, 5, 5]]), "capacity": torch.tensor([10.0])}, [1]
    )
    long, short = [1, 0, 2, 0, 3, 0, 0], [1, 2, 0, 3, 0, 0, 0]
    assert num_decisions(env, instances, torch.tensor([[long, short]])) == 5 + 4


def test_draws_are_uniform_over_the_allowed_actions(rng: torch.Generator) -> None:
    """Of every mask of four actions each allowed one comes as often as the others, and no other comes at all."""
    masks = torch.tensor([[bool(bits >> place & 1) for place in range(4)] for bits in range(1, 16)])
    draws = 20_000
    drawn = uniform(masks[:, None].expand(-1, draws, -1), rng)
    share = torch.stack([(drawn == action).float().mean(-1) for action in range(4)], dim=-1)
    expected = masks / masks.sum(-1, keepdim=True)
    assert (share[~masks] == 0).all()
    assert torch.allclose(share, expected, atol=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("actions", [500, 40_000])
def test_draws_reach_every_action(actions: int, rng: torch.Generator) -> None:
    """With many actions, more than a short integer counts among them, draws stay uniform over all of them."""
    mask = torch.ones(1, actions, dtype=torch.bool)
    mask[:, 0] = False
    drawn = uniform(mask.expand(500, -1), rng)
    assert drawn.min() > 0
    assert (drawn / actions).mean() == pytest.approx(0.5, abs=5 * 0.289 / 500**0.5)
    assert (drawn / actions).std() == pytest.approx(12**-0.5, rel=0.1)


def test_decode_builds_a_greedy_solution_from_each_start(setting: Setting, acted: list[Rollouts]) -> None:
    """Each start is decoded, the same in every run, without log-probabilities."""
    run = decode(setting)
    run()
    run()
    assert torch.equal(acted[0].actions[..., 0], setting.starts)
    assert setting.env.violations(setting.instances, acted[0].actions) == []
    assert torch.equal(acted[0].actions, acted[1].actions)
    assert acted[0].log_prob is None


def test_train_step_takes_the_algorithms_step(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is POMO's own, from each start, with gradients of its loss."""
    taken: list[tuple[Work, torch.Tensor]] = []
    step = POMO.step

    def watched(algorithm: POMO, work: Work) -> Outcome:
        outcome = step(algorithm, work)
        outcome.loss.retain_grad()
        taken.append((work, outcome.loss))
        return outcome

    monkeypatch.setattr(POMO, "step", watched)
    actions = train_step(setting)()
    ((work, loss),) = taken
    assert torch.equal(work.rollouts.actions, actions)
    assert torch.equal(actions[..., 0], setting.starts)
    assert loss.grad is not None


def test_starts_go_round(env: Problem, acted: list[Rollouts]) -> None:
    """More rollouts than the problem has starts begin with the first start again."""
    bench("decode", env, batch=1, rollouts=12, device="cpu")
    assert acted[0].actions[0, :, 0].tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_global_generator_is_untouched(env: Problem) -> None:
    """Random weights and instances come from generators of the measurement's own."""
    before = torch.random.get_rng_state()
    bench("train", env, batch=1, rollouts=2, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_missing_device_is_refused(env: Problem, device: str) -> None:
    """A device that torch does not know or that is not there is refused in one line."""
    with pytest.raises(ArgumentError, match=f"device: '{device}' is not allowed here") as refused:
        bench("env", env, batch=1, rollouts=1, device=device)
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["env", "decode", "train"])
def test_measures_on_a_gpu(env: Problem, what: str) -> None:
    """On a GPU the device is named, and the peak is that of its own memory."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = bench(what, env, batch=2, rollouts=3)
    assert found["device"] == "cuda"
    assert 0 < found["peak_memory_bytes"] < 2**30
