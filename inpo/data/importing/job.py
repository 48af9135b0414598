"""`inpo data import`: annotations are read and their pictures examined, then put together, then paired and written."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from inpo.checking import number, one_of, whole
from inpo.data.fields import CAPTION, IMAGES, LABELS, Fault, short
from inpo.data.importing.collected import Collected
from inpo.data.importing.formats import FORMATS, Format, FormatName, detect
from inpo.data.importing.pictures import PictureFolder
from inpo.data.importing.rankings import Faulty, Item, Place, Ranking
from inpo.data.importing.report import ImportReport, Listing, too_many
from inpo.data.importing.rows import FOLDERS, Row, read_rows
from inpo.data.lookahead import in_order
from inpo.data.pairs import SAME_IMAGES
from inpo.data.ranking import PairPolicy, crossed_pairs, ranked_pairs
from inpo.data.writer import Kind, PairWriter, check_free, writing_pairs
from inpo.errors import InputError, nearest
from inpo.randomness import seed_for

Progress = Callable[[int], None]
"""Called with the rows examined so far; how many there are is not known before the end."""


@dataclass(frozen=True)
class ImportConfig:
    """What is imported, and how rankings become pairs.

    path: the annotation file, or a folder with liked/ and disliked/. format: `auto` goes by the first row's fields.
    images: the folder that paths are relative to; None is the annotations' own (for HPDv2 the folder beside it that bears its
    name, where there is one). pairs: which pictures of a ranking are compared; by default all, as the authors of HPSv2 and
    ImageReward do, so that no annotation is lost. per_caption: the most pairs that likes and dislikes of one caption
    make. seed: which ones. max_rejected_fraction: the share of rows with a fault past which nothing is written.
    """

    path: Path
    format: Literal["auto"] | FormatName = "auto"
    images: Path | None = None
    pairs: PairPolicy = "all"
    per_caption: int = 8
    seed: int = 0
    max_rejected_fraction: float = 0.1

    def __post_init__(self) -> None:
        one_of("format", self.format, ("auto", *get_args(FormatName)))
        one_of("pairs", self.pairs, get_args(PairPolicy))
        whole("per_caption", self.per_caption, low=1)
        number("max_rejected_fraction", self.max_rejected_fraction, low=0, high=1)


def import_pairs(config: ImportConfig, out: Path, *, force: bool = False, progress: Progress | None = None) -> ImportReport:
    """Writes the pairs that the annotations hold to `out` and everything that is wrong to OUT.rejected.jsonl beside it.

    Each picture is decoded once; its bytes are kept as they are. Raises `InputError` where a file cannot be used as a whole,
    where more rows than `max_rejected_fraction` have a fault, and where no pair is left; `out` is then as it was.
    """
    check_free(out, force=force)
    rows, kind = _open(config)
    folder = PictureFolder(_images(config, kind))
    with Collected() as collected, Listing(out.with_suffix(".rejected.jsonl")) as listing:
        for done, (row, ranking, faults) in enumerate(_examined(rows, kind, folder), start=1):
            _collect(collected, ranking, faults, listing=listing, place=Place(row.file, row.number))
            if progress is not None:
                progress(done)
        if listing.rejected > config.max_rejected_fraction * listing.rows:
            raise InputError(too_many(str(config.path), listing, config.max_rejected_fraction))
        with writing_pairs(out, _columns(kind), force=force) as writer:
            ties = sum(row[LABELS[0]] == 0.5 for row in _written(_pairs(collected, kind, config), folder, writer, listing))
            if not writer.count:
                raise InputError(f"{config.path}: no pair came of {listing.rows} rows; what is wrong: {listing.summary()}")
        return listing.report(out, kind.name, pairs=writer.count - ties, ties=ties)


def _open(config: ImportConfig) -> tuple[Iterator[Row], Format]:
    if not config.path.exists():
        siblings = [entry.name for entry in config.path.parent.iterdir()] if config.path.parent.is_dir() else []
        raise InputError(f"{config.path}: does not exist{nearest(config.path.name, siblings)}")
    if config.path.is_dir():
        return read_rows(config.path), _folder_format(config)
    rows = read_rows(config.path)
    if config.format != "auto":
        return rows, FORMATS[config.format]
    passed = []
    for row in rows:
        passed.append(row)
        if not isinstance(row.values, Fault):
            return chain(passed, rows), detect(row.values, str(Place(row.file, row.number)))
    raise InputError(f"{config.path}: holds no row that can be read" + (f"; {passed[0].values}" if passed else ""))


def _folder_format(config: ImportConfig) -> Format:
    if config.format in ("auto", "likes") and all((config.path / name).is_dir() for name in FOLDERS):
        return FORMATS["likes"]
    files = sorted(file.name for file in config.path.iterdir() if file.suffix.lower() in (".json", ".jsonl", ".csv", ".parquet"))
    raise InputError(
        f"{config.path} is a folder without {' and '.join(f'{name}/' for name in FOLDERS)}; name the annotation file"
        + (f", like {config.path / files[0]}" if files else "")
    )


def _images(config: ImportConfig, kind: Format) -> Path:
    if config.images is not None:
        return config.images
    if config.path.is_dir():
        return config.path
    own = config.path.with_suffix("")
    return own if kind.name == "hpdv2" and own.is_dir() else config.path.parent


def _examined(rows: Iterator[Row], kind: Format, folder: PictureFolder) -> Iterator[tuple[Row, Ranking | None, list[Fault]]]:
    """Each row with its ranking, less the pictures that cannot be used, and everything that is wrong with it."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers, thread_name_prefix="import") as pool:

        def submit(row: Row) -> Future[tuple[Row, Ranking | None, list[Fault]]]:
            return pool.submit(_examine, row, kind, folder)

        yield from in_order(submit, rows, 4 * workers)


