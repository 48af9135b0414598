"""Single labelled pictures: the same pictures whatever they are stored in, what is wrong with one, and one picture in place of a pair."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.compose import open_pairs
from inpo.data.config import DataConfig
from inpo.data.derived import SinglesOfPairs, origin
from inpo.data.fields import OPINIONS
from inpo.data.index import REJECTED_FILE
from inpo.data.loader import EncodedPairs
from inpo.data.pairs import pair_id, picture_id
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.errors import InputError
from inpo.types import PairRecord
from inpo.world.pairs import WorldPairs
from tests.unit.data.layouts import as_parquet, put
from tests.unit.data.making import SIDE, MadePairs, SmallEncoder, pair_record, png

LIKED = (True, True, False, True, False, True, True, True)


def as_parquet_file(folder: Path) -> Path:
    """jpg, label and caption, the labels as 1 and 0."""
    folder.mkdir()
    rows = [{"jpg": png(i), "label": int(liked), "caption": f"caption {i}"} for i, liked in enumerate(LIKED)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "opinions.parquet", row_group_size=3)
    return folder / "opinions.parquet"


def as_jsonl(folder: Path) -> Path:
    """image, label and caption, the labels as true and false."""
    pictures(folder)
    lines = [{"image": f"{i}.png", "label": liked, "caption": f"caption {i}"} for i, liked in enumerate(LIKED)]
    return put(folder / "opinions.jsonl", "\n".join(map(json.dumps, lines)).encode())


def as_csv(folder: Path) -> Path:
    """The same, where everything is text."""
    pictures(folder)
    with (folder / "opinions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["caption", "label", "image"])
        table.writerows(
            [f"caption {i}", ("False", "1")[liked] if i % 2 else ("0", "true")[liked], f"{i}.png"] for i, liked in enumerate(LIKED)
        )
    return folder / "opinions.csv"


def as_folders(folder: Path) -> Path:
    """liked/ and disliked/, nested, captions beside the pictures; a name may stand on both sides, and end as one of a pair does."""
    for i, liked in enumerate(LIKED):
        place = folder / ("Disliked", "liked")[liked] / f"{i // 3}" / f"{i}_w"
        put(place.with_suffix(".png"), png(i))
        put(place.with_suffix(".txt"), f"caption {i}\n".encode())
    return folder


LAYOUTS: Mapping[str, Callable[[Path], Path]] = {
    "parquet": as_parquet_file, "jsonl": as_jsonl, "csv": as_csv, "folders": as_folders
}  # fmt: skip


def pictures(folder: Path) -> None:
    for i in range(len(LIKED)):
        put(folder / f"{i}.png", png(i))


def records(path: Path, **settings: object) -> list[PairRecord]:
    """All records, by caption, without their places."""
    source = ParquetPairs.open(DataConfig(str(path), **settings))  # type: ignore[arg-type]
    assert source.singles
    return sorted((replace(source[i], row="") for i in range(source.size)), key=lambda record: record.caption)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_pictures(tmp_path: Path, layout: str) -> None:
    path = LAYOUTS[layout](tmp_path / "data")
    expected = [
        PairRecord(picture_id(png(i), f"caption {i}").hex(), f"caption {i}", png(i), None, float(liked), "")
        for i, liked in enumerate(LIKED)
    ]
    assert records(path) == expected
    report = validate(str(path))
    assert report.ok, list(report.lines())
    assert f"{len(LIKED)} single pictures, {sum(LIKED)} desired, 0 without a label" in next(report.lines())


def test_an_id_is_of_picture_and_caption_and_of_no_pair() -> None:
    """Worked out by hand: each part after its length. Nothing that is one picture shares an id with two."""
    parts = b"".join(len(part).to_bytes(8, "big") + part for part in (b"picture", b"a caption"))
    assert picture_id(b"picture", "a caption") == hashlib.sha256(parts).digest()
    assert picture_id(b"a", "b") != pair_id(b"a", b"", "b")


@pytest.mark.parametrize(
    ("label", "reason"),
    [(None, "is missing"), *((found, "is not one of true, 1, 1.0, like, liked, up, false,") for found in ("perhaps", 2, 0.5, [1]))],
)
def test_a_label_that_says_neither_is_named_by_row_and_field(tmp_path: Path, label: object, reason: str) -> None:
    path = as_jsonl(tmp_path / "data")
    path.write_text(path.read_text() + "\n" + json.dumps({"image": "0.png", "label": label, "caption": "x"}))
    source = ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.5), folder=tmp_path / "run")
    line = json.loads((tmp_path / "run" / REJECTED_FILE).read_text())
    assert (source.size, line["row"], line["field"]) == (len(LIKED), len(LIKED), "label")
    assert line["reason"].startswith(reason)


def test_what_is_missing_in_the_folders_is_listed(tmp_path: Path) -> None:
    as_folders(tmp_path / "set")
    for name, data in {
        "liked/no caption.png": png(90), "liked/no picture.txt": b"x", "Disliked/twice.png": png(91), "Disliked/twice.jpg": png(92),
        "Disliked/twice.txt": b"x", "liked/broken.png": b"", "liked/broken.txt": b"x", "notes.txt": b"no caption", "other/1.png": png(93),
    }.items():  # fmt: skip
        put(tmp_path / "set" / name, data)
    found = {(problem.file, problem.field, problem.reason) for problem in validate(str(tmp_path / "set")).problems}
    assert found == {
        ("set/liked/no caption", "caption", "there is no caption file"),
        ("set/liked/no picture", "caption", "a caption without a picture"),
        ("set/Disliked/twice", "picture", "several pictures share this name"),
        ("set/liked/broken", "picture", "zero bytes"),
    }


def test_rows_are_filtered_and_left_out_by_their_columns(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "data")
    lines = [json.loads(line) | {"by": i % 2, "has_label": i != 5} for i, line in enumerate(path.read_text().splitlines())]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [record.caption for record in records(path, where=("by == 1",))] == ["caption 1", "caption 3", "caption 7"]
    assert len(records(as_folders(tmp_path / "set"), where=("name != 'liked/0/0_w'",))) == len(LIKED) - 1


def test_the_same_picture_twice_is_a_warning(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "data")
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text("\n".join([path.read_text(), json.dumps(first), json.dumps(first | {"label": 0})]))
    report = validate(str(path))
    assert (report.ok, report.duplicates, report.contradictions) == (True, 1, 1)
    assert "opinions.jsonl, row 9: the picture of opinions.jsonl, row 0 with the opposite label" in [str(each) for each in report.warnings]


def test_the_list_is_kept_and_knows_labels_and_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened again, nothing is examined; another label is another data set, though the pictures and ids are the same."""
    path = as_jsonl(tmp_path / "data")
    first = ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("inpo.data.index.scan", lambda *_, **__: pytest.fail("the rows were examined again"))
        assert ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run").fingerprint == first.fingerprint
    path.write_text(path.read_text().replace('"label": false', '"label": true', 1))
    other = ParquetPairs.open(DataConfig(str(path)))
    assert (list(other.ids), other.fingerprint == first.fingerprint) == (list(first.ids), False)
    with pytest.raises(InputError, match=r"was made with other data: opinions\.jsonl has changed"):
        ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")


