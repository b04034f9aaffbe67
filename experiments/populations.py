"""Populations and latent search against what they must beat: the tables of them in docs/results.md.

    python experiments/populations.py [--output out/results/populations] [--seeds 1 2 3] [--workers 2] [--only train]

A base policy is trained once for each problem. From it every variant takes as many updates of the same batch, seed by
seed: the base policy alone ("single"), K members with a loss each ("ensemble"), Poppy, COMPASS. `ncogym.study` then
solves the field's test sets with equal rollouts, under the referee: K a start for the populations, 160 and 1,600 a
start for the latent searches; and sets of mutated distributions that nobody trained on. What is done is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ncogym._resources import git_commit, machine, versions
from ncogym.algorithms import POMO, Algorithm, Compass, Poppy, Reinforce
from ncogym.budget import MaxRollouts
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.envs.routing.mutations import MUTATIONS
from ncogym.evaluation import Evaluation, seeds_ci95
from ncogym.plotting import draw_anytime, linear_below
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent, Population
from ncogym.report import anytime_curves
from ncogym.study import study
from ncogym.training.module import Optimiser
from ncogym.training.run import train

ATTENTION = partial(AttentionPolicy, dim=64, num_layers=3, num_heads=4, feedforward=256, norm="rms", pre_norm=True)
GRAPH = partial(GraphPolicy, dim=32, num_layers=3, num_heads=4, feedforward=128)
LATENTS, MEMBERS, MANY = 16, (4, 8), (160, 1600)
FEW, LESS = 100, 25  # instances of a mutated set
POWERS = (0.3, 0.7)
SECONDS = "seconds.txt"  # in a run folder


class Problem(NamedTuple):
    """What is trained on and tested on.

    Attributes:
        env: its name and arguments.
        policy: builds the base policy.
        single: builds its estimator.
        nodes_per_batch: see `ncogym.training.run.train`; the variants take half.
        base: updates of the base policy.
        updates: of each variant after it.
        starts: that a rollout each begins from; 1 where the problem has none worth trying.
        samples: rollouts of a member in training where there are no starts.
        test: a named set.
        many: how many of its instances 160 and 1,600 rollouts a start are run on.
        mutated: how the names of its sets of mutated distributions begin, and who solves them for reference.
        variants: that are trained.
    """

    env: dict[str, Any]
    policy: Callable[..., Any]
    single: Callable[[], Algorithm]
    nodes_per_batch: int
    base: int
    updates: int
    starts: int
    samples: int
    test: str
    many: tuple[int, int]
    mutated: tuple[str, str] | None = None
    variants: tuple[str, ...] = ("single", "ensemble 4", "poppy 4", "ensemble 8", "poppy 8", "compass")

    def times(self, count: object) -> str:
        """Write how many rollouts an instance has."""
        return f"{count} rollouts" + (f" from each of {self.starts} starts" if self.starts > 1 else "")


def sampled_single() -> Algorithm:
    """Return the estimator of a base policy whose problem has no starts worth trying."""
    return Reinforce("shared", rollouts=16, normalise=True)


PROBLEMS = {
    "TSP20": Problem(
        env={"name": "tsp", "num_nodes": 20},
        policy=ATTENTION,
        single=POMO,
        nodes_per_batch=1280,
        base=8000,
        updates=400,
        starts=20,
        samples=0,
        test="kool-tsp20:1000",
        many=(100, 40),
        mutated=("ncogym-tsp", "fast-tsp"),
        variants=(*Problem._field_defaults["variants"], "poppy 4 analytic"),
    ),
    "TSP50": Problem(
        env={"name": "tsp", "num_nodes": 50},
        policy=ATTENTION,
        single=POMO,
        nodes_per_batch=1600,
        base=2500,
        updates=150,
        starts=50,
        samples=0,
        test="kool-tsp50:500",
        many=(30, 5),
    ),
    "CVRP20": Problem(
        env={"name": "cvrp", "num_customers": 20},
        policy=ATTENTION,
        single=POMO,
        nodes_per_batch=1280,
        base=8000,
        updates=250,
        starts=20,
        samples=0,
        test="kool-cvrp20:1000",
        many=(60, 20),
        mutated=("ncogym-cvrp", "hgs"),
    ),
    "knapsack 50, strongly correlated": Problem(
        env={"name": "knapsack", "num_items": 50, "distribution": "strongly"},
        policy=ATTENTION,
        single=sampled_single,
        nodes_per_batch=1600,
        base=350,
        updates=50,
        starts=1,
        samples=4,
        test="pisinger-strongly-50",
        many=(100, 30),
    ),
    "job shop 6x6": Problem(
        env={"name": "jssp", "num_jobs": 6, "num_machines": 6},
        policy=GRAPH,
        single=sampled_single,
        nodes_per_batch=192,
        base=1500,
        updates=80,
        starts=1,
        samples=4,
        test="l2d-jssp6x6",
        many=(100, 30),
    ),
}


def slug(words: str) -> str:
    """Return words as the name of a file."""
    return re.sub("[^a-z0-9.]+", "-", words.lower())


class Run(NamedTuple):
    """One training: what of, and where it goes."""

    problem: str
    variant: str
    seed: int
    folder: Path

    @property
    def at(self) -> Path:
        """The run folder."""
        return self.folder / slug(f"{self.problem} {self.variant} {self.seed}")

    @property
    def policy(self) -> str:
        """The folder of its weights."""
        return str(self.at / "policy")

    @property
    def before(self) -> Run | None:
        """What it begins with, or None where it begins with weights that the seed draws."""
        return None if self.variant == "base" else self._replace(variant="base", seed=1)

    def make(self) -> None:
        """Train, unless it is done."""
        if Path(self.policy).exists():
            return
        torch.set_num_threads(1)
        problem, begun = PROBLEMS[self.problem], self.at / "last.ckpt"
        policy, algorithm, rate = self._how(problem)
        first, since = self.before is None, time.process_time()
        train(
            make(**problem.env),
            make_solver,
            policy=policy,
            algorithm=algorithm,
            nodes_per_batch=problem.nodes_per_batch // (1 if first else 2),
            optimiser=Optimiser(lr=rate, warmup_steps=50 if first else 20, anneal=0.4),
            max_steps=problem.base if first else problem.updates,
            checkpoint_every=100,
            threads=1,
            seed=self.seed,
            init=None if self.before is None else self.before.policy,
            output=str(self.at),
            resume=begun.exists(),
        )
        (self.at / SECONDS).write_text(f"{time.process_time() - since:.1f}\n")  # of the last part, if it was resumed

    def _how(self, problem: Problem) -> tuple[Callable[..., Any], Algorithm, float]:
        """Return policy, algorithm and learning rate."""
        kind, *words = self.variant.split()
        base, samples = problem.policy, problem.samples
        if kind in ("base", "single"):
            return base, problem.single(), 1e-3 if kind == "base" else 2e-4
        if kind == "compass":
            return partial(Latent, base=base), Compass(latents=LATENTS, samples=samples), 2e-4
        population = partial(Population, members=int(words[0]), base=base)
        if kind == "ensemble":
            return population, Poppy("pomo", samples=samples, objective="mean"), 2e-4
        return population, Poppy("analytic" if "analytic" in words else "pomo", samples=samples), 2e-4


def trained(given: argparse.Namespace) -> list[str]:
    """Return for each problem the processor seconds that its variants' updates took, medians over the seeds."""
    lines = []
    for name, problem in PROBLEMS.items():
        told = []
        for variant in problem.variants:
            files = [Run(name, variant, seed, given.output).at / SECONDS for seed in given.seeds]
            if all(file.exists() for file in files):
                told.append(f"{variant} {statistics.median(float(file.read_text()) for file in files):.0f} s")
        if told:
            lines.append(f"  - {name}: {', '.join(told)}")
    return lines


