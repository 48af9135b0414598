"""Data sets on the hub: what is fetched, what a cache is good for without a network, and what the hub refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from inpo.data.config import DataConfig
from inpo.data.hub import split_of
from inpo.data.index import REJECTED_FILE
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from tests.unit.data.making import row, write
from tests.unit.data.test_singles import as_parquet_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"data/train-00000-of-00002-aa.parquet": 0, "data/train-00001-of-00002-bb.parquet": 4, "data/test-00000-of-00001.parquet": 8}


class Hub:
    """A hub that is there, or not: it lists and downloads `files` into a cache laid out as the real one's."""

    def __init__(self, cache: Path, files: dict[str, int]) -> None:
        self.cache, self.files = cache, files
        self.refusal: Exception | None = None
        self.downloads: list[tuple[list[str] | None, bool]] = []

    @property
    def snapshot(self) -> Path:
        return self.cache / "datasets--someone--pairs" / "snapshots" / COMMIT

    def list_repo_files(self, repo: str, *, repo_type: str, revision: str | None) -> list[str]:
        if self.refusal is not None:
            raise self.refusal
        assert (repo, repo_type, revision) == ("someone/pairs", "dataset", None)
        return ["README.md", *self.files]

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str | None, allow_patterns: list[str] | None, local_files_only: bool
    ) -> str:
        self.downloads.append((allow_patterns, local_files_only))
        if local_files_only and not self.snapshot.is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        for name in allow_patterns or ():
            blob = write(
                self.cache / "datasets--someone--pairs" / "blobs" / name.replace("/", "-"), [row(self.files[name] + i) for i in range(4)]
            )
            (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (self.snapshot / name).symlink_to(blob)
        return str(self.snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub in place of the client's, with three files of two splits."""
    made = Hub(tmp_path / "cache", dict(FILES))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def refusal(path: str) -> str:
    with pytest.raises(InputError) as caught:
        ParquetPairs.open(DataConfig(path))
    return str(caught.value)


def test_a_split_is_downloaded_and_read(hub: Hub) -> None:
    """Its files alone; messages name the commit, so a run says which revision it saw."""
    pairs = ParquetPairs.open(DataConfig("hub:someone/pairs:train"))
    assert [pairs[i].caption for i in range(pairs.size)] == [f"caption {i}" for i in range(8)]
    assert pairs[5].row == "someone/pairs@0123456789ab/data/train-00001-of-00002-bb.parquet, row 1"
    assert hub.downloads == [(sorted(FILES)[1:], False)]


def test_the_only_split_needs_no_name(hub: Hub) -> None:
    hub.files = {"data/train-00000-of-00001.parquet": 0}
    assert ParquetPairs.open(DataConfig("hub:someone/pairs")).size == 4


def test_the_cache_serves_without_a_network(hub: Hub) -> None:
    """The pairs of the cached commit, equal to those that were read with a network; a cache with files missing is refused."""
    first = ParquetPairs.open(DataConfig("hub:someone/pairs:train")).fingerprint
    hub.refusal = ConnectionError("no network")
    assert ParquetPairs.open(DataConfig("hub:someone/pairs:train")).fingerprint == first
    assert hub.downloads[-1] == (None, True)
    (hub.snapshot / sorted(FILES)[1]).unlink()
    assert "only 1 of its 2 files are there" in refusal("hub:someone/pairs:train")
    shutil.rmtree(hub.cache)
    message = refusal("hub:someone/pairs:train")
    assert "someone/pairs is not in the local cache, and the hub cannot be reached" in message
    assert "hf download someone/pairs --repo-type dataset" in message


def test_the_clients_own_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, kept offline, over a cache laid out as it lays it out: refs, snapshots of links, blobs."""
    made = Hub(tmp_path / "cache", dict(FILES))
    made.snapshot_download(
        "someone/pairs",
        repo_type="dataset",
        revision=None,
        allow_patterns=[name for name in FILES if "train" in name],
        local_files_only=False,
    )
    refs = made.cache / "datasets--someone--pairs" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made.cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    pairs = ParquetPairs.open(DataConfig("hub:someone/pairs"))
    assert (pairs.size, pairs[0].row) == (8, "someone/pairs@0123456789ab/data/train-00000-of-00002-aa.parquet, row 0")
    assert "someone/others is not in the local cache" in refusal("hub:someone/others")


def test_a_download_that_fails_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off, and complete by its own account but not on the disk."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("slow")))
    assert "could not be downloaded (TimeoutError)" in refusal("hub:someone/pairs:train")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(hub.cache))
    assert "data/train-00000-of-00002-aa.parquet did not arrive" in refusal("hub:someone/pairs:train")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "GatedRepoError",
            "is gated: accept its terms at https://huggingface.co/datasets/someone/pairs, then give a token by `hf auth login`",
        ),
        ("RepositoryNotFoundError", "there is no such data set, or it is private and needs a token"),
        ("RevisionNotFoundError", "has no such revision"),
    ],
)
def test_the_hubs_refusals_name_the_remedy_and_no_token(hub: Hub, monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    """Whatever the client's error holds, the message is ours alone."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    hub.refusal = type(kind, (OSError,), {})("401 for hf_canary")
    message = refusal("hub:someone/pairs:train")
    assert words in message
    assert "hf_canary" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hub:pairs", "is written hub:owner/name"),
        ("hub:someone/pairs:", "is written hub:owner/name"),
        ("hub:someone/pairs", "holds the splits test, train; name one, as in hub:someone/pairs:train"),
        ("hub:someone/pairs:trian", "there is no split 'trian' (did you mean 'train'?)"),
        ("someone/pairs", "does not exist; a data set on the hub is written hub:someone/pairs"),
    ],
)
def test_addresses_that_name_nothing(hub: Hub, path: str, words: str) -> None:
    assert words in refusal(path)
    assert hub.downloads == []


