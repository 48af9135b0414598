"""Folders, listings and their captions as they should not be: each fault costs its pair and is named, or stops the run in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inpo.data import listing as listing_module
from inpo.data.config import DataConfig
from inpo.data.index import REJECTED_FILE
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.errors import InputError
from tests.faults.test_data_images import GIF, bomb
from tests.unit.data import layouts, test_singles
from tests.unit.data.layouts import LAYOUTS, as_csv, as_jsonl, as_sides, as_suffixes, put
from tests.unit.data.making import encoded, noise_picture, png, row
from tests.unit.data.test_singles import LAYOUTS as SINGLES

BROKEN = {
    "zero bytes": b"",
    "truncated PNG": png(7)[:60],
    "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
    "an SVG drawing": b"<svg onload='alert(1)'/>",
    "a GIF": GIF,
    "more than 64 megapixels": bomb(10_000),
    "the same bytes as the other picture": png(6),
}
UNUSUAL = {
    "CMYK": encoded(Image.fromarray(noise_picture(1)).convert("CMYK"), "JPEG"),
    "16 bit": encoded(Image.fromarray(np.zeros((16, 16), np.uint16)), "PNG"),
    "palette": encoded(Image.fromarray(noise_picture(1)).convert("P"), "PNG"),
    "turned": encoded(noise_picture(1), "JPEG", exif=Image.Exif()),
}


def with_loser(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Of row 3, which jpg_1 wins, the loser becomes `data`; the winner is picture 6 or 7."""
    monkeypatch.setattr(layouts, "row", lambda number: row(number, **({"jpg_0": data, "jpg_1": png(6)} if number == 3 else {})))


def refusal(path: Path | str, **settings: object) -> str:
    """The one line with which opening `path` fails."""
    with pytest.raises(InputError) as caught:
        ParquetPairs.open(DataConfig(str(path), **settings))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_broken_picture_costs_its_pair_in_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, reason: str) -> None:
    """Named by the column or side that its user knows; the eleven other pairs stay."""
    with_loser(monkeypatch, BROKEN[reason])
    pairs = ParquetPairs.open(DataConfig(str(LAYOUTS[layout](tmp_path / "data", 12))), folder=tmp_path / "run")
    (line,) = [json.loads(line) for line in (tmp_path / "run" / REJECTED_FILE).read_text().splitlines()]
    fields = {"parquet": ("jpg_0", "jpg_1"), "csv": ("image_0", "image_1")}.get(layout, ("win", "lose"))
    assert (pairs.size, line["row"], line["field"] in fields, line["reason"].startswith(reason)) == (11, 3, True, True), line
    assert (
        validate(str(tmp_path / "data" / "pairs.parquet") if layout == "parquet" else str(pairs_path(tmp_path, layout))).tally
        == pairs.tally
    )


def pairs_path(folder: Path, layout: str) -> Path:
    """Where a layout's data were written."""
    return folder / "data" / {"jsonl": "pairs.jsonl", "csv": "pairs.csv"}.get(layout, "")


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unusual_pictures_are_pairs_in_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, kind: str) -> None:
    """Their bytes arrive as they are; how they decode does not depend on where they came from."""
    with_loser(monkeypatch, UNUSUAL[kind])
    pairs = ParquetPairs.open(DataConfig(str(LAYOUTS[layout](tmp_path / "data", 12))))
    assert (pairs.size, pairs[3].lose) == (12, UNUSUAL[kind])