def needed(runs: Sequence[Run]) -> list[Run]:
    """Return what the runs begin with."""
    return list(dict.fromkeys(run.before for run in runs if run.before is not None))


# ---------------------------------------------------------------------- measuring


Gaps = list[list[float]]  # of each seed, of each instance


class Method(NamedTuple):
    """A row of a table: a solver with the policies of a variant."""

    label: str
    solver: str
    variant: str


def sampled(problem: Problem) -> str:
    """Return the solver that samples a plain policy."""
    return "multistart+sampling" if problem.starts > 1 else "sampling"


def greedy(problem: Problem) -> str:
    """Return the solver that a plain policy takes one rollout a start with."""
    return "multistart" if problem.starts > 1 else "sampling"


def compared(
    name: str, methods: Sequence[Method], at: str, rollouts: int, given: argparse.Namespace, judge: str
) -> tuple[Evaluation, dict[str, Gaps]]:
    """Solve a set with all methods and seeds, ``rollouts`` a start; return the gaps of each method, seed by seed."""
    solvers = [
        f"{method.label} #{seed}={method.solver}@{Run(name, method.variant, seed, given.output).policy}"
        for method in methods
        for seed in given.seeds
    ]
    problem = PROBLEMS[name]
    (found,) = study(
        None,
        [at],
        solvers,
        [MaxRollouts(rollouts * problem.starts)],
        seed=1234,
        reference=judge or None,
        reference_seconds=0.3 if judge else None,
        workers=given.workers,
        journals=given.output / "journals" / slug(f"{at} {rollouts} {' '.join(method.label for method in methods)}"),
    )
    gaps: dict[str, Gaps] = {}
    for method in methods:
        gaps[method.label] = []
        for seed in given.seeds:
            records = found.by_solver[f"{method.label} #{seed}"]
            each = [records[row].gap_percent for row in sorted(records)]
            if any(gap is None for gap in each):
                raise RuntimeError(f"{at}, {method.label}: an instance is not solved or has no reference")
            gaps[method.label].append([gap for gap in each if gap is not None])
    return found, gaps


