"""Symmetry: solve images of an instance on which every solution has its objective, and keep the best.

On a plane these are the symmetries of the square; a job shop can be read backwards in time, and a matrix of distances
the other way round.

References:
    Kwon et al. (2020), POMO, NeurIPS, section 4.3 (instance augmentation by the 8 symmetries of the square).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from tensordict import TensorDict

from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError, NoSolutionFound
from ncogym.problem import Problem
from ncogym.search.base import Search
from ncogym.solution import Solutions, stacked
from ncogym.solver import Solver


class Symmetry(Search):
    """Run another solver on symmetric images of each instance; each image gets an equal share of what is left.

    A problem may have fewer images, down to the instance itself alone; then these share the budget.

    Args:
        inner: any solver.
        images: images per instance, the instance itself first (8: the dihedral group of the square).
        endless: go on with random images for as long as a finite budget lasts.
    """

    wraps = True

    def __init__(self, inner: Solver, images: int = 8, endless: bool = False) -> None:
        if images < 1:
            raise ArgumentError(f"images: {images} is not allowed; it must be at least 1")
        self.inner, self.images, self.endless = inner, images, endless
        self.name = "symmetry" if inner.name == "greedy" else f"{inner.name}+symmetry"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked solution of each instance over its images."""
        progress = Progress(env, instances, budget)
        limited, quickest = progress.budget.finite, math.inf
        wanted = min(self.images, 8)
        fixed = env.symmetries(instances, wanted)
        images = self.images if len(fixed) == wanted else len(fixed)
        for number in itertools.count():
            if number >= images and (len(fixed) < wanted or not (self.endless and limited)):
                break
            before = progress.seconds
            # not even the quickest image so far would end in time
            if progress.rollouts and (progress.spent or progress.budget.seconds - before < quickest):
                break
            share = 1 / max(images - number, 1)
            left = progress.left(share)  # without limits, too: it carries the cancel event
            image = fixed[number] if number < len(fixed) else env.symmetries(instances, 9, rng)[-1]
            try:
                found = self.inner(env, image, left, rng)
            except NoSolutionFound:
                if progress.actions is None:  # else an image before this one has some
                    raise
                break
            actions = stacked(env, image, [each.actions for each in found]).unsqueeze(1)
            back = env.imaged(image, actions, number)[:, 0]
            progress.take([replace(each, actions=own) for each, own in zip(found, back, strict=True)])
            quickest = min(quickest, progress.seconds - before)
        return progress.solutions(self.name)
