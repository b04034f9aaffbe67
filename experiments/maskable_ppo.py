"""Whether sb3-contrib's MaskablePPO learns on the Gymnasium environments with a flat network, over three seeds.

    nice python experiments/maskable_ppo.py --output out/maskable-ppo

The network is Stable-Baselines3's ``MlpPolicy`` on ``observation="features"``; nothing here knows a problem but by the
arguments of its constructor. Random actions, the untrained and the trained network (the most probable action) are
scored by the environment's referee on the same instances, ``env.seeded(instances, 1234)``. One thread.

References:
    Huang, Ontañón (2022), A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, FLAIRS.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv

import ncogym
from ncogym.baselines import SOLVERS
from ncogym.envs.gym import GymVectorEnv

CASES: list[tuple[str, dict[str, Any], str]] = [  # problem, its arguments, the solver that says what is possible
    ("tsp", {"num_nodes": 8}, "fast-tsp"),
    ("knapsack", {"num_items": 20}, "ortools"),
]


class Rows(VecEnv):
    """The rows of a `GymVectorEnv` as Stable-Baselines3 wants them, which begins new episodes at once."""

    def __init__(self, env: GymVectorEnv) -> None:
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        seed, self._seeds[0] = self._seeds[0], None
        return self.env.reset(seed=seed)[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, ended, _, info = self.env.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in ended.nonzero()[0]:
            infos[row] = {"terminal_observation": info["final_obs"][row], "TimeLimit.truncated": False}
        return observation, reward.astype(np.float32), ended, infos

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        return list(getattr(self.env, method_name)(*arguments, **options))  # one for each row: action_masks

    def has_attr(self, attr_name: str) -> bool:
        return hasattr(self.env, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        self.env.close()


def played(problem: str, arguments: dict[str, Any], count: int, model: MaskablePPO | None, seed: int) -> float:
    """Return the mean objective on the test set, by the referee: of random actions where there is no model."""
    core = ncogym.make(problem, **arguments)
    instances = core.seeded(count, 1234)
    env = GymVectorEnv(count, problem, observation="features", **arguments)
    env.action_space.seed(seed)
    observation, _ = env.reset(options={"instance": instances})
    # a row that has ended begins anew: its later actions are those of another instance, and padding takes their place
    ended, actions = np.zeros(count, dtype=np.bool_), []
    for _ in range(core.horizon(instances)):
        if model is None:
            action = env.action_space.sample()
        else:
            action, _ = model.predict(observation, action_masks=env.action_masks(), deterministic=True)
        actions.append(np.where(ended, -1, action))
        observation, _, finished, _, _ = env.step(action)
        ended |= finished
    taken = torch.from_numpy(np.stack(actions, axis=-1))
    scores = []
    for row, steps in enumerate(taken):
        instance, done = instances[row : row + 1], steps[steps >= 0][None, None]
        solution = core.padded(instance, done, taken.shape[1])
        if broken := core.violations(instance, solution):
            raise RuntimeError(f"row {row}: {broken[0].reason}")
        scores.append(float(core.objective(instance, solution)))
    return mean(scores)


def learned(problem: str, arguments: dict[str, Any], seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one network; return the mean objectives of random actions and of the network before and after."""
    rows = Rows(GymVectorEnv(options.rows, problem, observation="features", autoreset_mode="SameStep", **arguments))
    model = MaskablePPO(
        "MlpPolicy",
        rows,
        learning_rate=1e-3,
        n_steps=options.steps_per_update,
        batch_size=512,
        n_epochs=4,
        gamma=1.0,
        policy_kwargs={"net_arch": [128, 128]},
        seed=seed,
        device="cpu",
    )
    found = {"random": played(problem, arguments, options.instances, None, seed)}
    found["untrained"] = played(problem, arguments, options.instances, model, seed)
    begin = time.perf_counter()
    model.learn(options.steps)
    found["seconds"] = time.perf_counter() - begin
    found["trained"] = played(problem, arguments, options.instances, model, seed)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Read the arguments, train, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200_000, help="decisions that a network is trained on")
    parser.add_argument("--rows", type=int, default=64, help="episodes at a time")
    parser.add_argument("--steps-per-update", type=int, default=32)
    parser.add_argument("--instances", type=int, default=512, help="of the test set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("out/maskable-ppo"))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    print("| problem | seed | random | untrained | trained | solver | seconds of training |")
    print("|---|---|---|---|---|---|---|")
    written = []
    for problem, arguments, solver in CASES:
        core = ncogym.make(problem, **arguments)
        instances = core.seeded(options.instances, 1234)
        solutions = SOLVERS[solver]()(core, instances, None, torch.Generator().manual_seed(0))
        possible = mean(solution.objective for solution in solutions)
        name = f"{problem} {'x'.join(map(str, arguments.values()))}"
        found = []
        for seed in options.seeds:
            found.append(learned(problem, arguments, seed, options))
            written.append({"problem": name, "seed": seed, solver: possible} | found[-1])
            cells = [f"{found[-1][key]:.3f}" for key in ("random", "untrained", "trained")]
            print(
                "|",
                " | ".join([name, str(seed), *cells, f"{possible:.3f} {solver}", f"{found[-1]['seconds']:.0f}"]),
                "|",
                flush=True,
            )
        for key in ("random", "untrained", "trained"):
            values = [each[key] for each in found]
            spread = stdev(values) if len(values) > 1 else 0.0
            print(f"{name}, {key}: {mean(values):.3f} ± {spread:.3f} (standard deviation over seeds)", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "maskable_ppo.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
