"""Labelled instances for imitation: a pool of mixed sizes that is made here, or a file of `ncogym generate --labels`.

A chunk of the pool holds instances of one size and its own seed, so the whole pool follows from (env, sizes, seed,
number of chunks) and from how good the labeller is in its time; a pool that was cut off goes on where it ended. No file
is trusted: each process has the referee check and score the labels of a chunk when it first reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tensordict import TensorDict
from torch import Tensor

from ncogym._files import whole
from ncogym.budget import Budget
from ncogym.distributed import barrier, is_main, rank, world
from ncogym.errors import ArgumentError, InvalidSolution
from ncogym.problem import Problem
from ncogym.references import check_solutions, end_with_parent, in_one, told_settings
from ncogym.sets import open_set, published_among
from ncogym.solver import Solver
from ncogym.task import Task


class LabelledPool:
    """Instances of mixed sizes with the solutions of a labeller.

    Args:
        env: the problem and its distribution.
        low: smallest size, inclusive.
        high: largest size, inclusive; sizes are drawn log-uniformly, so that every scale is met as often.
        chunks: number of chunks.
        chunk_size: instances per chunk.
        seed: of the sizes and the instances.
        folder: where the chunks are kept.
        labeller: the solver that provides the solutions.
        budget: of the labeller, per instance.
    """

    def __init__(
        self,
        env: Task,
        low: int,
        high: int,
        chunks: int,
        chunk_size: int,
        seed: int,
        folder: str | Path,
        labeller: Solver,
        budget: Budget,
    ) -> None:
        if not 0 < low <= high:
            raise ArgumentError(f"sizes: {low} to {high} is not allowed; it takes 0 < low <= high")
        self.env, self.labeller, self.budget = env, labeller, budget
        self.chunks, self.chunk_size, self.seed = chunks, chunk_size, seed
        draw = torch.rand(chunks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        sizes = torch.exp(math.log(low - 0.5) + draw * math.log((high + 0.5) / (low - 0.5))).round()
        self.sizes: list[int] = sizes.long().clamp(low, high).tolist()
        self._checked: set[int] = set()
        self.folder = Path(folder)
        self._settings, self._folders = told_settings(labeller), dict[int, Path]()

    def path(self, chunk: int) -> Path:
        """Return the file of a chunk, in a folder that is named after all that its labels follow from but its number.

        So pools share the chunks that they have in common, whatever the range of their sizes is.
        """
        size = self.sizes[chunk]
        if size not in self._folders:
            self._folders[size] = self.folder / self._key(size)
        return self._folders[size] / f"{chunk:05d}-{size}.safetensors"

    def _key(self, size: int) -> str:
        """Return the name of the folder for chunks of a size, and leave the recipe that it stands for there."""
        recipe = {
            "env": self.env.name,
            "arguments": self.env.resized(size).arguments(),
            "chunk_size": self.chunk_size,
            "seed": self.seed,
            "labeller": self.labeller.name,
            "settings": self._settings,
            **{k: v for k in ("seconds", "rollouts") if (v := getattr(self.budget, k)) < math.inf},
        }
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
        if is_main():
            (self.folder / key).mkdir(parents=True, exist_ok=True)
            (self.folder / key / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
        return key

    def missing(self) -> list[int]:
        """Return the chunks of this process's share that are not labelled yet."""
        return [chunk for chunk in range(rank(), self.chunks, world()) if not self.path(chunk).exists()]

    def label(self, chunk: int) -> None:
        """Generate and solve one chunk; the file appears whole or not at all.

        Raises:
            ArgumentError: an instance is in a published set.
            InvalidSolution: a solution of the labeller breaks a constraint, so that it is no label.
        """
        env = self.env.resized(self.sizes[chunk])
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + chunk)
        instances = env.generate(self.chunk_size, rng)
        _refuse_published(env, instances, f"seed: {self.seed} is not allowed for labels")
        solutions = self.labeller(env, instances, self.budget, rng)
        for row, solution in enumerate(solutions):
            if not solution.feasible:
                raise InvalidSolution(f"label by {self.labeller.name}, instance {row}: {solution.violation}")
        labels = {
            "actions": in_one(env, [instances], [solution.actions for solution in solutions]),
            "objective": torch.tensor([solution.objective for solution in solutions], dtype=torch.float64),
        }
        path = self.path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as made:
            made.write_bytes(save({**{k: v.contiguous() for k, v in instances.items()}, **labels}))

    def fill(self, workers: int = 1) -> Iterator[int]:
        """Label what is missing of this process's share in worker processes, yielding each chunk as it is done.

        Where several processes share the work, all must come to the end of it: there they wait for one another.
        """
        missing = self.missing()
        if workers <= 1:
            for chunk in missing:
                self.label(chunk)
                yield chunk
        else:
            import multiprocessing

            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
                for chunk, _ in zip(missing, pool.map(self.label, missing), strict=True):
                    yield chunk
        barrier()

    def load(self, chunk: int) -> tuple[TensorDict, Tensor]:
        """Return a chunk's instances ``[chunk_size]`` and actions, int64 ``[chunk_size, 1, steps]``.

        Raises:
            ArgumentError: the chunk's file cannot be read.
            InvalidSolution: a label breaks a constraint, or has another objective than the file says.
        """
        path = self.path(chunk)
        try:
            tensors = load_file(str(path))
            actions, objective = tensors.pop("actions").long(), tensors.pop("objective")
            instances = TensorDict(tensors, batch_size=[len(actions)])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ArgumentError(f"{path}: it cannot be read ({error}); delete it to label it again") from error
        if chunk not in self._checked:
            check_solutions(self.env, instances, actions, objective, path)
            self._checked.add(chunk)
        return instances, actions.unsqueeze(1)


class LabelledFile:
    """The instances of a labelled file, all of one size: a pool of one chunk.

    Args:
        env: the problem that is trained on, whose referee checks the labels.
        path: a file that ``ncogym generate --labels`` wrote.

    Attributes:
        chunks: 1.
        sizes: the size of the instances.

    Raises:
        ArgumentError: there is no such file, an instance has no label, or one is in a published set.
        InstanceError: it is malformed.
        InvalidSolution: a label breaks a constraint, or has another objective than the file says.
    """

    chunks = 1

    def __init__(self, env: Task, path: str | Path) -> None:
        held = open_set(str(path), env.name)
        labels = [actions for actions in held.actions if actions is not None]
        if len(labels) < held.count or len(held.blocks) > 1:
            allowed = "it must have a label for each instance, and all of one size; `ncogym generate --labels` does"
            raise ArgumentError(f"labels.file: {path} is not allowed; {allowed}")
        self.env, self.sizes, (instances,), actions = env, [held.sizes[0]], held.blocks, torch.stack(labels)
        _refuse_published(env, instances, f"labels.file: {path} is not allowed")
        check_solutions(env, instances, actions, held.best_known, path)  # by the dynamics that are trained on
        self._chunk = instances, actions.unsqueeze(1)

    def load(self, chunk: int) -> tuple[TensorDict, Tensor]:
        """Return the instances ``[batch]`` and actions, int64 ``[batch, 1, steps]``."""
        return self._chunk


def _refuse_published(env: Problem, instances: TensorDict, words: str) -> None:
    """Refuse to train on instances of a published set; ``words`` begin the line."""
    if known := published_among(env, instances):
        total = len(instances)
        told = " and ".join(f"{count} of its {total} instances are in {name}" for name, count in known.items())
        allowed = "who trains on a published set cannot be measured on it; another seed draws others"
        raise ArgumentError(f"{words}; {told}, and {allowed}")