@pytest.mark.parametrize("name", ["two words", "naïve – 猫", "line\nbreak", "tab\tquote'\"", "a.b.c", "-rf", "percent%20"])
def test_any_file_name_is_a_name(tmp_path: Path, name: str) -> None:
    """In a folder and in a listing; what is printed of it is one line."""
    for side in ("win", "lose"):
        put(tmp_path / "set" / side / f"{name}.png", layouts.sides(0)[side])
    put(tmp_path / "set" / "win" / f"{name}.txt", b"x")
    line = {side: f"set/{side}/{name}.png" for side in ("win", "lose")} | {"caption": "x"}
    for path in (tmp_path / "set", put(tmp_path / "pairs.jsonl", json.dumps(line).encode())):
        pairs = ParquetPairs.open(DataConfig(str(path)))
        assert (pairs.size, pairs[0].win, pairs[0].row.isprintable()) == (1, layouts.sides(0)["win"], True)


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, as old archives hold them; the list of rejected rows can still be written."""
    folder = os.fsencode(tmp_path / "set")
    as_sides(tmp_path / "set", 2)
    with open(folder + b"/win/caf\xe9.png", "wb") as file:
        file.write(png(90))
    pairs = ParquetPairs.open(DataConfig(str(tmp_path / "set"), max_rejected_fraction=0.5), folder=tmp_path / "run")
    assert pairs.size == 2
    assert "caf\\\\udce9" in (tmp_path / "run" / REJECTED_FILE).read_text(encoding="utf-8")


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    """A linked folder of pictures, a folder that holds itself, a link to nothing and a link to itself."""
    as_sides(tmp_path / "real", 12)
    (tmp_path / "set").mkdir()
    for side in ("win", "lose", "captions"):
        (tmp_path / "set" / side).symlink_to(tmp_path / "real" / side)
    (tmp_path / "real" / "win" / "again").symlink_to(tmp_path / "real" / "win")
    put(tmp_path / "real" / "lose" / "gone.png", png(90))
    put(tmp_path / "real" / "captions" / "gone.txt", b"x")
    (tmp_path / "real" / "win" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "real" / "win" / "circle.png").symlink_to("circle.png")
    pairs = ParquetPairs.open(DataConfig(str(tmp_path / "set"), max_rejected_fraction=0.9))
    reasons = dict(pairs.tally.reasons)
    assert (pairs.size, reasons["win: there is no such file"]) == (8, 1)  # four captions lie at the root of the linked folder's parent


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer and a device without an end, as pictures and as captions."""
    as_suffixes(tmp_path, 12)
    for name, path in (("000_w.png", None), ("001_l.png", "/dev/zero"), ("002.txt", "/dev/zero")):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name) if path is None else (tmp_path / name).symlink_to(path)
    pairs = ParquetPairs.open(DataConfig(str(tmp_path), max_rejected_fraction=0.5))
    assert (pairs.size, sum(pairs.tally.reasons.values())) == (9, 3)
    assert all(reason.endswith("is not a file") for reason in pairs.tally.reasons)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        ("caption é".encode("latin-1"), "is not UTF-8 text: save it as UTF-8 (found 002.txt: byte 8 is 0xe9)"),
        ("caption".encode("utf-16"), "is not UTF-8 text: save it as UTF-8 (found 002.txt: UTF-16)"),
        (b"x" * 70_000, "is larger than 64 KiB (found 002.txt, 70000 bytes)"),
    ],
    ids=["empty", "blank", "latin-1", "utf-16", "huge"],
)
def test_a_caption_file_that_is_no_caption_costs_its_pair(tmp_path: Path, data: bytes, reason: str) -> None:
    put(as_suffixes(tmp_path, 12) / "002.txt", data)
    pairs = ParquetPairs.open(DataConfig(str(tmp_path)))
    assert (pairs.size, len(pairs.tally.examples)) == (11, 1)
    assert f"002, row 2, caption: {reason}" in pairs.tally.examples[0]


def test_a_caption_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    """A byte-order mark is not part of the caption."""
    put(as_suffixes(tmp_path, 12) / "002.txt", b"\xef\xbb\xbfcaption 2\r\n")
    assert ParquetPairs.open(DataConfig(str(tmp_path)))[2].caption == "caption 2"


@pytest.mark.parametrize("make", [as_jsonl, as_csv])
def test_a_listing_in_another_encoding_names_the_byte(tmp_path: Path, make: object) -> None:
    """UTF-16 with and without its mark, Latin-1 far down; what to do is said."""
    path = make(tmp_path, 12)  # type: ignore[operator]
    text = path.read_bytes().decode("utf-8-sig")
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes(text.encode(encoding))
        assert "looks like UTF-16, not UTF-8: save the file as UTF-8" in refusal(path)
    path.write_bytes(text.replace("caption 9", "caption é").encode("latin-1"))
    where = path.read_bytes().index(b"\xe9")
    assert refusal(path).startswith(f"{path.name}: byte {where} (0xe9) is not UTF-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no pairs are listed here"),
        ("win,loss,caption\na,b,c\n", "there is no column lose (did you mean 'loss'?)"),
        ("win,lose,caption,win\n", "the header names win twice"),
        ("image_0,image_1,caption\n", "there is no column label_0 and no label_1"),
        ("a,b\n1,2\n", "no pairs are listed here: expected win, lose and caption"),
        ("win,lose,caption\n", "there are no rows"),
    ],
)
def test_a_table_without_the_columns_of_pairs_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(put(tmp_path / "pairs.csv", text.encode()))


