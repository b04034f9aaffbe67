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
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from ncogym._resources import git_commit, versions
from ncogym.algorithms.base import Algorithm, WinnerTakesAll
from ncogym.algorithms.pomo import POMO
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.distributed import barrier, is_main, world
from ncogym.errors import ArgumentError, CheckpointError, NcogymError, NcogymWarning, UnsupportedProblem
from ncogym.features import FeatureDims
from ncogym.plotting import draw_population
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.pretrained import load_policy, save_policy
from ncogym.references import compute
from ncogym.rollout import Acting, Precision
from ncogym.solver import Solver
from ncogym.task import Task
from ncogym.training.callbacks import Interrupted, Interruptible, Readings, Validation, ValidationSet
from ncogym.training.data import Generated, Labelled
from ncogym.training.labels import LabelledFile, LabelledPool
from ncogym.training.limits import COUNT, SECONDS, SEED, THREADS, check
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

    def __post_init__(self) -> None:
        check("labels.seconds", self.seconds, above=0, most=SECONDS)
        for name in ("rollouts", "chunks", "chunk_size", "workers"):
            check(f"labels.{name}", getattr(self, name), least=1, most=COUNT)
        check("labels.rotations", self.rotations, least=0, most=1)


@dataclass(frozen=True)
class ValidationSettings:
    """What is solved after every epoch.

    Attributes:
        sizes: one set of instances for each.
        instances: instances per set.
        seed: of the sets.
        solver: name of the search around the policy.
        rollouts: its rollouts per instance, or None, where it ends of its own accord.
        reference: name of the solver that the gap is to; its objectives are cached. With None, or one that cannot take
            the problem, the mean objective is logged in place of the gap.
        reference_seconds: its time per instance.
        folder: where the references are cached.
    """

    sizes: Sequence[int] = ()
    instances: int = 128
    seed: int = 4321
    solver: str = "multistart"
    rollouts: int | None = None
    reference: str | None = "fast-tsp"
    reference_seconds: float = 0.1
    folder: str = "runs/references"

    def __post_init__(self) -> None:
        for size in self.sizes:
            check("validation.sizes", size, least=1, most=COUNT)
        for name in ("instances", "rollouts"):
            check(f"validation.{name}", getattr(self, name), least=1, most=COUNT)
        check("validation.seed", self.seed, least=0, most=SEED)
        check("validation.reference_seconds", self.reference_seconds, above=0, most=SECONDS)


# frozen, so that they can be defaults that `--help` and the resolved config show
LABELS, OPTIMISER, VALIDATION = Labels(), Optimiser(), ValidationSettings()


