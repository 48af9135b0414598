"""Data sets on the Hugging Face hub: `hub:owner/name[@revision][:split]` to Parquet files in the local cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from inpo.errors import InputError, nearest

PREFIX = "hub:"
LIKE_AN_ID = re.compile(r"[\w.-]+/[\w.-]+")

_ADDRESS = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^:@]+))?(?::(?P<split>[^:]+))?")
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-(?P<total>\d{5})\b")
_SUFFIX = ".parquet"


def hub_files(path: str) -> list[tuple[str, Path]]:
    """Names ("owner/name@commit/data/train-….parquet") and places of the files, downloaded where the cache lacks them.

    Only the split's files are fetched. Raises `InputError` for an address that cannot be read, a data set that is not there, not
    open to this user or without Parquet files, a split that is not there or not named where there are several, and for no network.
    """
    match = _ADDRESS.fullmatch(path)
    if match is None:
        raise InputError(
            f"data.path={path}: a data set on the hub is written hub:owner/name, hub:owner/name@revision or hub:owner/name:split"
        )
    repo, revision = match["repo"], match["revision"]
    online = _listed(path, repo, revision)
    cached = _snapshot(path, repo, revision) if online is None else None
    names = online if cached is None else [file.relative_to(cached).as_posix() for file in cached.rglob(f"*{_SUFFIX}")]
    chosen = _of_split(path, sorted(name for name in names or () if name.endswith(_SUFFIX)), match["split"])
    folder = cached or _snapshot(path, repo, revision, chosen)
    missing = [name for name in chosen if not (folder / name).is_file()]
    if missing:
        raise InputError(f"data.path={path}: {missing[0]} did not arrive in {folder}; start again to fetch what is missing")
    return [(f"{repo}@{folder.name[:12]}/{name}", folder / name) for name in chosen]


def split_of(name: str) -> str:
    """A file's split by its name: `train` of data/train-00000-of-00002.parquet, `default/train` of default/train/0.parquet."""
    match = _SHARD.match(PurePosixPath(name).name)
    if match is not None:
        return match["split"]
    parent = PurePosixPath(name).parent.as_posix()
    return PurePosixPath(name).stem if parent in (".", "data") else parent


def _listed(path: str, repo: str, revision: str | None) -> list[str] | None:
    """The data set's files as the hub lists them; None where it cannot be reached."""
    import huggingface_hub

    try:
        return list(huggingface_hub.HfApi().list_repo_files(repo, repo_type="dataset", revision=revision))
    except Exception as error:  # what it raises depends on the hub client and on the HTTP client below it
        refusal = _refusal(path, repo, error)
        if refusal is None:
            return None
        raise InputError(refusal) from error


def _snapshot(path: str, repo: str, revision: str | None, files: Sequence[str] | None = None) -> Path:
    """The folder of the data set's commit in the cache: with `files` downloaded, or, without any, as it is."""
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=None if files is None else list(files),
                local_files_only=files is None,
            )
        )
    except Exception as error:  # As above; a full disk is an OSError too.
        kind = type(error).__name__
        where = f"{repo}{'' if revision is None else f' at {revision}'}"
        advice = f"run `hf download {repo} --repo-type dataset` where there is a network, or name a local folder"
        reason = "is not in the local cache, and the hub cannot be reached" if files is None else f"could not be downloaded ({kind})"
        raise InputError(_refusal(path, repo, error) or f"data.path={path}: {where} {reason}; {advice}") from error


def _refusal(path: str, repo: str, error: Exception) -> str | None:
    """What the hub itself says no to, by the error's class; None for everything that a network may do."""
    kind = type(error).__name__
    if kind == "GatedRepoError":
        page = f"https://huggingface.co/datasets/{repo}"
        return f"data.path={path}: the data set is gated: accept its terms at {page}, then give a token by `hf auth login` or HF_TOKEN"
    if kind == "RepositoryNotFoundError":
        return f"data.path={path}: there is no such data set, or it is private and needs a token, by `hf auth login` or HF_TOKEN"
    if kind == "RevisionNotFoundError":
        return f"data.path={path}: the data set has no such revision"
    return None


def _of_split(path: str, names: Sequence[str], split: str | None) -> list[str]:
    if not names:
        converted = f"{path.split('@')[0].removesuffix(f':{split}')}@refs/convert/parquet"
        raise InputError(f"data.path={path}: there are no Parquet files; the hub's own conversion may be at {converted}")
    splits = sorted({split_of(name) for name in names})
    if split is None:
        if len(splits) > 1:
            raise InputError(f"data.path={path}: the data set holds the splits {', '.join(splits)}; name one, as in {path}:{splits[-1]}")
        return _complete(path, list(names))
    chosen = [name for name in names if split_of(name) == split or split_of(name).endswith(f"/{split}")]
    if not chosen:
        raise InputError(f"data.path={path}: there is no split {split!r}{nearest(split, splits)}; splits: {', '.join(splits)}")
    return _complete(path, chosen)


def _complete(path: str, names: list[str]) -> list[str]:
    """The same, unless the names tell of more files: a cache may hold a few of a large data set."""
    totals = {int(match["total"]) for name in names if (match := _SHARD.match(PurePosixPath(name).name)) is not None}
    if len(totals) == 1 and len(names) < (total := totals.pop()):
        raise InputError(f"data.path={path}: only {len(names)} of its {total} files are there; fetch the others where there is a network")
    return names
