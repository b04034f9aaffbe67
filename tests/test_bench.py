from __future__ import annotations

from typing import Any

import pytest
import torch

from ncogym import bench as module
from ncogym.algorithms import POMO
from ncogym.bench import REPETITIONS, Setting, bench, decode, train_step, walk
from ncogym.envs import ConstructiveEnv, make
from ncogym.errors import ArgumentError
from ncogym.rollout import Trajectories


@pytest.fixture
def env() -> ConstructiveEnv:
    """Tours of five nodes."""
    return make("tsp", num_nodes=5)


@pytest.fixture
def setting(env: ConstructiveEnv, rng: torch.Generator) -> Setting:
    """Two instances with three rollouts each."""
    return Setting(env, env.generate(2, rng), torch.tensor([[0, 3, 1], [4, 2, 2]]), rng)


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[Trajectories]:
    """What policies do while the test lasts."""
    seen: list[Trajectories] = []
    act = module.act

    def watched(*arguments: Any, **options: Any) -> Trajectories:
        seen.append(act(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(module, "act", watched)
    return seen


@pytest.mark.parametrize("what", ["env", "decode", "train"])
def test_speeds_follow_from_the_median(env: ConstructiveEnv, what: str) -> None:
    """Instances and decisions per second are those of one repetition over its seconds."""
    found = bench(what, env, batch=2, rollouts=3, device="cpu")
    seconds = found["seconds_median"]
    assert 0 < seconds < 60
    assert found["instances_per_second"] == pytest.approx(2 / seconds)
    assert found["steps_per_second"] == pytest.approx(2 * 3 * 5 / seconds)
    assert 50e6 < found["peak_memory_bytes"] < 1e12
    assert found["versions"]["torch"] == torch.__version__
    assert (found["what"], found["device"], found["dtype"], found["acting"]) == (what, "cpu", "float32", "eager")


def test_median_leaves_out_the_warm_up(env: ConstructiveEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six runs the first is not timed, and the middle one of the other five counts."""
    runs: list[int] = []
    clock = iter([0, 5, 10, 11, 20, 29, 30, 33, 40, 42])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "walk", lambda setting: lambda: runs.append(1))
    assert bench("env", env, batch=1, rollouts=1, device="cpu")["seconds_median"] == 3
    assert len(runs) == REPETITIONS + 1 == 6


def test_walk_builds_whole_random_solutions(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rollout of the walk is a complete tour, and they differ."""
    actions: list[torch.Tensor] = []
    advance = type(setting.env).advance

    def watched(env: ConstructiveEnv, state: Any, action: torch.Tensor) -> Any:
        actions.append(action)
        return advance(env, state, action)

    monkeypatch.setattr(type(setting.env), "advance", watched)
    walk(setting)()
    tours = torch.stack(actions, dim=-1)
    assert tours.shape == (2, 3, 5)
    assert setting.env.violations(setting.instances, tours) == []
    assert len(set(map(tuple, tours.flatten(0, 1).tolist()))) > 1


def test_decode_builds_a_greedy_solution_from_each_start(setting: Setting, acted: list[Trajectories]) -> None:
    """Each start is decoded, the same in every run, without recording."""
    run = decode(setting)
    run()
    run()
    assert torch.equal(acted[0].actions[..., 0], setting.starts)
    assert setting.env.violations(setting.instances, acted[0].actions) == []
    assert torch.equal(acted[0].actions, acted[1].actions)
    assert acted[0].steps is None


def test_train_step_scores_what_it_did(
    setting: Setting, acted: list[Trajectories], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step acts from each start and gets POMO's loss of it, with gradients."""
    losses: list[torch.Tensor] = []
    loss = POMO.loss

    def watched(algorithm: POMO, trajectories: Trajectories) -> torch.Tensor:
        assert torch.equal(trajectories.actions, acted[-1].actions)
        losses.append(loss(algorithm, trajectories))
        losses[-1].retain_grad()
        return losses[-1]

    monkeypatch.setattr(POMO, "loss", watched)
    train_step(setting)()
    assert torch.equal(acted[0].actions[..., 0], setting.starts)
    assert losses[0].grad is not None


def test_starts_go_round(env: ConstructiveEnv, acted: list[Trajectories]) -> None:
    """More rollouts than the problem has starts begin with the first start again."""
    bench("decode", env, batch=1, rollouts=12, device="cpu")
    assert acted[0].actions[0, :, 0].tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_global_generator_is_untouched(env: ConstructiveEnv) -> None:
    """Random weights and instances come from generators of the measurement's own."""
    before = torch.random.get_rng_state()
    bench("train", env, batch=1, rollouts=2, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_missing_device_is_refused(env: ConstructiveEnv, device: str) -> None:
    """A device that torch does not know or that is not there is refused in one line."""
    with pytest.raises(ArgumentError, match=f"device: '{device}' is not allowed here") as refused:
        bench("env", env, batch=1, rollouts=1, device=device)
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["env", "decode", "train"])
def test_measures_on_a_gpu(env: ConstructiveEnv, what: str) -> None:
    """On a GPU the device is named, and the peak is that of its own memory."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = bench(what, env, batch=2, rollouts=3)
    assert found["device"] == "cuda"
    assert 0 < found["peak_memory_bytes"] < 2**30