def row(label: str, gaps: Gaps, others: Sequence[Gaps]) -> str:
    """Write a row: the mean gap with its interval, each seed's, and the paired differences to others."""
    values = torch.tensor(gaps, dtype=torch.float64)
    cells = [label, f"{values.mean():.3f} {_bounds(values)}", ", ".join(f"{statistics.fmean(one):.3f}" for one in gaps)]
    for other in others:
        difference = values - torch.tensor(other, dtype=torch.float64)
        cells.append("" if other is gaps else f"{difference.mean():+.3f} {_bounds(difference)}")
    return f"| {' | '.join(cells)} |"


def _bounds(values: torch.Tensor) -> str:
    found = seeds_ci95(values)
    return "" if found is None else f"[{found[0]:.3f}, {found[1]:.3f}]"


def heading(others: Sequence[str]) -> list[str]:
    """Return the head of a table."""
    titles = ["method", "gap % [95 %]", "of each seed", *(f"paired difference to {other} [95 %]" for other in others)]
    return [f"| {' | '.join(titles)} |", "| --- |" + " ---: |" * (len(titles) - 1)]


def populations(name: str, at: str, given: argparse.Namespace, judge: str = "") -> list[str]:
    """Compare populations with ensembles and with as many samples, K rollouts a start."""
    problem, lines = PROBLEMS[name], heading(["the ensemble", "as many samples"])
    _, alone = compared(name, [Method("single", greedy(problem), "single")], at, 1, given, judge)
    lines.append(row("single policy", alone["single"], [alone["single"]] * 2))
    for k in MEMBERS:
        methods = [
            Method("samples", sampled(problem), "single"),
            Method("ensemble", "poppy", f"ensemble {k}"),
            Method("poppy", "poppy", f"poppy {k}"),
            *(
                [Method("analytic", "poppy", analytic)]
                if (analytic := f"poppy {k} analytic") in problem.variants
                else []
            ),
        ]
        _, gaps = compared(name, methods, at, k, given, judge)
        told = {"samples": f"single policy, {k} samples", "ensemble": f"ensemble of {k}", "poppy": f"Poppy {k}"}
        told["analytic"] = f"Poppy {k}, analytic baseline"
        others = [gaps["ensemble"], gaps["samples"]]
        lines += [row(told[label], mine, others) for label, mine in gaps.items()]
    return [*lines, ""]


def latents(name: str, at: str, rollouts: int, given: argparse.Namespace, judge: str = "") -> list[str]:
    """Compare latent search with random latents and with samples of the base policy."""
    problem = PROBLEMS[name]
    methods = [
        Method("single policy, samples", sampled(problem), "single"),
        Method("Poppy 8, then its best pairs sampled", "poppy", "poppy 8"),
        Method("COMPASS, random latents", "compass-random", "compass"),
        Method("COMPASS, CMA-ES", "compass", "compass"),
    ]
    found, gaps = compared(name, methods, at, rollouts, given, judge)
    if rollouts == max(MANY) and not judge:
        curves(found, methods, given, name)
    others = [gaps["COMPASS, random latents"], gaps["single policy, samples"]]
    return [*heading(["random latents", "samples"]), *(row(label, mine, others) for label, mine in gaps.items()), ""]


def curves(found: Evaluation, methods: Sequence[Method], given: argparse.Namespace, name: str) -> None:
    """Draw the mean gap against rollouts and against seconds, of the first seed."""
    for by in ("rollouts", "seconds"):
        drawn = anytime_curves(found, by=by)
        mine = {method.label: drawn[f"{method.label} #{given.seeds[0]}"] for method in methods}
        given.output.mkdir(parents=True, exist_ok=True)
        threshold = linear_below([gap for curve in mine.values() for _, gap in curve])
        draw_anytime(mine, given.output / f"{slug(name)}-{by}.png", "gap %", name, threshold, by)