def _examine(row: Row, kind: Format, folder: PictureFolder) -> tuple[Row, Ranking | None, list[Fault]]:
    if isinstance(row.values, Fault):
        return row, None, [row.values]
    try:
        ranking = kind.ranking(row.values, Place(row.file, row.number))
    except Faulty as error:
        return row, None, list(error.faults)
    found = [(item, folder.fault(item.path, item.field)) for item in ranking.items]
    good = tuple(item for item, fault in found if fault is None)
    # One picture left of a row that had several is no ranking; where a row is one picture, others may follow.
    whole = len(good) >= min(2, len(ranking.items))
    faults = [fault for _, fault in found if fault is not None]
    return row, Ranking(ranking.id, ranking.caption, good, ranking.columns) if whole else None, faults


def _collect(collected: Collected, ranking: Ranking | None, faults: list[Fault], *, listing: Listing, place: Place) -> None:
    try:
        if ranking is not None:
            collected.add(ranking)
    except Faulty as error:
        faults = [*faults, *error.faults]
    listing.add_row(place, faults)


@dataclass(frozen=True)
class _Pair:
    ranking: Ranking
    items: tuple[Item, Item]
    label: float


def _pairs(collected: Collected, kind: Format, config: ImportConfig) -> Iterator[_Pair | Ranking]:
    """The pairs of each ranking; a ranking that has none as itself."""
    for ranking in collected:
        items = ranking.items
        chosen = list(_crossed(ranking, config) if kind.name == "likes" else ranked_pairs([item.value for item in items], config.pairs))
        if not chosen:
            yield ranking
        yield from (_Pair(ranking, (items[i], items[j]), label) for i, j, label in chosen)


def _crossed(ranking: Ranking, config: ImportConfig) -> Iterator[tuple[int, int, float]]:
    rng = random.Random(seed_for(config.seed, "likes", ranking.caption))
    liked, disliked = ([i for i, item in enumerate(ranking.items) if item.value == value] for value in (1.0, 0.0))
    rng.shuffle(liked)
    rng.shuffle(disliked)
    yield from ((liked[i], disliked[j], 1.0) for i, j in crossed_pairs(len(liked), len(disliked), config.per_caption))


def _written(pairs: Iterator[_Pair | Ranking], folder: PictureFolder, writer: PairWriter, listing: Listing) -> Iterator[dict[str, object]]:
    for pair in pairs:
        if isinstance(pair, Ranking):
            listing.add_alone(pair)
            continue
        images = [folder.read(item.path) for item in pair.items]
        if images[0] == images[1]:
            listing.add_same(pair.items[1].place, Fault(pair.items[1].field, SAME_IMAGES, short(pair.items[1].path)))
            continue
        row = _row(pair, images)
        writer.write(row)
        yield row


def _row(pair: _Pair, images: list[bytes]) -> dict[str, object]:
    row: dict[str, object] = {
        **dict(zip(IMAGES, images, strict=True)), **dict(zip(LABELS, (pair.label, 1 - pair.label), strict=True)),
        CAPTION: pair.ranking.caption, "ranking_id": pair.ranking.id, **pair.ranking.columns,
    }  # fmt: skip
    for side, item in enumerate(pair.items):
        row |= {f"image_{side}_uid": item.path, **{f"{name}_{side}": value for name, value in item.columns.items()}}
    return row


def _columns(kind: Format) -> dict[str, Kind]:
    sides = {f"{name}_{side}": of for name, of in kind.sides.items() for side in range(2)}
    return {"ranking_id": str, "image_0_uid": str, "image_1_uid": str, **sides, **kind.common}
