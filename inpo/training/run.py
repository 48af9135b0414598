"""The run folder: what it holds, who may write to it, and where a run continues."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch

from inpo.errors import InputError
from inpo.files import replacing
from inpo.training import checkpoint, snapshot
from inpo.training.checkpoint import Manifest
from inpo.training.distributed import on_main, processes
from inpo.training.environment import ENVIRONMENT, write_environment
from inpo.training.lock import Lock
from inpo.training.replacement import REFUSED, REJECTED, Replacement

Reread = Callable[[Mapping[str, object]], Mapping[str, object]]

LATEST = "latest"
LOCK = "lock.json"
CONTENTS = (
    "config.yaml", "metrics.jsonl", REJECTED, REFUSED, "pairs-index.parquet", "checkpoints", "model", "samples", "tensorboard",
    "wandb", "wandb.json", "evaluation", "summary.json", "report.html", ENVIRONMENT,
)  # fmt: skip
"""What a run writes, and the only things that `force` replaces. The file that marks a folder as a run's goes last."""

ENTRANCE = ("config.yaml", REJECTED, REFUSED, "pairs-index.parquet", ENVIRONMENT)
"""What is there before the first step."""


@dataclass
class RunFolder:
    """A folder that this run owns. `config`: the settings as plain nested values; `resume_from`: a verified checkpoint to continue.

    `data_sha256` identifies the data, whose loader may be opened only after the folder is; set it before training.
    """

    path: Path
    config: Mapping[str, object]
    resume_from: tuple[Path, Manifest] | None = None
    data_sha256: str = ""
    _lock: Lock | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        """checkpoints/."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def config_sha256(self) -> str:
        """Of the settings that a continuation must share."""
        return snapshot.config_sha256(self.config)

    @property
    def start(self) -> int:
        """How many steps are complete where the run begins or continues."""
        return self.resume_from[1].step if self.resume_from else 0

    def check_same_data(self) -> None:
        """Raises `InputError` if the checkpoint to continue was made from other pairs."""
        if self.resume_from and self.resume_from[1].data_sha256 != self.data_sha256:
            folder, manifest = self.resume_from
            raise InputError(
                f"{folder} was trained on other data: data_sha256 is {manifest.data_sha256} there and {self.data_sha256} here; "
                "point data.path at the same pairs, or start a new run"
            )

    @property
    def replacement(self) -> Replacement:
        """The earlier run that `force` has moved aside, if there is one."""
        return Replacement(self.path, CONTENTS)

    def close(self) -> None:
        """Gives the folder free. A run that `force` was to replace is put back, unless the new one has come to save a step."""
        if self._lock:
            try:
                self.replacement.restore()
            finally:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_run(
    path: Path,
    config: Mapping[str, object],
    *,
    config_text: str,
    resume: str | None = None,
    force: bool = False,
    reread: Reread = lambda theirs: theirs,
) -> RunFolder:
    """Takes a folder for a run, writes config.yaml and environment.json, and finds where to continue. Newer broken checkpoints are kept.

    `resume`: "latest", or a checkpoint's path; one of another folder begins a new run here. `force` moves an earlier run aside:
    `fit` deletes it before its first save, and `close` puts it back if it never came to that. `reread` completes a checkpoint's
    settings with those that came into being after it. Raises `InputError` if the folder holds another run (unless `force`, or to
    continue it), is held by another process, cannot be written, or if the checkpoint is absent, broken or of other settings.
    In a distributed run every process must call it; the main one does the work.
    """
    locks: list[Lock] = []
    opening = _Opening(path, config, locks, reread)
    resume_from = on_main(lambda: opening.run(config_text, resume=resume, force=force))
    return RunFolder(path, config, resume_from, _lock=locks[0] if locks else None)


def check_run(path: Path, config: Mapping[str, object], *, resume: str | None, force: bool, reread: Reread) -> None:
    """Raises what `open_run` would for this folder and checkpoint, and writes nothing."""
    _Opening(path, config, [], reread).look(resume=resume, force=force)


@dataclass(frozen=True)
class _Opening:
    path: Path
    config: Mapping[str, object]
    locks: list[Lock]
    reread: Reread

    def look(self, *, resume: str | None, force: bool) -> None:
        self._check_place(resume)
        if resume:
            self._resume_point(resume)
        if self.path.is_dir():
            self._check_free(force or (resume is not None and self._is_own(resume)))

    def run(self, config_text: str, *, resume: str | None, force: bool) -> tuple[Path, Manifest] | None:
        self._check_place(resume)
        self._make()
        self.locks.append(Lock(self.path / LOCK))
        try:
            return self._open(config_text, resume=resume, force=force)
        except BaseException:
            self.locks.pop().release()
            raise

    def _open(self, config_text: str, *, resume: str | None, force: bool) -> tuple[Path, Manifest] | None:
        replacement = Replacement(self.path, CONTENTS)
        replacement.restore()
        continues = resume is not None and self._is_own(resume)
        found = self._resume_point(resume) if resume else None
        self._check_free(continues or force)
        for left in checkpoint.sweep(self.path / "checkpoints"):
            print(f"removed {left}, which an interrupted save left behind", file=sys.stderr)
        if found:
            self._check_processes(found[0])
        if found and resume == LATEST:
            for kept in checkpoint.set_broken_aside(self.path / "checkpoints", found[1].step):
                print(f"the broken checkpoint is kept as {kept}; delete it when you have no more use for it", file=sys.stderr)
        try:
            if not continues:
                self._make_room(replacement)
            self._describe(config_text, continued=continues)
        except BaseException:
            replacement.restore()
            raise
        return found

    def _is_own(self, resume: str) -> bool:
        return resume == LATEST or Path(resume).resolve().parent == (self.path / "checkpoints").resolve()

    def _check_free(self, allowed: bool) -> None:
        names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(".") and entry.name != LOCK)
        if names and ENVIRONMENT not in names:
            raise InputError(f"{self.path} holds {names[0]}, but no run of inpo ({ENVIRONMENT} is missing); choose another folder")
        if self._has_begun() and not allowed:
            raise InputError(f"{self.path} holds another run; use --resume latest to continue it, --force to replace it, or another folder")

    def _make_room(self, replacement: Replacement) -> None:
        if self._has_begun():
            replacement.set_aside()
            return
        for name in ENTRANCE:
            (self.path / name).unlink(missing_ok=True)

    def _has_begun(self) -> bool:
        """Whether anything here took work to make. A run that was refused at its entrance leaves its settings, and may be tried again."""
        held = [self.path / name for name in CONTENTS if name not in ENTRANCE]
        return any(any(entry.iterdir()) if entry.is_dir() else entry.is_file() and entry.stat().st_size > 0 for entry in held)

    def _check_place(self, resume: str | None) -> None:
        if resume == LATEST and not self.path.exists():
            raise InputError(f"{self.path}: there is no run to resume")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; a run needs a folder")

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from error

    def _describe(self, config_text: str, *, continued: bool) -> None:
        write_environment(self.path, continued=continued)
        with replacing(self.path / "config.yaml") as partial:
            partial.write_text(config_text, encoding="utf-8")

    def _check_processes(self, folder: Path) -> None:
        theirs, ours = snapshot.read_state(folder).get("processes"), processes().num_processes
        if theirs not in (ours, None):
            warnings.warn(f"{folder} was made by {theirs} process(es), now {ours}: the run continues, but not bit for bit", stacklevel=2)

    def _resume_point(self, resume: str) -> tuple[Path, Manifest]:
        if resume == LATEST:
            folder, manifest = checkpoint.latest(self.path / "checkpoints")
        else:
            folder = Path(resume)
            manifest = checkpoint.verify(folder)
        state = snapshot.read_state(folder)
        theirs = state["config"]
        if isinstance(theirs, Mapping):
            snapshot.check_same_config(folder, self.config, self.reread(theirs))
        if state.get("torch") != str(torch.__version__):
            warnings.warn(f"{folder} was made with torch {state.get('torch')}: the run continues, but not bit for bit", stacklevel=2)
        return folder, manifest