def tables(name: str, given: argparse.Namespace) -> list[str]:
    """Return all tables of a problem."""
    problem = PROBLEMS[name]
    lines = [
        f"### {name}",
        "",
        f"{problem.test}, {problem.times('K')}:",
        "",
    ]
    lines += populations(name, problem.test, given)
    for rollouts, count in zip(MANY, problem.many, strict=True):
        at = f"{problem.test.partition(':')[0]}:{count}"
        lines += [f"{at}, {problem.times(rollouts)}:", "", *latents(name, at, rollouts, given)]
    return lines


def mutated(name: str, given: argparse.Namespace) -> list[str]:
    """Return the table of a problem away from the distribution that its policies were trained on."""
    problem = PROBLEMS[name]
    if problem.mutated is None:
        return []
    before, judge = problem.mutated
    few = [
        Method("8 samples", sampled(problem), "single"),
        Method("ensemble 8", "poppy", "ensemble 8"),
        Method("Poppy 8", "poppy", "poppy 8"),
    ]
    many = [
        Method("160 samples", sampled(problem), "single"),
        Method("160 random latents", "compass-random", "compass"),
        Method("COMPASS, 160", "compass", "compass"),
    ]
    pairs = (("Poppy 8", "ensemble 8"), ("COMPASS, 160", "160 random latents"))
    columns = [method.label for method in (*few, *many)]
    lines = [
        f"### {name}, mutated",
        "",
        f"Mean gap % to {judge}; the first three by 8 rollouts a start on {FEW} instances a set, the others on {LESS}:",
        "",
        f"| set | {' | '.join(columns)} | {' | '.join(f'{one} less {other} [95 %]' for one, other in pairs)} |",
        "| --- |" + " ---: |" * (len(columns) + len(pairs)),
    ]
    found: dict[str, list[torch.Tensor]] = {label: [] for label in columns}
    for mutation, power in itertools.product(MUTATIONS, POWERS):
        gaps: dict[str, Gaps] = {}
        for methods, rollouts, count in ((few, 8, FEW), (many, MANY[0], LESS)):
            gaps |= compared(name, methods, f"{before}-{mutation}-{power}-20:{count}", rollouts, given, judge)[1]
        values = {label: torch.tensor(mine, dtype=torch.float64) for label, mine in gaps.items()}
        lines.append(_mutated_row(f"{mutation} {power}", columns, values, pairs))
        for label, mine in values.items():
            found[label].append(mine)
    whole = {label: torch.cat(mine, 1) for label, mine in found.items()}
    return [*lines, _mutated_row("all", columns, whole, pairs), ""]


def _mutated_row(
    label: str, columns: Sequence[str], values: dict[str, torch.Tensor], pairs: Sequence[tuple[str, str]]
) -> str:
    differences = [values[one] - values[other] for one, other in pairs]
    cells = [f"{values[column].mean():.3f}" for column in columns]
    cells += [f"{each.mean():+.3f} {_bounds(each)}" for each in differences]
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    """Train what is missing, then write table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/results/populations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--only", choices=["train", "tables", "mutated"], help="one part alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [
        Run(problem, variant, seed, given.output)
        for seed in given.seeds
        for problem in given.problems
        for variant in PROBLEMS[problem].variants
    ]
    if given.only in (None, "train"):
        for stage in (needed(runs), runs):
            with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                for number, _ in enumerate(pool.map(Run.make, stage), start=1):
                    print(f"trained {number} of {len(stage)}: {stage[number - 1].at}", flush=True)
    parts = {"tables": tables, "mutated": mutated}
    for part, write in parts.items():
        if given.only in (None, part):
            for name in given.problems:
                (given.output / f"{part}-{slug(name)}.md").write_text("\n".join(write(name, given)))
    told = [given.output / f"{part}-{slug(name)}.md" for part in parts for name in PROBLEMS]
    lines = [path.read_text() for path in told if path.exists()]
    seeds = " ".join(map(str, given.seeds))
    lines += [
        f"- gaps are means over the training seeds {seeds}, with 95 % intervals over instances and seeds "
        "(ncogym.evaluation.seeds_ci95), of the variants' training alone: all begin with one base policy; one thread",
        "- as many updates are not as much compute: with K members one takes up to K times as much acting as with one "
        "policy; processor seconds of the updates after the base policy, medians over the seeds:",
        *trained(given),
        "- weights: none that ship, all were trained for this table",
        f"- `python experiments/populations.py --seeds {seeds} --workers {given.workers}`, commit {git_commit()}",
        f"- {machine()}; " + ", ".join(f"{name} {version}" for name, version in versions().items()),
        "",
    ]
    (given.output / "table.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
