"""From `data.path` to shards: what it stands for, found and checked before anything is read."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inpo.data import hub, listing
from inpo.data.config import DataConfig
from inpo.data.fields import Fault, Labels, pair_shape
from inpo.data.files import walk
from inpo.data.folders import SIDES, open_folder
from inpo.data.listing import open_listing
from inpo.data.opinions import DISLIKED, LIKED, open_opinions
from inpo.data.parquet import open_parquet, schema_faults
from inpo.data.scan import Rules, rules_of
from inpo.data.shards import Shard
from inpo.data.suits import check_singles
from inpo.errors import InputError, nearest

_SPLIT = re.compile(r"(.+?)-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Unusable:
    """A file that cannot be used at all, and what is wrong with it; one fault for each column where its columns are wrong."""

    name: str
    faults: tuple[Fault, ...]
    reason: str


def open_shards(config: DataConfig, *, labels: Labels | None = None) -> list[Shard]:
    """All shards of a data set, their columns checked. Raises `InputError` at the first that cannot be used."""
    shards: list[Shard] = []
    for found in examine_shards(config, labels=labels):
        if isinstance(found, Unusable):
            drift = f"; {shards[0].name} has it right: the files' columns drift apart" if shards and found.faults else ""
            raise InputError(f"{found.name}: {found.reason}{drift}")
        shards.append(found)
    return shards


def examine_shards(config: DataConfig, *, labels: Labels | None = None) -> Iterator[Shard | Unusable]:
    """The shards that `config.path` stands for, one by one, also those that cannot be used. `labels`: other than settings say.

    Raises `InputError` only where it stands for nothing at all, mixes pairs and single pictures, where settings are for
    the other kind, or where columns that they name are not there.
    """
    rules = rules_of(config)
    rules = replace(rules, labels=labels or rules.labels)
    given = Path(config.path).expanduser()
    folder = _open_folder(config.path, given, rules) if given.is_dir() else None
    if folder is not None:
        found: Iterator[Shard | Unusable] = iter([folder])
    else:
        base = None if config.root is None else _existing_root(config.root)
        found = (_open(name, file, base, rules) for name, file in find_files(config.path))
    first: Shard | None = None
    for shard in found:
        if isinstance(shard, Shard):
            first = first or shard
            _check_one_kind(config.path, first, shard)
            if shard.shape.single:
                check_singles(config)
            rules.check_columns(shard.columns, shard.name)
        yield shard


def _open_folder(path: str, folder: Path, rules: Rules) -> Shard | None:
    """A folder of pictures; None where there are none. Raises `InputError` where it is something else too."""
    files = list(walk(folder))
    tops = {name.split("/")[0].lower() for name, _ in files if "/" in name}
    opinions = {LIKED, DISLIKED} <= tops
    if opinions and tops & set(SIDES):
        raise InputError(f"data.path={path}: the folder holds both {LIKED}/ and {DISLIKED}/ and sides of pairs; name one of them")
    pairs = None if opinions else open_folder(folder, files, shape=pair_shape(rules.labels, there=True))
    found: Shard | None = pairs or open_opinions(folder, files)
    if found is not None and any(folder.rglob("*.parquet")):
        raise InputError(f"data.path={path}: the folder holds both Parquet files and pictures; name one of them")
    return found


def _check_one_kind(path: str, first: Shard, shard: Shard) -> None:
    if first.shape.single != shard.shape.single:
        single, pairs = (first, shard) if first.shape.single else (shard, first)
        raise InputError(f"data.path={path}: {single.name} holds single pictures and {pairs.name} pairs; name those of one kind")


def find_files(path: str) -> list[tuple[str, Path]]:
    """Names and paths of the files that `path` (a file, a folder of Parquet files, a glob, a hub address) stands for, sorted by name.

    Raises `InputError` where there are none, and where a folder mixes the splits of a Hugging Face data set.
    """
    if path.startswith(hub.PREFIX):
        return hub.hub_files(path)
    given = Path(path).expanduser()
    if given.is_file():
        return [(given.name, given)]
    if given.is_dir():
        files = [(name, file) for name, file in walk(given) if name.endswith(".parquet") and file.is_file()]
        files.sort()
        _check_one_split(path, [name for name, _ in files])
    else:
        files = sorted((Path(name).as_posix(), Path(name)) for name in glob.glob(str(given), recursive=True) if Path(name).is_file())
    if not files:
        raise InputError(_nothing_at(path, given))
    return files


def _open(name: str, path: Path, root: Path | None, rules: Rules) -> Shard | Unusable:
    try:
        if path.suffix.lower() in listing.SUFFIXES:
            return open_listing(name, path, root, labels=rules.labels)
        shard = open_parquet(name, path, labels=rules.labels)
    except InputError as error:
        return Unusable(name, (), str(error).removeprefix(f"{name}: "))
    faults = schema_faults(shard.schema, shard.shape)
    return Unusable(name, tuple(faults), "; ".join(map(str, faults))) if faults else shard


def _existing_root(root: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"data.root={root}: there is no such folder")
    return folder


def _check_one_split(path: str, names: Sequence[str]) -> None:
    splits = sorted({match.group(1) for name in names if (match := _SPLIT.match(Path(name).name))})
    if len(splits) > 1:
        example = f"{path}/{splits[-1]}-*.parquet"
        raise InputError(f"data.path={path}: the folder holds the splits {', '.join(splits)}; name one by a glob, like {example}")


def _around(given: Path) -> str:
    """The folder of pictures that `given` is one side of, or that lies in it."""
    around = (given.resolve().parent, *sorted(given.glob("*/")))
    inside = {folder: {entry.name.lower() for entry in folder.glob("*/")} for folder in around}
    whole = next((folder for folder, names in inside.items() if names >= set(SIDES) or names >= {LIKED, DISLIKED}), None)
    return f" (did you mean {str(whole)!r}?)" if whole else ""


def _nothing_at(path: str, given: Path) -> str:
    if given.is_dir():
        lists = sorted(entry.name for entry in given.iterdir() if entry.suffix.lower() in listing.SUFFIXES)
        if lists:
            return f"data.path={path}: a folder with the listing {lists[0]}: name the file itself, data.path={path}/{lists[0]}"
        folders = f"{SIDES[0]}/ and {SIDES[1]}/ or {LIKED}/ and {DISLIKED}/"
        return f"data.path={path}: the folder holds no *.parquet file, no folders {folders}, and no …_w and …_l{_around(given)}"
    if glob.has_magic(str(given)):
        return f"data.path={path}: no file matches"
    if hub.LIKE_AN_ID.fullmatch(path) and not given.parent.is_dir():
        return f"data.path={path}: does not exist; a data set on the hub is written {hub.PREFIX}{path}"
    siblings = [entry.name for entry in given.parent.iterdir()] if given.parent.is_dir() else []
    return f"data.path={path}: does not exist{nearest(given.name, siblings)}"