def test_broken_lines_of_a_table_are_listed(tmp_path: Path) -> None:
    """Too many and too few fields, an open quotation mark that swallows the rest; a line break inside quotation marks is text."""
    path = as_csv(tmp_path, 12)
    quoted = 'pictures/000 win.png,pictures/000 lose.png,1,0,"two\nlines",0\r\n'
    path.write_bytes(path.read_bytes() + f'{quoted}1,2\r\n1,2,3,4,5,6,7\r\n\r\n"open,1,2\r\n3,4\r\n'.encode())
    pairs = ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.5))
    assert (pairs.size, pairs[12].caption) == (13, "two\nlines")
    assert dict(pairs.tally.reasons) == {"line: has another number of fields than the header": 2, "line: is not CSV": 1}


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "LINE_BYTES", 1 << 20)
    path = put(tmp_path / "pairs.jsonl", b"[" * ((1 << 20) + 1))
    assert "the line at byte 0 is longer than 1 MiB" in refusal(path)
    assert "is not JSON" in refusal(put(path, b'{"win": "a", "lose": "b", "caption": "c"}\n' + b"[" * 100_000))


def test_half_a_layout_names_the_other_half(tmp_path: Path) -> None:
    """A folder with one side, with both kinds of pairs, and with a listing inside."""
    put(tmp_path / "a" / "win" / "1.png", png(1))
    put(tmp_path / "a" / "loose" / "1.png", png(2))
    assert "the folder holds win/ but nothing in lose/ (did you mean 'loose'?)" in refusal(tmp_path / "a")
    as_sides(tmp_path / "b", 2)
    LAYOUTS["parquet"](tmp_path / "b", 2)
    assert "both Parquet files and pictures" in refusal(tmp_path / "b")
    as_jsonl(tmp_path / "c", 2)
    assert f"name the file itself, data.path={tmp_path / 'c'}/pairs.jsonl" in refusal(tmp_path / "c")


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("nsfw", "is not a comparison"),
        ("score < high", "high is neither a number, nor text in quotes, nor true or false"),
        ("score < __import__('os')", "is neither a number"),
        ("score = 1", "is not a comparison"),
        ("score < true", "true and false have no order"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(tmp_path: Path, condition: str, words: str) -> None:
    assert words in refusal(as_jsonl(tmp_path, 2), where=(condition,))


def test_a_value_that_cannot_be_compared_costs_its_row(tmp_path: Path) -> None:
    """Text where a number is asked for, in a listing; in a Parquet file the column's type tells before any row is read."""
    path = as_jsonl(tmp_path, 12)
    path.write_text(path.read_text().replace('"score": 4', '"score": "high"'))
    pairs = ParquetPairs.open(DataConfig(str(path), where=("score >= 0",)))
    assert (pairs.size, dict(pairs.tally.reasons)) == (11, {"score: is not a number, and data.where compares it with one": 1})
    words = "the column caption holds text, not number"
    assert words in refusal(LAYOUTS["parquet"](tmp_path, 2), where=("caption > 3",))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("reason", [reason for reason in BROKEN if not reason.startswith("the same bytes")])
@pytest.mark.parametrize("layout", SINGLES)
def test_a_broken_single_picture_is_left_out_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, reason: str
) -> None:
    """Listed under the name that its user knows, with what it is; the seven other pictures stay."""
    monkeypatch.setattr(test_singles, "png", lambda number: BROKEN[reason] if number == 3 else png(number))
    path = SINGLES[layout](tmp_path / "data")
    pairs = ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.2), folder=tmp_path / "run")
    (line,) = (json.loads(line) for line in (tmp_path / "run" / REJECTED_FILE).read_text(encoding="utf-8").splitlines())
    field = {"parquet": "jpg", "folders": "picture"}.get(layout, "image")
    assert (pairs.size, pairs.singles, line["field"]) == (7, True, field)
    assert reason in line["reason"]
    assert "caption 3" not in {pairs[i].caption for i in range(pairs.size)}


def test_half_written_opinions_are_told(tmp_path: Path) -> None:
    """A listing without labels, a Parquet file without captions or with labels of bytes: named by column."""
    pictures = put(tmp_path / "a.csv", b"image,caption\n1.png,x\n")
    assert "a.csv: there is no column label beside image, caption" in refusal(pictures)
    rows = [{"jpg": png(1), "label": b"liked"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    told = refusal(tmp_path / "b.parquet")
    assert "label: the column must hold 1 and 0, true and false, or words for them (found binary)" in told
    assert "caption: the column is missing" in told
