"""environment.json: with what, where and by which command a run was made. No secrets: neither the environment's variables nor any token."""

from __future__ import annotations

import datetime
import json
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from inpo.files import replacing

PACKAGES = ("inpo", "torch", "accelerate", "diffusers", "transformers", "peft", "safetensors", "pyarrow", "numpy", "pillow")
ENVIRONMENT = "environment.json"
HIDDEN = "***"
DIRTY = "-dirty"
"""At the end of a commit whose package had been changed when the process began, as `git describe --dirty` writes it."""
_SECRET_NAME = re.compile(r"token|secret|passw|credential|api[-_]?key|access[-_]?key|private[-_]?key|auth", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|AIza|ya29\.)[A-Za-z0-9_\-.]{8,}|\b[0-9a-f]{40}\b|\beyJ[\w-]{10,}\.[\w.-]+"
)
_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")


def environment() -> dict[str, object]:
    """What this process runs on, ready for JSON."""
    return {
        "schema": 1,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": redacted(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "cpu": {"machine": platform.machine(), "threads": torch.get_num_threads()},
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def redacted(arguments: Sequence[str]) -> list[str]:
    """A command line with everything replaced that is named or shaped like a secret."""
    shown: list[str] = []
    expects_secret = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if expects_secret and not argument.startswith("-"):
            shown.append(HIDDEN)
        elif equals and _SECRET_NAME.search(name):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(_LOGIN.sub(rf"\1{HIDDEN}@", _SECRET_VALUE.sub(HIDDEN, argument)))
        expects_secret = argument.startswith("-") and not equals and bool(_SECRET_NAME.search(argument))
    return shown


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def git_commit() -> str | None:
    """The commit of the checkout that the code runs from, with `DIRTY` where the package is not as committed.

    None where it was installed some other way. It is asked once a process, and should be when that begins: a checkout may move on while
    it runs, and what was imported by then stays.
    """
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    return commit + DIRTY if commit and _git(root, "status", "--porcelain", "--", "inpo") else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def write_environment(folder: Path, *, continued: bool = False) -> None:
    """Writes `environment()` into the folder. `continued`: what began there stays, and this is added to its list `resumed`."""
    now = environment()
    began = _read(folder / ENVIRONMENT) if continued else {}
    resumed = began.get("resumed", [])
    content = {**began, "resumed": [*(resumed if isinstance(resumed, list) else []), now]} if began else now
    with replacing(folder / ENVIRONMENT) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
