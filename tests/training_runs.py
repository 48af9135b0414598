"""Short training runs of the tiny denoiser, as the trainer's tests want them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inpo.methods import Method, method
from inpo.training import OptimizerConfig, Settings, TrainConfig
from inpo.training.distributed import add_up_gradients
from inpo.training.fit import Callbacks, FitResult, fit
from inpo.training.run import open_run
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Trainer
from inpo.types import PairLoader
from tests.tiny_denoiser import MemoryLoader, tiny_subject

ROOT = Path(__file__).resolve().parent.parent
TRAIN = TrainConfig(steps=6, pairs_per_step=8, micro_batch_pairs=3, inversion_batch_pairs=4, save_every_steps=2)
OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_steps=2)
SETTINGS = Settings(TRAIN, OPTIMIZER)
TIMINGS = ("pairs_per_second", "peak_memory_bytes")


def settings(optimizer: OptimizerConfig = OPTIMIZER, **train: object) -> Settings:
    """The short run's settings, with some of `train` changed."""
    return Settings(replace(TRAIN, **train), optimizer)


def trainer(loader: PairLoader | None = None, subject: Subject | None = None, *, name: str = "inpo", use: Settings = SETTINGS) -> Trainer:
    """A trainer at step 0."""
    return Trainer(subject or tiny_subject(), loader or MemoryLoader(), method=method(name), settings=use, stop=Stop())


def train(
    out: Path, use: Settings = SETTINGS, *, loader: PairLoader | None = None, subject: Subject | None = None,
    resume: str | None = None, callbacks: Callbacks | None = None, force: bool = False,
) -> FitResult:  # fmt: skip
    """One run of InPO in the folder `out`, from the start or resumed."""
    config = {"train": asdict(use.train), "optimizer": asdict(use.optimizer)}
    with open_run(out, config, config_text="# a test's run\n", resume=resume, force=force) as run:
        run.data_sha256 = "the same pairs"
        return fit(
            subject or tiny_subject(), loader or MemoryLoader(held_out=7), method=method("inpo"), settings=use, run=run,
            callbacks=callbacks or Callbacks(),
        )  # fmt: skip


def gradient(name: str | Method, dtype: torch.dtype, **cut: int) -> dict[str, Tensor]:
    """The accumulated gradient of step 0 of 32 pairs, cut as `cut` says. The policy has moved away from its reference."""
    subject = moved_subject(dtype)
    chosen = method(name) if isinstance(name, str) else name
    use = settings(pairs_per_step=32, **cut)
    made = Trainer(subject, MemoryLoader(40, dtype=dtype), method=chosen, settings=use, stop=Stop())
    made.gradient(made.gradient.points(0))
    add_up_gradients(made.weights.values())
    found = {name: parameter.grad.clone() for name, parameter in subject.policy.named_parameters() if parameter.grad is not None}
    made.close()
    return found


def first_steps(name: str | Method) -> list[list[float]]:
    """Loss, gradient norm, KTO's baseline, and training points by tenth of the path, of four steps of 7 pairs."""
    chosen = method(name) if isinstance(name, str) else name
    made = Trainer(tiny_subject(), MemoryLoader(), method=chosen, settings=settings(pairs_per_step=7), stop=Stop())
    lines = [made.step_once(step).line for step in range(4)]
    made.close()
    counts = [[float(bucket["pairs"]) for bucket in line["by_bucket"].values()] for line in lines]
    return [[line["loss"], line["grad_norm"], line.get("baseline", 0.0), *count] for line, count in zip(lines, counts, strict=True)]


def moved_subject(dtype: torch.dtype = torch.float32) -> Subject:
    """A policy and a different reference, so that margins, weights and gradients are those of the middle of a run."""
    return replace(tiny_subject(0, dtype), reference=tiny_subject(1, dtype).policy)


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """‖a − b‖/‖b‖ over all tensors."""
    assert a.keys() == b.keys()
    first, second = (torch.cat([side[name].flatten() for name in a]) for side in (a, b))
    return float((first - second).norm() / second.norm())


def metrics(out: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl without the timings."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def final_bytes(out: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint that hold numbers."""
    folder = out / "checkpoints" / f"step-{step:06d}"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def start(script: str, *arguments: object, rank: tuple[int, int, int] | None = None) -> subprocess.Popen[str]:
    """A Python script of the tests as a process of its own; `rank`: (rank, processes, port) for a gloo group."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if rank:
        number, processes, port = map(str, rank)
        environment |= {
            "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
    command = [sys.executable, str(ROOT / "tests" / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def start_ranks(script: str, *arguments: object, processes: int = 2) -> list[subprocess.Popen[str]]:
    """The script as a group of gloo processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(script, *arguments, rank=(rank, processes, port)) for rank in range(processes)]


def ran_on_ranks(folder: Path, script: str, *arguments: object) -> Path:
    """The folder, once the script has run in it as two processes to a good end."""
    ends = finish(start_ranks(script, folder, *arguments))
    assert [code for code, _ in ends] == [0, 0], "\n".join(errors for _, errors in ends)
    return folder


def both(folder: Path, task: str) -> list[Any]:
    """What each of two processes said of a task."""
    return [json.loads((folder / f"{task}-{rank}.json").read_text()) for rank in range(2)]


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str]]:
    """Exit code and standard error of each. None outlives the test, and none is waited for once another has failed."""
    end = time.monotonic() + seconds
    try:
        while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
            assert time.monotonic() < end, f"still running after {seconds} s"
            time.sleep(0.05)
        time.sleep(0.5 * any(process.poll() is None for process in processes))
        for process in processes:
            process.kill()
        return [(process.returncode, errors) for process in processes for _, errors in [process.communicate()]]
    finally:
        for process in processes:
            process.kill()
