"""TensorBoard and W&B: every number of metrics.jsonl, there too. Both are loaded only where they are asked for."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inpo.errors import InputError
from inpo.files import replacing
from inpo.training.environment import redacted
from inpo.training.metrics import Line

RUN_ID = "wandb.json"
PROJECT = "inpo"


def scalars(line: Line) -> dict[str, float]:
    """A line's numbers by flat names: `loss`, `loss/bucket-3`, `validation/loss`, `validation/loss/bucket-3`."""
    held_out = line.get("validation")
    return dict(_scalars(line, "")) | (dict(_scalars(held_out, "validation/")) if isinstance(held_out, Mapping) else {})


def _scalars(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float):
            yield prefix + name, value
    buckets = values.get("by_bucket")
    for k, inner in buckets.items() if isinstance(buckets, Mapping) else ():
        for name, value in _scalars(inner, prefix):
            yield f"{name}/bucket-{k}", value


class TensorBoard:
    """An event file in `folder`. `start`: the step that the run goes on from; what an earlier process wrote after it is purged."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else 0)

    def write(self, line: Line) -> None:
        """Adds one step."""
        step = int(str(line["step"]))
        for name, value in scalars(line).items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._writer.close()


def require_wandb() -> None:
    """Raises `InputError` where it is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise InputError(f"report_to names wandb, which is not installed ({error}): pip install 'inpo[wandb]'") from error


class WeightsAndBiases:
    """A W&B run whose id stays in `folder`/wandb.json, so that a resumed run goes on in it. WANDB_MODE, WANDB_PROJECT and so on count.

    Keys stay where W&B keeps them. Neither source code nor what the terminal shows is sent. Raises `InputError` where W&B refuses
    to begin; once it has begun, its faults are a warning, and training goes on.
    """

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        require_wandb()
        import wandb

        settings = wandb.Settings(console="off", disable_git=True, disable_code=True)
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT), id=_run_id(folder / RUN_ID), resume="allow", dir=str(folder),
                name=folder.resolve().name, config=dict(config), settings=settings,
            )  # fmt: skip
        except wandb.Error as error:
            said = " ".join(redacted(str(error).split()))
            raise InputError(f"report_to: W&B refuses: {said}; run `wandb login`, set WANDB_MODE=offline, or leave wandb out") from error
        # A resumed run comes back to steps that it logged before; W&B's own counter would drop them.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, line: Line) -> None:
        """Logs one step."""
        self._attempt("log", scalars(line))

    def close(self) -> None:
        """Waits until W&B has what it was given."""
        self._attempt("finish")

    def _attempt(self, action: str, *arguments: object) -> None:
        if self._run is None:
            return
        try:
            getattr(self._run, action)(*arguments)
        except Exception as error:  # a tracker's fault is no reason to lose a run
            said = " ".join(redacted(str(error).split()))
            warnings.warn(f"W&B failed ({said}): it gets no more numbers; metrics.jsonl has them all", stacklevel=3)
            self._run = None


def _run_id(path: Path) -> str:
    if path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: holds no id of a W&B run ({error!r}); delete it to begin a new one there") from error
    found = uuid.uuid4().hex[:8]
    with replacing(path) as partial:
        partial.write_text(json.dumps({"schema": 1, "id": found}) + "\n", encoding="utf-8")
    return found
