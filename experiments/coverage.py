"""How often 95 % intervals of a mean hold the true mean: the table of docs/decisions/intervals.md.

    python experiments/coverage.py [--samples 4000] [--seed 1]

Values are drawn from laws such as gaps and paired differences have (many zeros, a long tail), and with replacement from
the gaps of two heuristics on 1,000 instances whose references ship. Of every sample an interval is computed in three
ways; the share of samples whose interval holds the true mean should be 95 %, and 4,000 samples measure it to within 0.7
points. The last column is the median width of the package's interval in units of the bootstrap's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ncogym._resources import git_commit
from ncogym.budget import Budget
from ncogym.evaluation import mean_ci95, student_quantile
from ncogym.study import study

COUNTS = (5, 10, 32, 100)
RESAMPLES = 1000

Draw = Callable[[int, int, torch.Generator], Tensor]  # samples and their size -> values [samples, size]


def exponential(samples: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw from the exponential law of mean 1."""
    return torch.empty(samples, size, dtype=torch.float64).exponential_(generator=rng)


def with_zeros(share: float) -> Draw:
    """Return a law of which a share is 0, instances that are solved, and the others are exponential."""

    def draw(samples: int, size: int, rng: torch.Generator) -> Tensor:
        kept = torch.rand(samples, size, generator=rng, dtype=torch.float64) >= share
        return exponential(samples, size, rng) * kept

    return draw


def lognormal(samples: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw from the lognormal law of median 1."""
    return torch.randn(samples, size, generator=rng, dtype=torch.float64).exp()


def difference(samples: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw the difference of two solvers that are equally good: half of their gaps are 0."""
    one, other = with_zeros(0.5), with_zeros(0.5)
    return one(samples, size, rng) - other(samples, size, rng)


def measured(name: str, solver: str) -> tuple[Draw, float]:
    """Return how to draw from the gaps of a solver on a named set, and their mean."""
    (found,) = study(None, [name], [solver], [Budget()])
    gaps = torch.tensor([record.gap_percent for record in found.records], dtype=torch.float64)

    def draw(samples: int, size: int, rng: torch.Generator) -> Tensor:
        return gaps[torch.randint(len(gaps), (samples, size), generator=rng)]

    return draw, float(gaps.mean())


def student(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of Student's interval of each row."""
    size = values.shape[1]
    half = student_quantile(size - 1) * values.std(1) / math.sqrt(size)
    return values.mean(1) - half, values.mean(1) + half


def bootstrap(values: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the ends of the percentile bootstrap's interval of each row."""
    levels, ends = torch.tensor([0.025, 0.975], dtype=torch.float64), []
    for row in values:
        means = row[torch.randint(len(row), (RESAMPLES, len(row)), generator=rng)].mean(1)
        ends.append(means.quantile(levels))
    return tuple(torch.stack(ends).unbind(1))  # type: ignore[return-value]


def package(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of `mean_ci95` of each row."""
    ends = torch.tensor([mean_ci95(row) for row in values], dtype=torch.float64)
    return ends[:, 0], ends[:, 1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    laws: dict[str, tuple[Draw, float]] = {
        "exponential": (exponential, 1.0),
        "half are 0, else exponential": (with_zeros(0.5), 0.5),
        "80 % are 0, else exponential": (with_zeros(0.8), 0.2),
        "lognormal": (lognormal, math.exp(0.5)),
        "difference of two, each half 0": (difference, 0.0),
        "farthest insertion on kool-tsp50:1000": measured("kool-tsp50:1000", "farthest-insertion"),
        "2-opt on kool-tsp20:1000": measured("kool-tsp20:1000", "two-opt"),
    }
    print("| values | instances | percentile bootstrap | Student's t | the package's | times as wide |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (draw, mean) in laws.items():
        for size in COUNTS:
            rng = torch.Generator().manual_seed(given.seed)
            values = draw(given.samples, size, rng)
            found = [bootstrap(values, rng), student(values), package(values)]
            # where all values are equal, rounding must not decide
            shares = [float(((low - 1e-9 <= mean) & (mean <= high + 1e-9)).double().mean()) for low, high in found]
            widths = [float((high - low).median()) for low, high in (found[0], found[2])]
            wide = f"{widths[1] / widths[0]:.2f}" if widths[0] else ""
            print(f"| {name} | {size} | {' | '.join(f'{share:.1%}' for share in shares)} | {wide} |", flush=True)
    command = f"python experiments/coverage.py --samples {given.samples} --seed {given.seed}"
    print(f"\n- `{command}`, commit {git_commit()}; weights: none that ship")


if __name__ == "__main__":
    main()