def test_a_data_set_without_parquet_files_says_where_there_may_be_some(hub: Hub) -> None:
    hub.files = {"data.zip": 0}
    assert "there are no Parquet files; the hub's own conversion may be at hub:someone/pairs@refs/convert/parquet" in refusal(
        "hub:someone/pairs:train"
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002-abc.parquet", "train"), ("default/train/0000.parquet", "default/train"),
        ("data/validation_unique.parquet", "validation_unique"), ("pairs.parquet", "pairs"), ("train/a.parquet", "train"),
    ],
)  # fmt: skip
def test_splits_by_the_names_of_files(name: str, split: str) -> None:
    assert split_of(name) == split


class Local(Hub):
    """A hub whose one file is `source`."""

    def __init__(self, cache: Path, source: Path) -> None:
        super().__init__(cache, {"data/train-00000-of-00001.parquet": 0})
        (self.snapshot / "data").mkdir(parents=True)
        shutil.copyfile(source, self.snapshot / "data" / "train-00000-of-00001.parquet")

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str | None, allow_patterns: list[str] | None, local_files_only: bool
    ) -> str:
        """Everything is there."""
        return str(self.snapshot)


def on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> str:
    """The file's address as a data set."""
    made = Local(tmp_path / "cache", source)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return "hub:someone/pairs"


def test_a_data_set_holds_the_same_pairs_as_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve pairs: ids, captions, bytes, winners and order."""
    source = write(tmp_path / "pairs.parquet", [row(i) for i in range(12)])
    opened = [ParquetPairs.open(DataConfig(path)) for path in (str(source), on_the_hub(monkeypatch, tmp_path, source))]
    here, there = ([replace(pairs[i], row="") for i in range(pairs.size)] for pairs in opened)
    assert len(here) == 12
    assert there == here


def test_a_broken_picture_of_a_data_set_costs_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the data set, its revision and the row; a damaged file stops the run."""
    source = write(tmp_path / "pairs.parquet", [row(i, **({"jpg_1": b"<html>"} if i == 3 else {})) for i in range(12)])
    path = on_the_hub(monkeypatch, tmp_path, source)
    pairs = ParquetPairs.open(DataConfig(path), folder=tmp_path / "run")
    assert pairs.size == 11
    line = json.loads((tmp_path / "run" / REJECTED_FILE).read_text())
    assert (line["file"], line["row"], line["field"]) == (f"someone/pairs@{COMMIT[:12]}/data/train-00000-of-00001.parquet", 3, "jpg_1")
    damaged = tmp_path / "cache" / "datasets--someone--pairs" / "snapshots" / COMMIT / "data" / "train-00000-of-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert "a truncated Parquet file" in refusal(path)


def test_single_pictures_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told from pairs by their columns, as in any Parquet file."""
    monkeypatch.setattr("inpo.data.opening.hub.hub_files", lambda _: [("someone/opinions@0/a.parquet", as_parquet_file(tmp_path / "a"))])
    source = ParquetPairs.open(DataConfig("hub:someone/opinions"))
    assert (source.size, source.singles, source[0].lose) == (8, True, None)
    assert source[0].row == "someone/opinions@0/a.parquet, row 0"
