"""Which pictures are scored, under which prompts: generated folders, plain ones in the order of names, and names with their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from inpo.errors import InputError
from inpo.evaluation.images import read_images
from inpo.evaluation.pictures import pictures_in
from inpo.evaluation.prompts import read_named_prompts
from tests.unit.data.making import png
from tests.unit.evaluation.conftest import write_folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Three pictures, a text and a folder."""
    folder = tmp_path / "pictures"
    (folder / "more.png").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.JPG", "c.webp")):
        (folder / name).write_bytes(png(number))
    (folder / "notes.txt").write_text("x")
    return folder


def places(folder: Path, prompts: Sequence[str] | Mapping[str, str] | None) -> list[tuple[str, int, int, str]]:
    return [(image.file, image.prompt_index, image.sample_index, image.prompt) for image in pictures_in(folder, prompts)]


def test_prompts_go_with_pictures_in_the_order_of_names(plain: Path) -> None:
    """Equal prompts share a place, in the order of their first appearance; one prompt is for all."""
    assert places(plain, ["x", "y", "x"]) == [("a.JPG", 0, 0, "x"), ("c.webp", 0, 1, "x"), ("b.png", 1, 0, "y")]
    assert places(plain, ["x"]) == [("a.JPG", 0, 0, "x"), ("b.png", 0, 1, "x"), ("c.webp", 0, 2, "x")]
    first = pictures_in(plain, ["x"])[0]
    assert (first.seed, first.sha256) == (0, hashlib.sha256((plain / "a.JPG").read_bytes()).hexdigest())


def test_names_choose_their_pictures(plain: Path) -> None:
    """Pictures that the file does not name are left out; their order is that of the names."""
    assert places(plain, {"c.webp": "x", "a.JPG": "y"}) == [("a.JPG", 0, 0, "y"), ("c.webp", 1, 0, "x")]


def test_generated_pictures_know_their_prompts(tmp_path: Path) -> None:
    """images.jsonl is believed; prompts given beside it must be its own."""
    folder = write_folder(tmp_path / "made", {(0, 0): 10, (1, 0): 20}, prompts=["x", "y"])
    assert pictures_in(folder, None) == pictures_in(folder, ["x", "y", "z"]) == read_images(folder)
    with pytest.raises(InputError, match=r"says that 00001_0\.png was made for 'y', and the prompts given say 'z': leave them out"):
        pictures_in(folder, ["x", "z"])
    with pytest.raises(InputError, match="was made for 'x', and the prompts given say none"):
        pictures_in(folder, {"00001_0.png": "y"})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "there is no images.jsonl in it, so the prompts must be given: --prompts FILE, or --prompt TEXT"),
        (["x", "y"], r"3 pictures \(a.JPG … c.webp\) and 2 prompts; give one prompt for each picture"),
        ({"a.JPG": "x", "d.png": "y"}, r"the prompts name 'd.png', and no such picture is in it \(1 such names\)"),
    ],
)
def test_what_does_not_go_together_is_refused(plain: Path, prompts: Sequence[str] | Mapping[str, str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pictures_in(plain, prompts)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no picture in it; pictures end in \.png, \.jpg, \.jpeg, \.webp"):
        pictures_in(tmp_path, ["x"])
    with pytest.raises(InputError, match="absent: there is no such folder"):
        pictures_in(tmp_path / "absent", ["x"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", 'prompt,file\n"a, b",x.png\ny,z.png\n'),
        ("p.jsonl", '{"file": "x.png", "caption": "a, b"}\n{"file": "z.png", "prompt": "y"}\n'),
    ],
)
def test_prompts_by_file_name_are_read(tmp_path: Path, name: str, text: str) -> None:
    """A column `file` beside `prompt` or `caption`, in CSV or JSONL."""
    (tmp_path / name).write_text(text)
    assert read_named_prompts(tmp_path / name) == {"x.png": "a, b", "z.png": "y"}


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", "prompt\nx\n"), ("p.jsonl", '"x"\n'), ("p.jsonl", '{"prompt": "x"}\n'), ("p.txt", "file\n")]
)
def test_other_files_name_no_pictures(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_named_prompts(tmp_path / name) is None


@pytest.mark.parametrize("second", ['{"file": "x.png", "prompt": "y"}', '{"file": "", "prompt": "y"}', '{"prompt": "y"}'])
def test_each_picture_is_named_once(tmp_path: Path, second: str) -> None:
    """Twice, empty or missing: line 2 is named."""
    (tmp_path / "p.jsonl").write_text('{"file": "x.png", "prompt": "x"}\n' + second)
    with pytest.raises(InputError, match="line 2: 'file' must be the file name of a picture, each of them once"):
        read_named_prompts(tmp_path / "p.jsonl")