def train(
    env: Task,
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
        policy: builds the policy from the environment's feature widths; None is one like that of ``init``, or an
            `AttentionPolicy` without it.
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
        init: name or folder of a policy to start from; its architecture must be that of ``policy``, or of its base,
            where ``policy`` is given.
        output: the run folder.
        resume: go on from the folder's checkpoint, with the numbers of a run that was never interrupted.
        config: the resolved settings, written to the run folder.
        bar: opens a progress bar for the labelling and gives a function (what, done, total) that moves it, or None.

    Returns:
        The run folder; ``policy/`` in it holds the weights and their card, ``population.png`` who won how often where
        a population or latents were trained.

    Raises:
        ArgumentError: a setting is not allowed, the folder holds a run already and ``resume`` is false, or a file of no
            run that would be replaced, or labelling alone, whose labels are kept, has used up ``max_seconds``.
        CheckpointError: there is nothing to resume, or a file of the run folder is damaged or of another run; the files
            are then as they were.
        KeyboardInterrupt: the run was interrupted, after its checkpoint was written.
    """
    begin = time.monotonic()
    check("max_seconds", max_seconds, above=0, most=SECONDS)
    counts = {
        "nodes_per_batch": nodes_per_batch,
        "max_steps": max_steps,
        "steps_per_epoch": steps_per_epoch,
        "num_nodes": num_nodes,
        "checkpoint_every": checkpoint_every,
    }
    for name, count in counts.items():
        check(name, count, least=1, most=COUNT)
    for size in sizes or ():
        check("sizes", size, least=1, most=COUNT)
    check("streams", streams, least=0, most=COUNT)
    check("threads", threads, least=0, most=THREADS)
    check("scoring_bytes", scoring_bytes, least=0, most=2**62)
    check("seed", seed, least=0, most=SEED)
    folder = Path(output)
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        raise ArgumentError(f"output: {folder} already holds a run; pass --resume true to go on, or another folder")
    if resume and not last.exists():
        raise CheckpointError(f"resume: {last} does not exist")
    held = [name for name in ("config.yaml", "metrics.csv", "policy", "population.png") if (folder / name).exists()]
    if held and not (folder / "run.json").exists():
        raise ArgumentError(f"output: {folder / held[0]} is of no run, and would be replaced; name another folder")
    begun = _begun(folder) if resume else None
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
        if policy is None and init is not None:
            network = load_policy(init).policy.train()
        else:
            network = (policy or AttentionPolicy)(env.feature_dims)
    if policy is None and network.dims != env.feature_dims:
        raise CheckpointError(f"init: {init} reads other features than {env.name} shows")
    if policy is not None and init is not None:
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
            interruptible := Interruptible(last),
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
        except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
            given = f"{accelerator}, {devices}, {num_nodes}, {strategy}"
            raise ArgumentError(
                f"accelerator, devices, num_nodes, strategy: {given} are not allowed; {error}"
            ) from error
        processes = trainer.num_devices * trainer.num_nodes
        if world() not in (1, processes):
            given = f"{trainer.num_devices}, {trainer.num_nodes}"
            raise ArgumentError(f"devices, num_nodes: {given} are not allowed; {world()} processes were started")
        streams = _streams(streams or (begun.streams if begun else 0), processes)
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
        if begun:
            begun.check(module, last)
        facts = {"versions": versions(), "commit": git_commit(), "streams": streams, "config": config or {}}
        if is_main():
            if begun:  # Lightning would start the table anew
                logger.experiment.metrics = begun.rows
            (folder / "run.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
            if config is not None:
                (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        try:
            trainer.fit(module, ckpt_path=last if resume else None, weights_only=True)
        except Interrupted as signalled:
            raise KeyboardInterrupt(str(signalled)) from signalled
        except NcogymError:
            raise
        except Exception as error:
            if not resume or interruptible.begun:
                raise
            raise CheckpointError(f"{last}: training cannot go on from it ({_reason(error)})") from error
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


def _streams(wanted: int, processes: int) -> int:
    """Return the number of streams: as wanted, else one for each process."""
    streams = wanted or processes
    if streams % processes:
        raise ArgumentError(f"streams: {streams} is not allowed for {processes} devices, whose number must divide it")
    return streams


HELD = {  # what Lightning's checkpoints have, of which it misses some in silence
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "state_dict": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


class _Begun(NamedTuple):
    """What a run folder holds of a run that is to go on.

    Attributes:
        weights: those of the checkpoint, by name.
        rows: of ``metrics.csv``, of the steps that the checkpoint has seen.
        streams: of random numbers; 0 where nothing says.
    """

    weights: dict[str, Any]
    rows: list[dict[str, Any]]
    streams: int

    def check(self, module: pl.LightningModule, path: Path) -> None:
        """Refuse a checkpoint whose weights are not those of a module.

        Raises:
            CheckpointError: naming the first that differs.
        """
        needed, held = _shapes(module.state_dict()), _shapes(self.weights)
        for name in sorted(needed.keys() | held.keys()):
            if needed.get(name) != held.get(name):
                told = f"{needed.get(name, 'none')}, in the file {held.get(name, 'none')}"
                raise CheckpointError(f"{path}: it is of another policy or algorithm ({name}: {told})")


def _shapes(weights: dict[str, Any]) -> dict[str, str]:
    """Return the shape of each tensor, and of what else there is the type, as text."""
    return {k: str(list(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for k, v in weights.items()}


def _begun(folder: Path) -> _Begun:
    """Read what a run folder holds, and change nothing in it.

    Raises:
        CheckpointError: a file is damaged; the line names it.
    """
    path = folder / "last.ckpt"
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of what it then refuses
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for name, kind in HELD.items():
            if not isinstance(checkpoint[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        step, weights = checkpoint["global_step"], checkpoint["state_dict"]
        path = folder / "metrics.csv"
        rows = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            rows = [{k: v for k, v in row.items() if v != ""} for row in rows if int(row["step"]) < step]
        path, streams = folder / "run.json", 0
        if path.exists():
            streams = int(json.loads(path.read_text(encoding="utf-8")).get("streams", 1))
            check("streams", streams, least=1, most=COUNT)
    except Exception as error:  # whatever damage makes torch, csv or json raise
        raise CheckpointError(f"{path}: it is damaged, and the run cannot go on ({_reason(error)})") from error
    return _Begun(weights, rows, streams)


def _reason(error: Exception) -> str:
    """Say in a few words what another library says in many."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:120]}{'...' if said[120:] else ''}"


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
        warnings.filterwarnings("ignore", message=".*dirpath has changed.*")  # a run folder may be moved
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)


def _validation_sets(
    env: Task, settings: ValidationSettings, make_solver: Callable[..., Solver]
) -> list[ValidationSet]:
    sets = []
    solver = None if settings.reference is None else make_solver(settings.reference)
    for size in settings.sizes:
        sized = env.resized(size)
        instances = sized.seeded(settings.instances, settings.seed)
        objective = None
        if solver is not None:
            budget, cache = MaxSeconds(settings.reference_seconds), Path(settings.folder)
            try:
                objective = compute(sized, [instances], solver, budget, cache=cache).objective
            except UnsupportedProblem as error:
                words = f"validation.reference: {error}; the mean objective is logged in place of the gap"
                warnings.warn(words, NcogymWarning, stacklevel=2)
                solver = None
        sets.append(ValidationSet(str(size), sized, instances, objective))
    return sets
