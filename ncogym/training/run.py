"""`train`: from typed settings to a run folder with the resolved config, metrics, a checkpoint and the weights."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from ncogym.algorithms.base import Algorithm
from ncogym.algorithms.pomo import POMO
from ncogym.errors import ArgumentError, CheckpointError
from ncogym.evaluation import reference_objectives
from ncogym.features import FeatureDims
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.pretrained import load_policy, save_policy
from ncogym.solver import Budget, MaxRollouts, MaxSeconds, Solver
from ncogym.training.callbacks import Interrupted, Interruptible, Speed, Validation, ValidationSet
from ncogym.training.data import Generated, Labelled
from ncogym.training.labels import LabelledPool
from ncogym.training.module import Optimiser, TrainingModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """Where labels come from, for algorithms that imitate.

    Attributes:
        solver: name of the solver that labels.
        seconds: its time per instance, or None.
        rollouts: its rollouts per instance (HGS: iterations without improvement), or None.
        chunks: chunks of the pool, each of one size.
        chunk_size: instances per chunk.
        workers: processes that label at the same time.
        folder: where pools are kept, so that runs share them.
        rotations: share of the batches under a random rotation instead of one of the first 8 symmetries.
    """

    solver: str = "fast-tsp"
    seconds: float | None = 0.01
    rollouts: int | None = None
    chunks: int = 300
    chunk_size: int = 512
    workers: int = 1
    folder: str = "runs/labels"
    rotations: float = 0.25


@dataclass(frozen=True)
class ValidationSettings:
    """What is solved after every epoch.

    Attributes:
        sizes: one set of instances for each.
        instances: instances per set.
        seed: of the sets.
        solver: name of the search around the policy.
        rollouts: its rollouts per instance, or None, where it ends of its own accord.
        reference: name of the solver that the gap is to; its objectives are cached.
        reference_seconds: its time per instance.
        folder: where the references are cached.
    """

    sizes: Sequence[int] = ()
    instances: int = 128
    seed: int = 4321
    solver: str = "multistart"
    rollouts: int | None = None
    reference: str = "fast-tsp"
    reference_seconds: float = 0.1
    folder: str = "runs/references"


# frozen, so that they can be defaults that `--help` and the resolved config show
LABELS, OPTIMISER, VALIDATION = Labels(), Optimiser(), ValidationSettings()


def train(
    env: Any,
    make_solver: Callable[..., Solver],
    *,
    policy: Callable[[FeatureDims], Policy] | None = None,
    algorithm: Algorithm | None = None,
    sizes: tuple[int, int] | None = None,
    nodes_per_batch: int = 6400,
    labels: Labels = LABELS,
    optimiser: Optimiser = OPTIMISER,
    validation: ValidationSettings = VALIDATION,
    max_steps: int = 1000,
    steps_per_epoch: int = 250,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: str = "auto",
    threads: int = 0,
    max_queries: int = 0,
    checkpoint_every: int = 100,
    seed: int = 1234,
    init: str | None = None,
    output: str = "runs/train",
    resume: bool = False,
    config: dict[str, Any] | None = None,
    bar: Callable[[], AbstractContextManager[Callable[[str, int, int], None] | None]] = nullcontext,
) -> Path:
    """Train a policy.

    Args:
        env: the problem and its distribution.
        make_solver: builds a solver from its name and, for a search, a policy.
        policy: builds the policy from the environment's feature widths; `AttentionPolicy` where None.
        algorithm: the estimator; POMO where None.
        sizes: smallest and largest size of the training instances; None trains on the environment's own size.
        nodes_per_batch: nodes (jobs, items) of a batch; instances per batch follow from their size.
        labels: the labelled pool, for algorithms that imitate.
        optimiser: AdamW's settings and schedule.
        validation: what is solved after every epoch.
        max_steps: training steps in all.
        steps_per_epoch: steps between two validations.
        precision: of the network; objectives, logits and log-probabilities stay in float32.
        accelerator: Lightning's: auto, cpu or gpu.
        threads: CPU threads; 0 leaves torch's own number.
        max_queries: decisions per instance that the scoring pass holds at a time; 0 holds all.
        checkpoint_every: steps between two checkpoints.
        seed: of the initial weights and of everything drawn in training.
        init: name or folder of a policy to start from; its architecture must be that of ``policy``.
        output: the run folder.
        resume: go on from the folder's checkpoint, with the numbers of a run that was never interrupted.
        config: the resolved settings, written to the run folder.
        bar: opens a progress bar for the labelling and gives a function (what, done, total) that moves it, or None.

    Returns:
        The run folder; ``policy/`` in it holds the weights and their card.

    Raises:
        ArgumentError: a setting is not allowed, or the folder holds a run already and ``resume`` is false.
        CheckpointError: there is nothing to resume.
        KeyboardInterrupt: the run was interrupted, after its checkpoint was written.
    """
    folder = Path(output)
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        raise ArgumentError(f"output: {folder} already holds a run; pass --resume true to go on, or another folder")
    if resume and not last.exists():
        raise CheckpointError(f"resume: {last} does not exist")
    if threads:
        torch.set_num_threads(threads)
    algorithm = algorithm or POMO()
    low, high = sizes or (env.size, env.size)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"versions": versions(), "commit": git_commit(), "config": config or {}}
    (folder / "run.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    kept = _metrics(folder / "metrics.csv", last) if resume else []

    source: Generated | Labelled
    if algorithm.imitates:
        budget = Budget(labels.seconds or math.inf, labels.rollouts or math.inf)
        labeller = make_solver(labels.solver)
        pool = LabelledPool(env, low, high, labels.chunks, labels.chunk_size, seed, labels.folder, labeller, budget)
        with bar() as move:
            missing = len(pool.missing())
            for done, chunk in enumerate(pool.fill(labels.workers), start=1):
                log.info("labelled chunk %d (%d of %d)", chunk, done, missing)
                if move is not None:
                    move("labelling", done, missing)
        source = Labelled(pool, nodes_per_batch, labels.rotations)
    else:
        source = Generated(env, low, high, nodes_per_batch)

    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = (policy or AttentionPolicy)(env.feature_dims)
    if init is not None:
        network.load_state_dict(load_policy(init).policy.state_dict())
    module = TrainingModule(network, algorithm, source, optimiser, max_steps, steps_per_epoch, seed, max_queries)

    log_every = min(25, steps_per_epoch)
    with _quiet():
        logger = CSVLogger(folder, name="", version="")
        if resume:
            # Lightning would start the table anew; keep the rows of the steps that the checkpoint has seen
            logger.experiment.metrics = kept
        trainer = pl.Trainer(
            max_steps=max_steps,
            accelerator=accelerator,
            devices=1,
            precision=precision,
            gradient_clip_val=optimiser.gradient_clip or None,
            logger=logger,
            log_every_n_steps=log_every,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[
                Validation(
                    _validation_sets(env, validation, make_solver),
                    lambda p: make_solver(validation.solver, p),
                    MaxRollouts(validation.rollouts) if validation.rollouts else None,
                ),
                Speed(log_every),
                Interruptible(last),
                ModelCheckpoint(
                    folder, filename="last", every_n_train_steps=checkpoint_every, enable_version_counter=False
                ),
                *([TQDMProgressBar(refresh_rate=1)] if sys.stderr.isatty() else []),
            ],
        )
        try:
            trainer.fit(module, ckpt_path=last if resume else None, weights_only=True)
        except Interrupted as signalled:
            raise KeyboardInterrupt(str(signalled)) from signalled
        trainer.save_checkpoint(last)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    card = {
        "env": {"name": env.name, "arguments": env.arguments()},
        "sizes": [low, high],
        "training": {"steps": trainer.global_step, **facts},
        "validation": {"seed": validation.seed, "solver": validation.solver, **metrics},
    }
    save_policy(module.policy, folder / "policy", card)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of every run and what does not hold here."""
    talker = logging.getLogger("lightning.pytorch")
    level = talker.level
    talker.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # what a step sees depends on its number alone, so a run may go on in the middle of an epoch
        warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        try:
            yield
        finally:
            talker.setLevel(level)


def _metrics(path: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """Return the logged rows up to the step of a checkpoint."""
    if not path.exists():
        return []
    reached = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if v != ""} for row in rows if int(row["step"]) < reached]


def _validation_sets(env: Any, settings: ValidationSettings, make_solver: Callable[..., Solver]) -> list[ValidationSet]:
    sets = []
    for size in settings.sizes:
        sized = env.resized(size)
        instances = sized.seeded(settings.instances, settings.seed)
        reference = reference_objectives(
            sized,
            instances,
            make_solver(settings.reference),
            MaxSeconds(settings.reference_seconds),
            rng=torch.Generator().manual_seed(settings.seed),
            cache=Path(settings.folder),
        )
        sets.append(ValidationSet(str(size), sized, instances, reference))
    return sets


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers."""
    found = {"python": sys.version.split()[0]}
    for package in ("ncogym", "torch", "tensordict", "torchrl", "lightning", "numpy", "ortools", "fast_tsp"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this file lies in, with a ``+`` where it has changes, or None."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty.stdout.strip() else "")
