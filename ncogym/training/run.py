"""`train`: from typed settings to a run folder with the resolved config, metrics, a checkpoint and the weights."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from ncogym._resources import git_commit, versions
from ncogym.algorithms.base import Algorithm, WinnerTakesAll
from ncogym.algorithms.pomo import POMO
from ncogym.distributed import barrier, is_main, world
from ncogym.errors import ArgumentError, CheckpointError
from ncogym.features import FeatureDims
from ncogym.plotting import draw_population
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.pretrained import load_policy, save_policy
from ncogym.references import compute
from ncogym.rollout import Acting, Precision
from ncogym.solver import Budget, MaxRollouts, MaxSeconds, Solver
from ncogym.training.callbacks import Interrupted, Interruptible, Readings, Validation, ValidationSet
from ncogym.training.data import Generated, Labelled
from ncogym.training.labels import LabelledFile, LabelledPool
from ncogym.training.module import Optimiser, TrainingModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """Where labels come from, for algorithms that imitate: a file, or a pool that is made first.

    Attributes:
        file: labelled instances that ``ncogym generate --labels`` wrote, all of the size that is trained on; None makes
            the pool that the others describe.
        solver: name of the solver that labels.
        seconds: its time per instance, or None.
        rollouts: its rollouts per instance (HGS: iterations without improvement), or None.
        chunks: chunks of the pool, each of one size.
        chunk_size: instances per chunk.
        workers: processes that label at the same time.
        folder: where pools are kept, so that runs share them.
        rotations: share of the batches under a random rotation instead of one of the first 8 symmetries, of either.
    """

    file: str | None = None
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
    max_seconds: float | None = None,
    steps_per_epoch: int = 250,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: str = "auto",
    devices: int | Literal["auto"] = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    streams: int = 0,
    threads: int = 0,
    scoring_bytes: int = 0,
    acting: Acting = "auto",
    acting_precision: Precision = "float32",
    checkpoint_every: int = 100,
    seed: int = 1234,
    init: str | None = None,
    output: str = "runs/train",
    resume: bool = False,
    config: dict[str, Any] | None = None,
    bar: Callable[[], AbstractContextManager[Callable[[str, int, int], None] | None]] = nullcontext,
) -> Path:
    """Train a policy, in one process or in several that share each batch (docs/distributed.md).

    Args:
        env: the problem and its distribution.
        make_solver: builds a solver from its name and, for a search, a policy.
        policy: builds the policy from the environment's feature widths; `AttentionPolicy` where None.
        algorithm: the estimator; POMO where None.
        sizes: smallest and largest size of the training instances; None trains on the environment's own size.
        nodes_per_batch: nodes (jobs, items) of a batch, all devices together; instances per batch follow from their
            size.
        labels: the labelled file or pool, for algorithms that imitate.
        optimiser: AdamW's settings and schedule.
        validation: what is solved after every epoch.
        max_steps: training steps in all.
        max_seconds: wall-clock seconds, labelling included, after which a run ends as it does after ``max_steps``; None
            sets no limit. The schedule of the learning rate counts steps alone.
        steps_per_epoch: steps between two validations.
        precision: of the network; objectives, logits and log-probabilities stay in float32.
        accelerator: Lightning's: auto, cpu or gpu.
        devices: GPUs, or processes on CPUs, of each machine, one process for each; auto takes every GPU, one CPU.
        num_nodes: machines, where torchrun or SLURM starts the processes.
        strategy: Lightning's: how several processes train one policy; auto is DDP. A policy whose steps leave
            parameters unused takes ddp_find_unused_parameters_true.
        streams: independent streams of random numbers, each for an equal part of every batch; the numbers of a run
            follow from the seed and the streams, on however many devices, whose number must divide them. 0 is one for
            each device, or on resuming as many as before.
        threads: CPU threads; 0 leaves torch's own number.
        scoring_bytes: memory that the scoring pass may take at a time; 0 is a quarter of what is free, up to 256 MB.
        acting: how rollouts are run: auto, eager, compile, graph (CUDA) or kernel.
        acting_precision: of the matrix products of acting: float32, tf32 (CUDA) or bfloat16.
        checkpoint_every: steps between two checkpoints.
        seed: of the initial weights and of everything drawn in training.
        init: name or folder of a policy to start from; its architecture must be that of ``policy``, or of its base.
        output: the run folder.
        resume: go on from the folder's checkpoint, with the numbers of a run that was never interrupted.
        config: the resolved settings, written to the run folder.
        bar: opens a progress bar for the labelling and gives a function (what, done, total) that moves it, or None.

    Returns:
        The run folder; ``policy/`` in it holds the weights and their card, ``population.png`` who won how often where
        a population or latents were trained.

    Raises:
        ArgumentError: a setting is not allowed, the folder holds a run already and ``resume`` is false, or labelling
            alone, whose labels are kept, has used up ``max_seconds``.
        CheckpointError: there is nothing to resume.
        KeyboardInterrupt: the run was interrupted, after its checkpoint was written.
    """
    begin = time.monotonic()
    if max_seconds is not None and not max_seconds > 0:
        raise ArgumentError(f"max_seconds: {max_seconds} is not allowed; it must be above 0")
    folder = Path(output)
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        raise ArgumentError(f"output: {folder} already holds a run; pass --resume true to go on, or another folder")
    if resume and not last.exists():
        raise CheckpointError(f"resume: {last} does not exist")
    if threads:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning sets a number of its own for several processes
    algorithm = algorithm or POMO()
    low, high = sizes or (env.size, env.size)
    folder.mkdir(parents=True, exist_ok=True)
    source: Generated | Labelled
    if labels.file is not None:
        if not algorithm.imitates:
            raise ArgumentError(f"labels.file: {labels.file} is not allowed with an algorithm that imitates nothing")
        labelled = LabelledFile(env, labels.file)
        if [low, high] != labelled.sizes * 2:
            told = f"{low} to {high} is not allowed; the instances of {labels.file} have the size {labelled.sizes[0]}"
            raise ArgumentError(f"sizes: {told}")
        source = Labelled(labelled, nodes_per_batch, labels.rotations)
    elif algorithm.imitates:
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
        network.begin_from(load_policy(init).policy)
    if validation.sizes:
        make_solver(validation.solver, network)  # a search that cannot use the policy is refused before it is trained

    left = None if max_seconds is None else max_seconds - (time.monotonic() - begin)
    if left is not None and left <= 0:
        raise ArgumentError(f"max_seconds: {max_seconds} is not allowed; the labels, which are kept, took all of them")
    log_every = min(25, steps_per_epoch)
    with _quiet():
        logger = CSVLogger(folder, name="", version="")
        callbacks: list[pl.Callback] = [
            Validation(
                _validation_sets(env, validation, make_solver),
                lambda p: make_solver(validation.solver, p),
                MaxRollouts(validation.rollouts) if validation.rollouts else None,
            ),
            Readings(log_every),
            Interruptible(last),
            ModelCheckpoint(
                folder, filename="last", every_n_train_steps=checkpoint_every, enable_version_counter=False
            ),
            *([TQDMProgressBar(refresh_rate=log_every)] if sys.stderr.isatty() else []),
        ]
        try:
            trainer = pl.Trainer(
                max_steps=max_steps,
                max_time=None if left is None else timedelta(seconds=left),
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy,
                precision=precision,
                logger=logger,
                log_every_n_steps=log_every,
                enable_progress_bar=sys.stderr.isatty(),
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=callbacks,
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            given = f"{accelerator}, {devices}, {num_nodes}, {strategy}"
            raise ArgumentError(
                f"accelerator, devices, num_nodes, strategy: {given} are not allowed; {error}"
            ) from error
        processes = trainer.num_devices * trainer.num_nodes
        if world() not in (1, processes):
            given = f"{trainer.num_devices}, {trainer.num_nodes}"
            raise ArgumentError(f"devices, num_nodes: {given} are not allowed; {world()} processes were started")
        streams = _streams(streams, folder / "run.json" if resume else None, processes)
        module = TrainingModule(
            network,
            algorithm,
            source,
            optimiser,
            max_steps,
            steps_per_epoch,
            seed,
            scoring_bytes,
            acting,
            acting_precision,
            streams,
        )
        facts = {"versions": versions(), "commit": git_commit(), "streams": streams, "config": config or {}}
        if is_main():
            if resume:
                # Lightning would start the table anew; keep the rows of the steps that the checkpoint has seen
                logger.experiment.metrics = _metrics(folder / "metrics.csv", last)
            (folder / "run.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
            if config is not None:
                (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        try:
            trainer.fit(module, ckpt_path=last if resume else None, weights_only=True)
        except Interrupted as signalled:
            raise KeyboardInterrupt(str(signalled)) from signalled
        trainer.save_checkpoint(last)
    if is_main():
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        card = {
            "env": {"name": env.name, "arguments": env.arguments()},
            "sizes": [low, high],
            "training": {"steps": trainer.global_step, **facts},
            "validation": {"seed": validation.seed, "solver": validation.solver, **metrics},
        }
        save_policy(module.policy, folder / "policy", card)
        if isinstance(algorithm, WinnerTakesAll) and trainer.global_step >= log_every:  # else nothing is in the log
            draw_population(folder / "metrics.csv", folder / "population.png", f"objective, {env.name}")
    barrier()
    return folder


def _streams(wanted: int, begun: Path | None, processes: int) -> int:
    """Return the number of streams: as wanted, else as in the run that was begun, else one for each process."""
    if not wanted and begun is not None and begun.exists():
        wanted = json.loads(begun.read_text()).get("streams", 1)
    streams = wanted or processes
    if streams < 1 or streams % processes:
        raise ArgumentError(f"streams: {streams} is not allowed for {processes} devices, whose number must divide it")
    return streams


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of every run and what does not hold here."""
    talkers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
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
            for talker, level in zip(talkers, levels, strict=True):
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
        budget = MaxSeconds(settings.reference_seconds)
        found = compute(sized, [instances], make_solver(settings.reference), budget, cache=Path(settings.folder))
        sets.append(ValidationSet(str(size), sized, instances, found.objective))
    return sets
