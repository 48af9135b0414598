"""Annotations from strangers: every fault is listed, nothing outside the pictures' folder is opened, nothing half is left."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from inpo.data.importing import ImportConfig, import_pairs
from inpo.data.importing.collected import Collected
from inpo.data.importing.rankings import Item, Place, Ranking
from inpo.data.pairs import SAME_IMAGES
from inpo.data.validate import validate
from inpo.errors import InputError, RunFault
from tests.unit.data.importing.annotations import (
    hpdv2_test,
    hpdv2_train,
    hpdv3,
    imagereward,
    listed,
    pictures,
    run,
    write_json,
    write_lines,
)
from tests.unit.data.making import png

GOOD = ["0.png", "1.png"]


def faults_of(rows: list[object], folder: Path, **settings: object) -> list[tuple[str, int | None, str, str, str]]:
    """What is listed for these rows, beside one good row that keeps the import alive; the result is valid."""
    pictures(folder / "pictures", GOOD)
    settings = {"images": folder / "pictures", "format": "hpdv3", **settings}
    good = {"hpdv2": hpdv2_test(GOOD, [1, 2]), "hpdv3": hpdv3(GOOD), "imagereward": imagereward("0.png", 1, "good")}
    extra = [imagereward("1.png", 2, "good")] if settings["format"] == "imagereward" else []
    report = run(write_json(folder / "a.json", [*rows, good[str(settings["format"])], *extra]), folder / "p.parquet", **settings)
    assert report.pairs + report.ties >= 1
    assert validate(str(folder / "p.parquet")).ok
    return [line for line in listed(folder / "p.parquet") if line[1] is not None and line[1] < len(rows)]


OUTSIDE = {
    "../secret.png": "leads out of the pictures' folder: '..' and absolute paths are not followed",
    "a/../../secret.png": "leads out of the pictures' folder: '..' and absolute paths are not followed",
    "{absolute}": "leads out of the pictures' folder: '..' and absolute paths are not followed",
    "C:\\secret.png": "leads out of the pictures' folder: '..' and absolute paths are not followed",
    "link.png": "leads out of the folder through a link",
    "folder/secret.png": "leads out of the folder through a link",
    "loop.png": "cannot be read",
    "a\0b.png": "cannot be read",
    "x" * 5000: "cannot be read",
    "pipe": "is not a file",
    ".": "is not a file",
    "gone.png": "there is no such file",
    "page.png": "an HTML page, not a JPEG, PNG or WebP image",
    "cut.png": "truncated PNG",
}


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_is_not_followed_is_named(path: str, tmp_path: Path) -> None:
    """Each is listed with its field, and the other rows are imported; the file outside is a whole picture, and stays out."""
    folder = tmp_path / "pictures"
    pictures(tmp_path, ["secret.png", "outside/secret.png"], first=50)
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe")
    (folder / "page.png").write_bytes(b"<!doctype html><html></html>")
    (folder / "cut.png").write_bytes(png(3)[:100])
    written = path.replace("{absolute}", str(tmp_path / "secret.png"))
    found = faults_of([hpdv3(["0.png", written])], tmp_path)
    assert [line[:3] for line in found] == [("a.json", 0, "path2")]
    assert found[0][3].startswith(OUTSIDE[path])
    assert found[0][4]
    assert png(50) not in (tmp_path / "p.parquet").read_bytes()


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    """Also where the folder itself is named through a link."""
    pictures(tmp_path / "pictures", GOOD)
    (tmp_path / "pictures" / "link.png").symlink_to("1.png")
    (tmp_path / "named").symlink_to(tmp_path / "pictures")
    assert faults_of([hpdv3(["0.png", "./link.png"])], tmp_path, images=tmp_path / "named") == []


WRONG_ROWS: dict[str, tuple[str, object, str, str]] = {
    "no object": ("hpdv3", ["a"], "", "is not an object with fields"),
    "no prompt": ("hpdv3", hpdv3(GOOD, prompt=None), "prompt", "is missing"),
    "empty prompt": ("hpdv3", hpdv3(GOOD, prompt=" "), "prompt", "is empty"),
    "half a character": ("hpdv3", hpdv3(GOOD, prompt="\ud83d"), "prompt", "is not UTF-8 text"),
    "a path that is no text": ("hpdv3", hpdv3(["0.png", 7]), "path2", "is not UTF-8 text"),  # type: ignore[list-item]
    "votes for three": ("hpdv3", hpdv3(GOOD, [1, 2, 3]), "choice_dist", "is not two numbers of votes"),
    "confidence without a number": ("hpdv3", hpdv3(GOOD, confidence="high"), "confidence", "is not a finite number"),
    "ranks for fewer": ("hpdv2", hpdv2_test(GOOD, [1]), "image_path", "names 2 pictures, and 1 are judged"),
    "one picture": ("hpdv2", hpdv2_test(GOOD[:1], [1]), "image_path", "names fewer than two pictures"),
    "a rank that is no number": ("hpdv2", {**hpdv2_test(GOOD, [1, 2]), "rank": [1, None]}, "rank[1]", "is missing"),
    "a rank beyond numbers": ("hpdv2", {**hpdv2_test(GOOD, [1, 2]), "rank": [1, 10**400]}, "rank[1]", "is not a finite number"),
    "a rank that is true": ("hpdv2", {**hpdv2_test(GOOD, [1, 2]), "rank": [True, 1]}, "rank[0]", "is not a finite number"),
    "ranks that are no list": ("hpdv2", {**hpdv2_test(GOOD, [1, 2]), "rank": "12"}, "rank", "is not a list"),
    "a choice of neither kind": ("hpdv2", hpdv2_train(GOOD, [2, 0]), "human_preference", "is not two numbers, each 0 or 1"),
    "a choice of three": ("hpdv2", hpdv2_train([*GOOD, "0.png"], [1, 0, 0]), "human_preference", "is not two numbers, each 0 or 1"),
    "no rank": ("imagereward", {**imagereward("0.png", 1), "rank": None}, "rank", "is missing"),
    "a rank of NaN": ("imagereward", imagereward("0.png", float("nan")), "rank", "is not a finite number"),
    "no prompt_id": ("imagereward", imagereward("0.png", 1, ""), "prompt_id", "is empty"),
    "a prompt that is not its id's": ("imagereward", imagereward("0.png", 1, "bad", prompt="other"), "prompt", "is not that of the other"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_row_that_is_no_ranking_is_listed(case: str, tmp_path: Path) -> None:
    """By row, field and value; the other rows are imported."""
    format_, row, field, reason = WRONG_ROWS[case]
    before = [imagereward("1.png", 2, "bad"), imagereward("0.png", 1, "bad")] if "id's" in case else []
    found = faults_of([*before, row], tmp_path, format=format_)
    assert [(line[0], line[1], line[2]) for line in found] == [("a.json", len(before), field)]
    assert found[0][3].startswith(reason)


def test_the_sound_pictures_of_a_ranking_are_used(tmp_path: Path) -> None:
    """One of three is gone: one fault, one pair of the other two. Two of three are gone: two faults, no pair, and nothing else."""
    pictures(tmp_path, GOOD)
    rows = [hpdv2_test(["0.png", "gone.png", "1.png"], [3, 1, 2]), hpdv2_test(["0.png", "gone.png", "lost.png"], [3, 1, 2])]
    report = run(write_json(tmp_path / "test.json", rows), tmp_path / "p.parquet")
    assert (report.pairs, report.rejected, report.alone) == (1, 2, 0)
    assert [(row, field) for _, row, field, *_ in listed(tmp_path / "p.parquet")] == [
        (0, "image_path[1]"), (1, "image_path[1]"), (1, "image_path[2]"),
    ]  # fmt: skip
    assert report.reasons == {"image_path: there is no such file": 3}


def test_identical_pictures_are_no_pair(tmp_path: Path) -> None:
    """Two files of the same bytes: counted apart, listed, and the file is valid."""
    pictures(tmp_path, GOOD)
    (tmp_path / "copy.png").write_bytes(png(0))
    report = run(write_json(tmp_path / "test.json", [hpdv2_test(["0.png", "copy.png", "1.png"], [1, 2, 3])]), tmp_path / "p.parquet")
    assert (report.pairs, report.same, report.rejected) == (2, 1, 0)
    assert listed(tmp_path / "p.parquet")[0][2:4] == ("image_path[1]", SAME_IMAGES)
    assert validate(str(tmp_path / "p.parquet")).ok


def test_folders_with_gaps(tmp_path: Path) -> None:
    """Captions without pictures, pictures without captions, captions in another encoding and strange files: each is listed."""
    folder = tmp_path / "mine"
    pictures(folder, ["liked/a.png", "liked/b.png", "liked/c.png", "disliked/d.png"])
    (tmp_path / "secret.txt").write_text("a secret")
    pictures(folder, ["liked/e.png"], first=60)
    (folder / "liked" / "e.txt").symlink_to(tmp_path / "secret.txt")
    for name, caption in {"liked/a": b"a cat", "liked/c": b"caf\xe9", "disliked/d": b"\xef\xbb\xbfa cat", "liked/only": b"a cat"}.items():
        (folder / f"{name}.txt").write_bytes(caption)
    (folder / "liked" / "notes.pdf").write_bytes(b"%PDF")
    (folder / "liked" / ".DS_Store").write_bytes(b"\0")
    report = run(folder, tmp_path / "p.parquet")
    assert (report.pairs, report.rows, report.rejected) == (1, 7, 5)
    assert listed(tmp_path / "p.parquet") == [
        ("liked/b.png", None, "caption", "there is no such file", "'liked/b.txt'"),
        ("liked/c.png", None, "caption", "is not UTF-8 text: save it as UTF-8", "'liked/c.txt': byte 3 is 0xe9"),
        ("liked/e.png", None, "caption", "leads out of the folder through a link", "'liked/e.txt'"),
        ("liked/notes.pdf", None, "", "is neither a picture nor a caption", "'notes.pdf'"),
        ("liked/only.txt", None, "image", "is missing: a caption without a picture", "'only.txt'"),
    ]


def test_csv_and_lines_go_on_after_a_bad_row(tmp_path: Path) -> None:
    """A row of another length, a line that is no JSON, a label that is none: listed by their numbers; blank lines are no rows."""
    pictures(tmp_path, GOOD)
    (tmp_path / "a.csv").write_text(
        'image,caption,label\r\n0.png,"a, cat",1\r\n1.png,x\r\n\r\n1.png,"a, cat",maybe\r\n1.png,"a, cat",-1\r\n'
    )
    report = run(tmp_path / "a.csv", tmp_path / "p.parquet")
    assert (report.pairs, [line[:3] for line in listed(tmp_path / "p.parquet")]) == (1, [("a.csv", 1, ""), ("a.csv", 2, "label")])
    write_lines(tmp_path / "b.jsonl", [hpdv3(GOOD)])
    (tmp_path / "b.jsonl").write_text("{oops\n\n" + (tmp_path / "b.jsonl").read_text())
    report = run(tmp_path / "b.jsonl", tmp_path / "q.parquet")
    assert (report.pairs, report.rows, [line[:3] for line in listed(tmp_path / "q.parquet")]) == (1, 2, [("b.jsonl", 0, "")])


WHOLE_FILES = {
    "Latin-1": ("a.csv", "image,caption,label\n0.png,café,1\n".encode("latin-1"), "byte 0xe9 at offset 29 is not UTF-8"),
    "UTF-16": ("a.json", "[]".encode("utf-16"), "is UTF-16"),
    "an unfinished quote": ("a.csv", b'image,caption,label\n"0.png,a,1\n', "line 2: not CSV"),
    "a cut list": ("a.json", json.dumps([hpdv3(GOOD)] * 2).encode()[:-20], "entry 1: not JSON"),
    "no Parquet": ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
    "an unknown suffix": ("a.xlsx", b"PK", "annotations are read from .json"),
    "nothing": ("a.json", b"[]", "holds no row that can be read"),
    "no suffix": ("a", b"[]", "not from 'a file without suffix'"),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_cannot_be_used_is_refused_as_a_whole(case: str, tmp_path: Path) -> None:
    """Named with the place; neither pairs nor a listing are left."""
    name, content, words = WHOLE_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        run(pictures(tmp_path, GOOD) / name, tmp_path / "p.parquet")
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith((".", "p."))]


def test_places_that_are_not_there(tmp_path: Path) -> None:
    """A misspelt file, a folder of another kind, and a pictures' folder that is none."""
    pictures(tmp_path, GOOD)
    write_json(tmp_path / "all.json", [hpdv3(GOOD)])
    for path, settings, words in (
        (tmp_path / "al.json", {}, r"does not exist \(did you mean 'all.json'\?\)"),
        (tmp_path, {}, "name the annotation file, like .*all.json"),
        (tmp_path / "all.json", {"images": tmp_path / "images"}, "--images .*images: there is no such folder"),
        (tmp_path / "all.json", {"pairs": "some"}, "pairs='some' is not known"),
        (tmp_path / "all.json", {"per_caption": 0}, "per_caption=0 must be a whole number of at least 1"),
        (tmp_path / "all.json", {"max_rejected_fraction": 2}, "max_rejected_fraction=2 must be"),
    ):
        with pytest.raises(InputError, match=words):
            run(path, tmp_path / "p.parquet", **settings)


