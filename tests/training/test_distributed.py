"""Several processes: what they do is what one does, each thing is done once, and a signal to one stops all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import pair

from ncogym import distributed
from ncogym.cli import main
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.training.run import train


class Two:
    """What two processes left, and what one leaves for the same settings."""

    def __init__(self, folder: Path) -> None:
        self.two, self.one = folder / "two", folder / "one"
        self.two.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        ranks = [
            subprocess.Popen(
                [sys.executable, pair.__file__, str(self.two)],
                env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        for settings in pair.runs(self.one).values():
            train(make_solver=make_solver, **settings)
        errors = [rank.communicate(timeout=6000)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], errors
        self.said: list[dict[str, Any]] = [json.loads((self.two / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """Two processes and one, done."""
    return Two(tmp_path_factory.mktemp("runs"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a run."""
    return load_file(str(folder / "policy" / "weights.safetensors"))


def readings(folder: Path) -> list[float]:
    """Read the losses, objectives and gaps of a run, in their order."""
    with (folder / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) for key in ("loss", "objective", "gap") if row.get(key)]


@pytest.mark.parametrize("name", ["pomo", "average", "critic", "ppo", "unused", "imitation"])
def test_two_processes_do_what_one_does(both: Two, name: str) -> None:
    """With the same streams, loss, gap and weights after some steps are those of one process."""
    assert readings(both.two / name) == pytest.approx(readings(both.one / name), rel=1e-4)
    one, two = weights(both.one / name), weights(both.two / name)
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-4), key


def test_rollouts_are_shared_out_again(both: Two, tmp_path: Path) -> None:
    """What two processes learnt from when their run ended amidst three epochs, one learns from when it goes on."""
    settings = {**pair.runs(tmp_path)["ppo"], "max_steps": 6}
    train(make_solver=make_solver, **settings)
    cut = shutil.copytree(both.two / "ppo", tmp_path / "cut")
    saved = torch.load(cut / "last.ckpt", weights_only=True)["rollouts"]
    assert [part["actions"].shape[0] for part in saved] == [256 // 8 // 2] * 2
    train(make_solver=make_solver, resume=True, **settings | {"output": str(cut)})
    one, two = weights(tmp_path / "ppo"), weights(cut)
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-4), key


def test_each_draws_its_own(both: Two) -> None:
    """The two have as many instances, and none in common."""
    first, second = (said["instances"] for said in both.said)
    assert len(first) == len(second) == 256 // 8 // 2
    assert not set(first) & set(second)


def test_nothing_is_done_twice(both: Two) -> None:
    """References are shared out one by one and labels by chunks, and a folder has what one process leaves."""
    assert [said["solved_pomo"] for said in both.said] == [[1] * 65, [1] * 65]
    assert [said["solved_imitation"] for said in both.said] == [[40, 40], [40]]
    assert _files(both.two / "pomo") == _files(both.one / "pomo")
    assert _files(both.two / "labels") == _files(both.one / "labels")
    assert _files(both.two / "references") == _files(both.one / "references")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_signal_to_one_stops_both(both: Two) -> None:
    """Both stop after the same step and leave one checkpoint, from which the run goes on as if nothing had been."""
    assert both.said[0]["interrupt"] == both.said[1]["interrupt"]
    assert "interrupted at step 3" in both.said[0]["interrupt"]
    assert both.said[0]["at"] == 3
    whole, cut = weights(both.two / "pomo"), weights(both.two / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_evaluation_is_shared(both: Two, capsys: pytest.CaptureFixture[str]) -> None:
    """The first process prints what one process prints, but for the seconds, and the second nothing."""
    assert main(pair.EVALUATE) == both.said[0]["code"] == both.said[1]["code"] == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shared = [json.loads(line) for line in both.said[0]["printed"].splitlines()]
    for record in (*alone, *shared):
        assert record.pop("seconds_total") > 0
        assert record.pop("seconds_per_instance") > 0
        record.pop("primal_integral_percent")  # of seconds; blank where a solver reports once
    assert shared == alone
    assert both.said[1]["printed"] == ""


@pytest.mark.slow
def test_lightning_starts_the_others(tmp_path: Path) -> None:
    """`ncogym train --devices 2` starts the second process itself; a signal to the first ends both with one line."""
    line = (
        "train --env tsp --env.num_nodes 6 --policy AttentionPolicy --policy.dim 16 --policy.num_layers 1 --threads 1"
    )
    more = "--nodes_per_batch 60 --steps_per_epoch 1 --accelerator cpu --devices 2 --max_steps 100000 --output"
    process = subprocess.Popen(
        [sys.executable, "-m", "ncogym.cli", *line.split(), *more.split(), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 600
    while not (tmp_path / "run" / "metrics.csv").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out, err.count("\n")) == (130, "", 1), err
    assert "interrupted at step" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["streams"] == 2
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] > 0


def test_streams_must_be_shared_equally(tmp_path: Path) -> None:
    """Streams that the devices cannot share, or fewer devices than processes were started, are refused in one line."""
    env = make("tsp", num_nodes=8)
    with pytest.raises(ArgumentError, match="streams: 3 is not allowed for 2 devices"):
        train(env, make_solver, **pair.settings(tmp_path, devices=2, streams=3))
    with pytest.raises(ArgumentError, match=r"devices, .*: cpu, 0, 1, auto are not allowed; .*"):
        train(env, make_solver, **pair.settings(tmp_path, devices=0))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, True)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, False)),
        ({"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "SLURM_PROCID": "5"}, (0, 8, True)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, (5, 6, False)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1, True)),  # a batch script without srun
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (0, 1, False)),  # started by Lightning, before all have met
    ],
)
def test_the_environment_says_who_is_who(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int, bool]
) -> None:
    """Rank, world and who speaks are read from what torchrun, srun or Lightning set."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == expected
    if expected[1] > 1:
        with pytest.raises(ArgumentError, match="MASTER_ADDR: it is not in the environment"):
            distributed.barrier()
        batches = distributed.share(1000, 64)
        assert batches[0] == range(64 * expected[0], 64 * expected[0] + 64)
        assert batches[1].start == 64 * (expected[0] + expected[1])
