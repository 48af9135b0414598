"""Each published shape becomes the pairs that its authors mean, and the result is a pairs file without a fault."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.errors import InputError
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

NAMES = ["0.png", "1.png", "2.png", "3.png"]


def pairs(out: Path) -> list[dict[str, object]]:
    """The rows written, once `validate` has found nothing wrong with them."""
    report = validate(str(out))
    assert report.ok, list(report.lines())
    return pq.read_table(out).to_pylist()


def test_hpdv2_train_is_a_choice_of_two(tmp_path: Path) -> None:
    """human_preference 1 wins; equal numbers are a tie; the pictures are the files' own bytes, in train/ beside train.json."""
    pictures(tmp_path / "train", NAMES)
    rows = [hpdv2_train(NAMES[:2], [0, 1]), hpdv2_train(NAMES[2:], [1, 0]), hpdv2_train(NAMES[1:3], [0, 0])]
    report = run(write_json(tmp_path / "train.json", rows), tmp_path / "p.parquet")
    assert (report.format, report.rows, report.pairs, report.ties, report.listing) == ("hpdv2", 3, 2, 1, None)
    found = pairs(tmp_path / "p.parquet")
    assert [row["label_0"] for row in found] == [0.0, 1.0, 0.5]
    assert (found[0]["jpg_0"], found[0]["jpg_1"], found[0]["user_id"]) == (png(0), png(1), "u2")
    assert ParquetPairs.open(DataConfig(str(tmp_path / "p.parquet")))[0].win == png(1)


def test_hpdv2_test_is_a_ranking_in_which_lower_is_better(tmp_path: Path) -> None:
    """Ranks 2, 1, 3, 1: each lower rank wins, the two firsts tie, and ranks and paths are kept."""
    pictures(tmp_path / "test", NAMES)
    file = write_json(tmp_path / "test.json", [hpdv2_test(NAMES, [2, 1, 3, 1])])
    report = run(file, tmp_path / "p.parquet")
    assert (report.pairs, report.ties) == (5, 1)
    for row in pairs(tmp_path / "p.parquet"):
        ranks = (row["rank_0"], row["rank_1"])
        assert row["label_0"] == (0.5 if ranks[0] == ranks[1] else float(ranks[0] < ranks[1]))
        assert (row["caption"], row["ranking_id"]) == ("a café at night", "test.json, row 0")
        assert row["jpg_0"] == png(NAMES.index(str(row["image_0_uid"])))
    assert run(file, tmp_path / "adjacent.parquet", pairs="adjacent").pairs == 2
    assert run(file, tmp_path / "ends.parquet", pairs="best-worst").pairs == 1
    ends = pairs(tmp_path / "ends.parquet")[0]
    assert (ends["image_0_uid"], ends["image_1_uid"], ends["label_0"]) == ("1.png", "2.png", 1.0)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_hpdv3_says_the_first_is_preferred(suffix: str, tmp_path: Path) -> None:
    """path1 wins, also where it had fewer votes; models, votes and confidence are kept, null where nobody counted."""
    pictures(tmp_path, NAMES)
    rows = [hpdv3(NAMES[:2]), hpdv3(NAMES[2:], None), hpdv3(NAMES[1:3], (7, 12), model1=None)]
    file = tmp_path / f"all{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        write_json(file, rows) if suffix == ".json" else write_lines(file, rows)
    report = run(file, tmp_path / "p.parquet")
    assert (report.format, report.pairs, report.ties) == ("hpdv3", 3, 0)
    found = pairs(tmp_path / "p.parquet")
    assert [row["label_0"] for row in found] == [1.0, 1.0, 1.0]
    kept = ("model_0", "model_1", "votes_0", "votes_1", "confidence")
    assert tuple(found[0][name] for name in kept) == ("flux", "infinity", 12.0, 7.0, 0.9375)
    assert tuple(found[1][name] for name in kept) == ("flux", "infinity", None, None, None)
    assert (found[2]["model_0"], found[2]["votes_0"]) == (None, 7.0)


def test_imagereward_rows_of_one_prompt_are_a_ranking_wherever_they_stand(tmp_path: Path) -> None:
    """Rows of two prompts in turn: pairs within each alone, in the order of their first rows, with rank and ratings."""
    pictures(tmp_path / "images", NAMES)
    order = [("0.png", 2, "a"), ("1.png", 1, "b"), ("2.png", 1, "a"), ("3.png", 3, "b")]
    file = tmp_path / "metadata-train.parquet"
    pq.write_table(pa.Table.from_pylist([imagereward(f"images/{name}", rank, key) for name, rank, key in order]), file)
    report = run(file, tmp_path / "p.parquet")
    assert (report.format, report.rows, report.pairs) == ("imagereward", 4, 2)
    found = pairs(tmp_path / "p.parquet")
    assert [(row["caption"], row["ranking_id"], row["label_0"]) for row in found] == [("prompt of a", "a", 0.0), ("prompt of b", "b", 1.0)]
    assert (found[0]["rank_0"], found[0]["rank_1"], found[0]["overall_rating_0"], found[0]["fidelity_rating_1"]) == (2.0, 1.0, 6.0, 5.0)


