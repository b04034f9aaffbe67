"""Labelled instances for imitation: generated, solved by any Solver, kept on disk, resumable chunk by chunk.

A chunk holds instances of one size and its own seed, so the whole pool follows from (env, sizes, seed, number of
chunks) and from how good the labeller is in its time; a pool that was cut off goes on where it ended.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torch import Tensor

from ncogym.distributed import barrier, is_main, rank, world
from ncogym.errors import ArgumentError
from ncogym.solver import Budget, Solver


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
        env: Any,
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
        recipe = {
            "env": env.name,
            "arguments": {k: v for k, v in env.arguments().items() if v != env.size},
            "chunk_size": chunk_size,
            "seed": seed,
            "labeller": labeller.name,
            **{k: v for k in ("seconds", "rollouts") if (v := getattr(budget, k)) < math.inf},
        }
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = Path(folder) / key
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_main():
            (self.folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")

    def path(self, chunk: int) -> Path:
        """Return the file of a chunk; its name tells the size, so pools of other size ranges do not collide."""
        return self.folder / f"{chunk:05d}-{self.sizes[chunk]}.safetensors"

    def missing(self) -> list[int]:
        """Return the chunks of this process's share that are not labelled yet."""
        return [chunk for chunk in range(rank(), self.chunks, world()) if not self.path(chunk).exists()]

    def label(self, chunk: int) -> None:
        """Generate and solve one chunk; the file appears whole or not at all."""
        env = self.env.resized(self.sizes[chunk])
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + chunk)
        instances = env.generate(self.chunk_size, rng)
        solutions = self.labeller(env, instances, self.budget, rng)
        steps = max(len(s.actions) for s in solutions)
        padded = [
            env.padded(instances[row : row + 1], s.actions[None, None], steps)[0, 0] for row, s in enumerate(solutions)
        ]
        actions = torch.stack(padded).to(torch.int16)
        partial = self.path(chunk).with_suffix(".partial")
        save_file({**{k: v.contiguous() for k, v in instances.items()}, "actions": actions}, str(partial))
        partial.replace(self.path(chunk))

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

            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                for chunk, _ in zip(missing, pool.map(self.label, missing), strict=True):
                    yield chunk
        barrier()

    def load(self, chunk: int) -> tuple[TensorDict, Tensor]:
        """Return a chunk's instances ``[chunk_size]`` and actions, int64 ``[chunk_size, 1, steps]``."""
        tensors = load_file(str(self.path(chunk)))
        actions = tensors.pop("actions").long().unsqueeze(1)
        return TensorDict(tensors, batch_size=[actions.shape[0]]), actions