def test_the_loader_encodes_one_picture_an_example(tmp_path: Path) -> None:
    """No losers, one picture given to the encoder for each, held-out pictures too, and the labels as P(desired)."""
    encoder = SmallEncoder()
    config = DataConfig(str(as_jsonl(tmp_path / "data")), resolution=SIDE, validation_fraction=0.3, latents="sample")
    source = ParquetPairs.open(config)
    with EncodedPairs(source, encoder, config=config, seed=0, pairs_per_step=2) as loader:
        held = sum(len(batch) for batch in loader.validation())
        assert 0 < held < len(LIKED)
        assert loader.train_pairs == len(LIKED) - held
        batch = loader.fetch(range(loader.train_pairs))
    assert batch.lose is None
    assert batch.win.shape == (len(LIKED) - held, 3, SIDE // 4, SIDE // 4)
    assert all(each.lose is None for each in loader.validation())
    assert sum(encoder.image_calls) == loader.images_encoded == len(LIKED)
    labels = {source[i].id: source[i].preference for i in range(source.size)}
    assert batch.preference.tolist() == [labels[name] for name in batch.ids]


def test_too_few_pictures_for_a_step_are_called_pictures(tmp_path: Path) -> None:
    config = DataConfig(str(as_jsonl(tmp_path / "data")), resolution=SIDE)
    with pytest.raises(InputError, match=r"\d single pictures to train on .* fewer than train\.pairs_per_step=99"):
        EncodedPairs(ParquetPairs.open(config), SmallEncoder(), config=config, seed=0, pairs_per_step=99)


@pytest.mark.parametrize("ratio", [0.2, 0.8])
def test_one_picture_of_a_pair_is_the_winner_as_often_as_asked(ratio: float) -> None:
    """Of 4000 pairs, within four standard deviations; each is one of its pair's pictures and knows which."""
    source = SinglesOfPairs(MadePairs(4000), ratio, seed=3)
    found = [source[i] for i in range(4000)]
    for i in range(0, 4000, 97):
        assert found[i].win == (pair_record(i).win if found[i].preference else pair_record(i).lose)
        assert (found[i].lose, found[i].id, found[i].caption) == (None, pair_record(i).id, pair_record(i).caption)
    share = np.mean([each.preference for each in found])
    assert abs(share - ratio) < 4 * (ratio * (1 - ratio) / 4000) ** 0.5


def test_nothing_is_known_of_a_picture_of_a_tie() -> None:
    """A scorer may find one; it is then neither a desired picture nor another."""

    class Ties(MadePairs):
        def __getitem__(self, index: int) -> PairRecord:
            return replace(super().__getitem__(index), preference=0.5)

    assert {SinglesOfPairs(Ties(20), 0.8, 0)[i].preference for i in range(20)} == {0.5}


def test_which_picture_comes_is_pure_in_seed_and_pair() -> None:
    """Not in the place where the pair stands; another seed or ratio is another data set."""
    first, again, other = (SinglesOfPairs(MadePairs(60), 0.5, seed) for seed in (1, 1, 2))

    class Reversed(MadePairs):
        def __getitem__(self, index: int) -> PairRecord:
            return super().__getitem__(59 - index)

    turned = SinglesOfPairs(Reversed(60), 0.5, 1)
    assert [first[i] for i in range(60)] == [again[i] for i in range(60)] == [turned[59 - i] for i in range(60)]
    assert [first[i].win for i in range(60)] != [other[i].win for i in range(60)]
    assert len({first.fingerprint, other.fingerprint, SinglesOfPairs(MadePairs(60), 0.6, 1).fingerprint}) == 3
    assert first.fingerprint == again.fingerprint


def test_singles_out_of_the_worlds_pairs_and_of_a_file(tmp_path: Path) -> None:
    """Through the settings: endless as the world's pairs are, the ids of the pairs, and the held-out part of the pairs."""
    world = open_pairs(DataConfig("world:pairs", positive_ratio=0.8))
    assert (world.singles, world.size, world[5].id, world[5].lose) == (True, None, WorldPairs()[5].id, None)
    path = as_parquet(tmp_path, 12)
    pairs = open_pairs(str(path))
    singles = open_pairs(DataConfig(str(path), positive_ratio=0.8), seed=1)
    assert isinstance(singles, SinglesOfPairs)
    assert isinstance(pairs, ParquetPairs)
    assert (list(singles.ids), singles.block) == (list(pairs.ids), pairs.block)
    assert isinstance(origin(singles), ParquetPairs)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_words_of_the_importer_are_labels_here_too(tmp_path: Path, kind: str) -> None:
    """One table: what `inpo data import` reads as liked and disliked, trained on as it is."""
    words = {"like": 1, "Liked": 1, "up": 1, "true": 1, "1": 1, "dislike": 0, "disliked ": 0, "DOWN": 0, "-1": 0, "false": 0}
    assert {word.strip().lower() for word in words} <= OPINIONS.keys()
    lines = [{"image": f"{i}.png", "caption": f"caption {i}", "label": word} for i, word in enumerate(words)]
    for i in range(len(lines)):
        put(tmp_path / f"{i}.png", png(i))
    path = tmp_path / f"likes.{kind}"
    if kind == "parquet":
        table = {"jpg": [png(i) for i in range(len(lines))], "caption": [line["caption"] for line in lines], "label": list(words)}
        pq.write_table(pa.table(table), path)
    elif kind == "csv":
        path.write_text("\n".join(["image,caption,label", *(",".join(map(str, line.values())) for line in lines)]))
    else:
        path.write_text("\n".join(map(json.dumps, lines)))
    source = ParquetPairs.open(DataConfig(str(path)))
    assert [source[i].preference for i in range(source.size)] == list(words.values())
