"""`inpo push`: a result with its card becomes a repository of the Hugging Face hub, private unless it is asked otherwise.

The token is the hub client's own: from the environment or from `hf auth login`. Nothing here reads it, keeps it or passes it on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpo.errors import InputError, RunFault
from inpo.models.base import BASE_FILE
from inpo.results.card import CARD, published
from inpo.results.result import CONFIG, find_result

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SUFFIXES = (".safetensors", ".json", ".txt", ".md", ".model")
"""What is uploaded; `.model` is the vocabulary of T5's tokenizer. All else that lies in the folder stays here."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Upload:
    """What goes to the hub: each file by its name there. `card`: the text of its README.md; `left`: files that stay here."""

    to: str
    files: dict[str, Path]
    card: str
    left: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {CARD: len(self.card.encode()), **{name: file.stat().st_size for name, file in self.files.items()}}

    def lines(self) -> list[str]:
        """The files and their sizes, and what is left out."""
        sizes = self.sizes
        said = [f"{size:>15,}  {name}" for name, size in sorted(sizes.items())]
        said.append(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files for {self.to}")
        return said + ([f"left out: {', '.join(self.left)}"] if self.left else [])


def prepare(source: str, to: str) -> Upload:
    """What would be uploaded of a run's folder (its `model/`), an export's folder, or an exported file; no network is used.

    Raises `InputError` where there is no such result, or none with a card.
    """
    _check_repository(to)
    path = Path(source).expanduser()
    is_run = (path / CONFIG).is_file()
    judgements, folder = (find_result(source).judgements(), path / "model") if is_run else ((), path)
    if not folder.exists():
        raise InputError(f"RUN={source!r}: there is no such folder or file; give a run, or what `inpo export` wrote")
    card = folder / CARD if folder.is_dir() else folder.with_suffix(".md")
    found = {each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*")) if each.is_file()}
    found = found or {folder.name: folder}
    kept = {name: file for name, file in found.items() if _public(name)}
    if not card.is_file() or not any(name.endswith(_WEIGHTS) for name in kept):
        what = f"no {card.name}" if not card.is_file() else "no weights"
        raise InputError(f"RUN={source!r} has {what}: give a finished run's folder, or export it first with `inpo export`")
    left = tuple(name for name in found if name not in kept and name != CARD)
    text = published(card.read_text(encoding="utf-8"), to, judgements, file=None if folder.is_dir() else folder.name)
    return Upload(to, kept, text, left)


def _check_repository(to: str) -> None:
    """Raises `InputError` for what the hub takes for no name; it would be refused in the middle of the upload otherwise."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    words = "write owner/name, of letters, digits, '-', '_' and '.'"
    if not _REPOSITORY.fullmatch(to):
        raise InputError(f"--to {to!r} is no name of a repository: {words}")
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise InputError(
            f"--to {to!r} is no name of a repository: {words}, neither of them beginning or ending with '-' or '.', without '--' or '..', "
            "not ending in .git, and the name of at most 96 characters"
        ) from error


def _public(name: str) -> bool:
    """base.json says where on this machine the base lies; what begins with a dot is nobody else's business either."""
    parts = name.split("/")
    return name.endswith(SUFFIXES) and name != CARD and parts[-1] != BASE_FILE and not any(part.startswith(".") for part in parts)


def push(upload: Upload, *, public: bool = False) -> str:
    """Uploads in one commit, into a new repository or one of the same visibility; returns its address.

    Raises `InputError` without a token and for a repository whose visibility is another, `RunFault` for what the hub or the network
    refuses. A message never repeats what the hub said, but for its kind.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise InputError("no token for the hub: run `hf auth login`, or set HF_TOKEN in the environment, with a token that may write")
    api, to = HfApi(), upload.to
    with _told(to):
        _ready(api, to, public=public)
        operations = [CommitOperationAdd(name, file) for name, file in upload.files.items()]
        operations.append(CommitOperationAdd(CARD, upload.card.encode()))
        api.create_commit(to, operations, commit_message="Upload with inpo", repo_type="model")
    return f"{api.endpoint}/{to}"


def _ready(api: HfApi, to: str, *, public: bool) -> None:
    """There is such a repository, and as many people see it as were meant to."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = api.repo_info(to, repo_type="model").private
    except RepositoryNotFoundError:
        api.create_repo(to, private=not public, repo_type="model")
        return
    if not private and not public:
        raise InputError(f"--to {to} exists and is public: --public uploads there for everyone to see; or choose another name")
    if private and public:
        raise InputError(f"--to {to} exists and is private: leave --public out, or make it public on its settings page first")


@contextmanager
def _told(to: str) -> Iterator[None]:
    """What the hub client raises, as one line that names its kind and what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except InputError:
        raise
    except HfHubHTTPError as error:
        raise RunFault(_refusal(to, error.response.status_code if error.response is not None else 0)) from None
    except Exception as error:  # which one depends on the HTTP client below the hub's
        raise RunFault(
            f"--to {to}: the hub could not be reached or broke off ({type(error).__name__}): look at the network and repeat "
            "the command; the upload is one commit, so the repository has all of it or nothing"
        ) from None


def _refusal(to: str, status: int) -> str:
    if status == 401:
        return f"--to {to}: the hub does not accept the token (401): `hf auth login` with a new one, or mend HF_TOKEN"
    if status == 403:
        owner = to.partition("/")[0]
        return f"--to {to}: the token may not write there (403): make one with write access to {owner}, or choose another owner"
    return f"--to {to}: the hub refused (HTTP {status}): nothing of this upload is there; repeat it, and look at status.huggingface.co"