def test_past_the_fraction_nothing_is_written_and_the_listing_says_why(tmp_path: Path) -> None:
    """Two of four rows: refused at 0.4 with both named, imported at 0.5. An earlier file stays."""
    pictures(tmp_path, GOOD)
    file = write_json(tmp_path / "all.json", [hpdv3(GOOD), hpdv3(["0.png", "x"]), hpdv3(GOOD, prompt="b"), hpdv3(["y", "1.png"])])
    out = tmp_path / "p.parquet"
    out.write_bytes(b"earlier")
    with pytest.raises(InputError, match=r"2 of 4 rows have a fault \(50.0%\), more than --max-rejected-fraction 0.4") as refused:
        import_pairs(ImportConfig(file, max_rejected_fraction=0.4), out, force=True)
    assert all(
        words in str(refused.value)
        for words in ("all.json, row 1, path2: there is no such file (found 'x')", "row 3, path1", "p.rejected.jsonl")
    )
    assert (out.read_bytes(), len(listed(out))) == (b"earlier", 2)
    assert import_pairs(ImportConfig(file, max_rejected_fraction=0.5), out, force=True).pairs == 2


def test_a_picture_that_goes_away_between_looking_and_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import stops with its name and leaves no pairs."""
    pictures(tmp_path, GOOD)
    file = write_json(tmp_path / "all.json", [hpdv3(GOOD)])
    monkeypatch.setattr(Collected, "add", lambda self, ranking, add=Collected.add: (add(self, ranking), (tmp_path / "1.png").unlink()))
    with pytest.raises(InputError, match=r"1.png: was there and cannot be read now"):
        run(file, tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def collect(count: int, pragma: str = "pragma cache_size") -> int:
    """Puts `count` rows of half as many rankings together; how many pictures come out again."""
    with Collected() as collected:
        collected._database.execute(pragma)
        for i in range(count):
            collected.add(Ranking(f"{i % (count // 2)}", "a caption", (Item(f"{i}.png", 1.0, Place("f", i), "path"),)))
        return sum(len(ranking.items) for ranking in collected)


def test_a_disk_that_is_full_is_a_fault_with_its_place() -> None:
    with pytest.raises(RunFault, match="TMPDIR"):
        collect(10000, "pragma max_page_count = 10")


def test_memory_does_not_grow_with_the_rows() -> None:
    """Twenty times the rankings, put together and taken out again, cost no more Python memory at the peak."""
    peaks = []
    for count in (1000, 20000):
        tracemalloc.start()
        assert collect(count) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