def test_imagereward_test_file_is_a_ranking_a_row(tmp_path: Path) -> None:
    """generations and ranking of the repository's data/test.json, ties included."""
    pictures(tmp_path, NAMES)
    row = {"id": "005658-0040", "prompt": "a portal", "generations": NAMES, "ranking": [1, 2, 2, 5]}
    report = run(write_json(tmp_path / "test.json", [row]), tmp_path / "p.parquet")
    assert (report.format, report.pairs, report.ties) == ("imagereward", 5, 1)
    assert pairs(tmp_path / "p.parquet")[0]["ranking_id"] == "005658-0040"


LIKES = [("0.png", "a cat", "liked"), ("1.png", " a cat\n", "disliked"), ("2.png", "a dog", "liked"), ("3.png", "a cat", "dislike")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_likes_meet_dislikes_of_their_caption(suffix: str, tmp_path: Path) -> None:
    """Every like against every dislike of the same text; a caption that was only liked is counted and listed."""
    pictures(tmp_path, NAMES)
    rows = [dict(zip(("image", "caption", "label"), row, strict=True)) for row in LIKES]
    file = tmp_path / f"likes{suffix}"
    if suffix == ".csv":
        with file.open("w", newline="") as opened:
            table = csv.DictWriter(opened, ["image", "caption", "label"])
            table.writeheader()
            table.writerows(rows)
    elif suffix == ".jsonl":
        write_lines(file, [{**row, "label": row["label"] == "liked"} for row in rows])
    else:
        pq.write_table(pa.Table.from_pylist([{**row, "label": int(row["label"] == "liked")} for row in rows]), file)
    report = run(file, tmp_path / "p.parquet")
    assert (report.format, report.pairs, report.ties, report.rejected, report.alone) == ("likes", 2, 0, 0, 1)
    assert listed(tmp_path / "p.parquet") == [(file.name, 2, "image", "has nothing to be compared with", "'a dog'")]
    found = pairs(tmp_path / "p.parquet")
    assert {(row["caption"], row["image_0_uid"], row["label_0"]) for row in found} == {("a cat", "0.png", 1.0)}
    assert {row["image_1_uid"] for row in found} == {"1.png", "3.png"}


def test_likes_in_folders_and_how_many_of_them(tmp_path: Path) -> None:
    """liked/ and disliked/ with captions beside the pictures: at most `per_caption` pairs, the same for the same seed."""
    names = [f"{side}/{i}.png" for side in ("liked", "disliked") for i in range(5)]
    pictures(tmp_path / "mine", names)
    for name in names:
        (tmp_path / "mine" / name).with_suffix(".txt").write_text("a tree\n")
    chosen = []
    for seed, out in enumerate(("a", "b", "c")):
        report = run(tmp_path / "mine", tmp_path / f"{out}.parquet", per_caption=7, seed=seed // 2)
        assert (report.pairs, report.rows, report.listing) == (7, 10, None)
        chosen.append([(row["image_0_uid"], row["image_1_uid"]) for row in pairs(tmp_path / f"{out}.parquet")])
    assert chosen[0] == chosen[1] != chosen[2]
    assert run(tmp_path / "mine", tmp_path / "all.parquet", per_caption=100).pairs == 25


def test_a_shape_can_be_named_and_a_wrong_name_is_listed_row_by_row(tmp_path: Path) -> None:
    pictures(tmp_path, NAMES)
    file = write_json(tmp_path / "all.json", [hpdv3(NAMES[:2]), hpdv3(NAMES[2:])])
    assert run(file, tmp_path / "p.parquet", format="hpdv3").pairs == 2
    with pytest.raises(InputError, match="no pair came of 2 rows; what is wrong: 2 × rank: is missing"):
        run(file, tmp_path / "q.parquet", format="imagereward")
    with pytest.raises(InputError, match=r"format='hpdv4' is not known \(did you mean 'hpdv3'\?\)"):
        run(file, tmp_path / "q.parquet", format="hpdv4")


def test_unknown_fields_are_named_with_the_shapes_that_are_known(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", [{"chosen": "0.png", "rejected": "1.png"}])
    with pytest.raises(
        InputError, match=r"a.json, row 0: the fields 'chosen', 'rejected' are those of no known format \(hpdv3: path1\+path2; "
    ):
        run(file, tmp_path / "p.parquet")


def test_the_listing_has_the_fields_of_rejected_jsonl(tmp_path: Path) -> None:
    pictures(tmp_path, NAMES)
    run(write_json(tmp_path / "all.json", [hpdv3(NAMES[:2]), hpdv3(["0.png", "gone.png"])]), tmp_path / "p.parquet")
    line = json.loads((tmp_path / "p.rejected.jsonl").read_text())
    assert line == {"file": "all.json", "row": 1, "field": "path2", "reason": "there is no such file", "value": "'gone.png'"}
