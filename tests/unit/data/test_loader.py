"""A position is a pair: which one, how cropped, with which noise and prompt depends on the seed and the position alone."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inpo.data import loader as loader_module
from inpo.data import order as order_module
from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.data.order import ENDLESS_VALIDATION_ROWS, held_out
from inpo.data.pairs import pair_id
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from inpo.types import PairBatch, PairLoader, PairRecord, PairSource
from tests.unit.data.making import SIDE, MadePairs, SmallEncoder, encoded, noise_picture, pair_record, png, row, write

BASE = DataConfig("made", resolution=SIDE, validation_fraction=0.0)
WILD = replace(BASE, flip=True, crop="random", latents="sample", prompt_dropout=0.3, validation_fraction=0.2)


ROOM = 1 << 20


def load(
    source: PairSource | int | None, config: DataConfig = BASE, *, seed: int = 0, step: int = 4,
    encoder: SmallEncoder | None = None, cache: int = ROOM,
) -> EncodedPairs:  # fmt: skip
    """A loader over a source, or over so many made pairs."""
    pairs = MadePairs(source) if source is None or isinstance(source, int) else source
    return EncodedPairs(pairs, encoder or SmallEncoder(), config=config, seed=seed, pairs_per_step=step, cache_bytes=cache)


def load_file(path: Path, config: DataConfig) -> EncodedPairs:
    """A loader over a Parquet file."""
    config = replace(config, path=str(path))
    return load(ParquetPairs.open(config), config)


def same(one: PairBatch, other: PairBatch) -> bool:
    """Equal to the bit, in every field."""
    tensors = [(one.win, other.win), (one.lose, other.lose), (one.preference, other.preference)]
    tensors += [(one.condition.tensors["text"], other.condition.tensors["text"])]
    return one.ids == other.ids and all(torch.equal(a, b) for a, b in tensors)


def by_id(batch: PairBatch) -> dict[str, tuple[bytes, bytes, bytes, float]]:
    """Each pair's numbers under its id."""
    numbers = zip(batch.ids, batch.win, batch.lose, batch.condition.tensors["text"], batch.preference, strict=True)
    return {name: (win.numpy().tobytes(), lose.numpy().tobytes(), text.numpy().tobytes(), float(p)) for name, win, lose, text, p in numbers}


def test_a_batch_holds_the_pictures_of_its_pairs() -> None:
    """Latents are the encoder's 4×4 means of the winner's and the loser's own pixels, and the condition is their caption's."""
    encoder = SmallEncoder()
    with load(8, encoder=encoder) as loader:
        batch = loader.fetch(range(8))
    assert isinstance(loader, EncodedPairs)
    assert sorted(batch.ids) == sorted(pair_record(i).id for i in range(8))
    for place, name in enumerate(batch.ids):
        pair = next(pair_record(i) for i in range(8) if pair_record(i).id == name)
        for latent, data in ((batch.win[place], pair.win), (batch.lose[place], pair.lose)):
            picture = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
            assert torch.equal(latent, SmallEncoder().encode_images(torch.from_numpy(picture)[None]).mean[0])
        assert torch.equal(batch.condition.tensors["text"][place], SmallEncoder().encode_prompts([pair.caption]).tensors["text"][0])
    assert batch.preference.tolist() == [1.0] * 8
    assert batch.win.is_contiguous()


@pytest.mark.parametrize("config", [BASE, WILD, replace(BASE, flip=True), replace(WILD, crop="center")])
@pytest.mark.parametrize("source", [23, None], ids=["finite", "endless"])
def test_fetching_is_pure_in_seed_and_position(source: int | None, config: DataConfig) -> None:
    """Step by step with everything kept and decoded ahead, or at once, backwards, from the middle, with no room to keep anything."""
    with load(source, config) as steady, load(source, config, cache=0) as jumpy, load(source, config, seed=1) as other:
        steps = [steady.fetch(range(4 * i, 4 * i + 4)) for i in range(14)]
        for i in (13, 0, 5):
            assert same(jumpy.fetch(range(4 * i, 4 * i + 4)), steps[i])
        assert same(jumpy.fetch([27, 26])[[1, 0]], steps[6][[2, 3]])
        assert same(steady.fetch(range(8, 12)), steps[2])
        assert not same(other.fetch(range(4)), steps[0]) or (source is None and config == BASE)


def test_an_epoch_sees_every_pair_once_and_a_step_crosses_its_end() -> None:
    """10 pairs in steps of 4: the third step takes two pairs of the first epoch and two of the second."""
    with load(10) as loader:
        ids = [name for i in range(5) for name in loader.fetch(range(4 * i, 4 * i + 4)).ids]
    assert sorted(ids[:10]) == sorted(ids[10:]) == sorted(pair_record(i).id for i in range(10))
    assert ids[:10] != ids[10:]


def test_each_image_is_encoded_once_where_that_fits() -> None:
    """Five epochs over 12 pairs: 24 pictures, 12 prompts. Each pair by itself, so that what is kept changes no result."""
    encoder = SmallEncoder()
    with load(12, encoder=encoder) as loader:
        for i in range(15):
            loader.fetch(range(4 * i, 4 * i + 4))
        assert (loader.images_encoded, loader.prompts_encoded) == (24, 12)
    assert encoder.image_calls == [2] * 12


def test_encoding_ahead_leaves_nothing_to_encode_and_changes_nothing() -> None:
    """Three epochs of 12 pairs with flips, dropped prompts and held-out pairs: after it, nothing is asked of the encoder again."""
    config = replace(BASE, flip=True, latents="sample", prompt_dropout=0.3, validation_fraction=0.2)
    encoder = SmallEncoder()
    with load(20, config, encoder=encoder) as ahead, load(20, config) as plain:
        assert ahead.encode_ahead(range(40))
        asked = (list(encoder.image_calls), list(encoder.prompts))
        assert all(same(ahead.fetch(range(i, i + 4)), plain.fetch(range(i, i + 4))) for i in range(0, 40, 4))
        assert all(same(one, other) for one, other in zip(ahead.validation(), plain.validation(), strict=True))
        assert (encoder.image_calls, encoder.prompts) == asked


@pytest.mark.parametrize(
    ("config", "source", "cache", "encoded"),
    [(replace(BASE, crop="random"), 12, ROOM, 0), (BASE, None, ROOM, 0), (BASE, 12, 7 * 384, 2), (BASE, 12, 12 * 384, 24)],
    ids=["a new crop each time", "endless", "room for seven", "room for no prompts"],
)
def test_what_cannot_all_be_kept_is_not_encoded_ahead(config: DataConfig, source: int | None, cache: int, encoded: int) -> None:
    """The encoder is needed later, so it stays; one pair is encoded to see how large they are. Prompts have a quarter as much memory."""
    with load(source, config, cache=cache) as loader:
        loader._encoder._prompts._left = min(cache // 4, 100)
        assert not loader.encode_ahead(range(24))
        assert loader.images_encoded == encoded


@pytest.mark.parametrize(("cache", "most"), [(7 * 384, 24), (ROOM, 300)], ids=["room for seven", "room for all"])
def test_planning_ahead_does_not_look_through_the_whole_run(cache: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of ten million positions: it stops at the first pair too many, or once both views of every pair were met."""
    with load(12, replace(BASE, flip=True), cache=cache) as loader:
        asked, key = [], loader._key
        monkeypatch.setattr(loader, "_key", lambda position: asked.append(position) or key(position))
        assert loader.encode_ahead(range(10_000_000)) is (cache == ROOM)
        assert len(asked) < most


def test_once_kept_pairs_are_not_read_again() -> None:
    source = MadePairs(12)
    with load(source) as loader:
        loader.fetch(range(12))
        source.read.clear()
        loader.fetch(range(12, 24))
        assert source.read == []


@pytest.mark.parametrize(
    ("config", "source", "cache", "encoded"),
    [
        (replace(BASE, flip=True), 12, ROOM, 48),
        (replace(BASE, crop="random"), 12, ROOM, 24 * 10),
        (BASE, 12, 7 * 384, 14 + 10 * 10),
        (BASE, None, ROOM, 24 * 10),
    ],
    ids=["both mirrorings", "a new crop each time", "room for seven", "endless"],
)
def test_what_cannot_come_back_or_has_no_room_is_encoded_again(config: DataConfig, source: int | None, cache: int, encoded: int) -> None:
    """10 times 12 pairs. Latents of a pair take 2·3·4·4 fp32 = 384 bytes."""
    with load(source, config, cache=cache, step=12) as loader:
        for i in range(10):
            loader.fetch(range(12 * i, 12 * i + 12))
        assert loader.images_encoded == encoded


def test_a_broken_image_leaves_every_other_pair_as_it_was(tmp_path: Path) -> None:
    """The released trainers drop a broken image from its list, and every later winner meets another prompt's loser."""
    rows = [row(i) for i in range(16)]
    clean = write(tmp_path / "clean.parquet", rows[:5] + rows[6:])
    broken = write(tmp_path / "broken.parquet", [*rows[:5], {**rows[5], "jpg_1": png(11)[:90]}, *rows[6:]])
    config = replace(WILD, validation_fraction=0.0, crop="center")
    batches = []
    for path in (clean, broken):
        with load_file(path, config) as loader:
            batches.append([loader.fetch(range(15 * i, 15 * i + 15)) for i in range(2)])
    for before, after in zip(*batches, strict=True):
        assert same(before, after)
    whole = write(tmp_path / "whole.parquet", rows)
    plain = replace(config, latents="mean", prompt_dropout=0.0, flip=False)
    with load_file(whole, plain) as loader, load_file(broken, plain) as less:
        full, rest = by_id(loader.fetch(range(16))), by_id(less.fetch(range(15)))
    assert set(full) - set(rest) == {pair_record(5).id}
    assert all(full[name] == numbers for name, numbers in rest.items())


def test_an_image_that_breaks_while_training_names_its_row(tmp_path: Path) -> None:
    """With `verify: headers` the run stops at the pair, and says how to leave it out."""
    data = bytearray(png(7))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    path = write(tmp_path / "p.parquet", [*(row(i) for i in range(3)), row(3, jpg_1=bytes(data))])
    with load_file(path, replace(BASE, verify="headers")) as loader, pytest.raises(InputError) as caught:
        loader.fetch(range(4))
    assert "p.parquet, row 3: cannot decode the winning image: damaged PNG" in str(caught.value)
    assert "data.verify=full" in str(caught.value)


@pytest.mark.parametrize("size", [200, None])
def test_training_never_sees_a_held_out_pair(size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs' worth of positions against the validation set; together they are all there is."""
    monkeypatch.setattr(order_module, "ENDLESS_VALIDATION_ROWS", 320)
    config = replace(BASE, validation_fraction=0.25)
    with load(size, config) as loader:
        validation = {name for batch in loader.validation() for name in batch.ids}
        trained = {name for i in range(80) for name in loader.fetch(range(4 * i, 4 * i + 4)).ids}
    assert not validation & trained
    assert all(held_out(name, 0.25) for name in validation)
    assert not any(held_out(name, 0.25) for name in trained)
    if size is not None:
        assert loader.train_pairs == 200 - len(validation)
        assert validation | trained == {pair_record(i).id for i in range(200)}
    else:
        assert loader.train_pairs is None


def test_validation_is_fixed_plain_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centre, mean, undropped, in the source's order and in batches of a fixed size, whatever training draws."""
    monkeypatch.setattr(loader_module, "VALIDATION_BATCH", 8)
    monkeypatch.setattr(loader_module, "MAX_VALIDATION_PAIRS", 20)
    with load(200, WILD) as loader, load(200, replace(BASE, validation_fraction=0.2), seed=9) as plain:
        batches = loader.validation()
        encoded = loader.images_encoded
        assert [len(batch) for batch in batches] == [8, 8, 4]
        assert encoded == 40
        assert all(same(a, b) for a, b in zip(batches, plain.validation(), strict=True))
        assert all(same(a, b) for a, b in zip(batches, loader.validation(), strict=True))
        assert loader.images_encoded == encoded
    own = [pair_record(i).id for i in range(200)]
    places = [own.index(name) for batch in batches for name in batch.ids]
    assert places == sorted(places)


def test_validation_of_an_endless_source_costs_a_bounded_number_of_rows() -> None:
    source = MadePairs(None)
    with load(source, replace(BASE, validation_fraction=0.02)) as loader:
        assert sum(map(len, loader.validation())) > 10
    assert max(source.read) < ENDLESS_VALIDATION_ROWS
    with load(None, BASE) as loader:
        assert loader.validation() == []


@pytest.mark.parametrize("latents", ["mean", "sample"])
def test_posterior_noise_is_drawn_anew_each_time_a_pair_comes(latents: str) -> None:
    """Four pairs in two epochs: their means are the same numbers again, their samples are not, though encoded once."""
    with load(4, replace(BASE, latents=latents)) as loader:
        first, second = by_id(loader.fetch(range(4))), by_id(loader.fetch(range(4, 8)))
        assert loader.images_encoded == 8
    assert [first[name][0] == second[name][0] for name in first] == [latents == "mean"] * 4


def test_a_dropped_prompt_is_the_empty_one_for_both_sides() -> None:
    """About 30 % of 400 positions; the condition, one for w and l, is then exactly the empty prompt's; latents stay."""
    empty = SmallEncoder().encode_prompts([""]).tensors["text"][0]
    some = replace(BASE, prompt_dropout=0.3)
    with load(None, some) as one, load(None, some, seed=1) as other:
        assert not torch.equal(one.fetch(range(40)).condition.tensors["text"], other.fetch(range(40)).condition.tensors["text"])
    with load(20, some) as loader, load(20) as never, load(20, replace(BASE, prompt_dropout=1.0)) as always:
        batch, whole, bare = (each.fetch(range(400)) for each in (loader, never, always))
    dropped = [torch.equal(text, empty) for text in batch.condition.tensors["text"]]
    assert 80 < sum(dropped) < 160
    assert torch.equal(batch.win, whole.win)
    kept = [i for i, gone in enumerate(dropped) if not gone]
    assert torch.equal(batch.condition.tensors["text"][kept], whole.condition.tensors["text"][kept])
    assert all(torch.equal(text, empty) for text in bare.condition.tensors["text"])
    assert not any(torch.equal(text, empty) for text in whole.condition.tensors["text"])


def shaped(name: str, win: bytes, lose: bytes) -> PairRecord:
    """A pair of these pictures."""
    return PairRecord(pair_id(win, lose, name).hex(), name, win, lose, 1.0, name)


class ShapedPairs(MadePairs):
    """Winners of 3:2 and of 2:3 in turn, 48 × 32 and 32 × 48, each beside a loser of 24 × 24. Remembers each pair's width."""

    def __init__(self, size: int | None) -> None:
        super().__init__(size)
        self.widths: dict[str, int] = {}

    def __getitem__(self, index: int) -> PairRecord:
        """The pair."""
        width, height = (48, 32) if index % 2 == 0 else (32, 48)
        pair = shaped(f"{width}", png(2 * index, width, height), png(2 * index + 1, 24, 24))
        self.widths[pair.id] = width
        return pair


# 48 × 32 resized to 24 × 16 leaves 8 columns, of which 4 are left of the centre.
OWN = {48: [32, 48, 0, 4, 16, 16], 32: [48, 32, 4, 0, 16, 16]}


@pytest.mark.parametrize("source", [12, None], ids=["finite", "endless"])
@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_original_sizes_are_the_winners_and_stand_beside_the_prompt(
    source: int | None, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of six for a pair, which w and l share. Dropped prompts, later epochs and held-out pairs have it; all else stays."""
    monkeypatch.setattr(order_module, "ENDLESS_VALIDATION_ROWS", 60)
    config = replace(BASE, flip=True, prompt_dropout=dropout, validation_fraction=0.2)
    pairs = ShapedPairs(source)
    with load(pairs, replace(config, sizes="original")) as told, load(pairs, config) as plain:
        batches = [(told.fetch(range(i, i + 4)), plain.fetch(range(i, i + 4))) for i in range(0, 40, 4)]
        batches += zip(told.validation(), plain.validation(), strict=True)
    assert len(batches) > 10
    for batch, without in batches:
        assert batch.condition.tensors["sizes"].tolist() == [OWN[pairs.widths[name]] for name in batch.ids]
        assert same(batch, without)
        assert list(without.condition.tensors) == ["text"]


def test_original_sizes_follow_a_random_crop() -> None:
    """The corner moves within the 8 pixels that a crop leaves free, along the longer side alone; held-out pairs show the centre."""
    config = replace(BASE, crop="random", sizes="original", validation_fraction=0.2)
    with load(ShapedPairs(12), config) as loader:
        rows = loader.fetch(range(64)).condition.tensors["sizes"].tolist()
        held = [row for batch in loader.validation() for row in batch.condition.tensors["sizes"].tolist()]
    wide, high = ([row for row in rows if row[:2] == size] for size in ([32, 48], [48, 32]))
    assert {row[2] for row in wide} == {row[3] for row in high} == {0}
    assert {row[3] for row in wide} | {row[2] for row in high} == set(range(9))
    assert held
    assert all(row in OWN.values() for row in held)


def test_original_sizes_are_of_the_upright_picture() -> None:
    """A picture stored as 48 × 32 and marked as taken with the camera turned is 32 wide and 48 high."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pair = shaped("turned", encoded(noise_picture(0, 48, 32), "JPEG", exif=turned), png(1))

    class Turned(MadePairs):
        def __getitem__(self, index: int) -> PairRecord:
            return pair

    with load(Turned(None), replace(BASE, sizes="original")) as loader:
        assert loader.fetch([0]).condition.tensors["sizes"].tolist() == [OWN[32]]


def test_ties_that_are_kept_have_preference_one_half(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [row(0), row(1, label_0=0.5, label_1=0.5), row(2), row(3)])
    with load_file(path, replace(BASE, ties="half")) as loader:
        assert sorted(loader.fetch(range(4)).preference.tolist()) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("size", "fraction", "step"), [(7, 0.0, 8), (0, 0.0, 1), (20, 0.5, 20)])
def test_a_set_smaller_than_a_step_is_refused(size: int, fraction: float, step: int) -> None:
    with pytest.raises(InputError, match=rf"pairs to train on .* fewer than train\.pairs_per_step={step}"):
        load(size, replace(BASE, validation_fraction=fraction), step=step)


def test_the_resolution_must_be_known() -> None:
    with pytest.raises(InputError, match=r"data\.resolution is not set"):
        load(8, replace(BASE, resolution=None))


class SlowPairs(MadePairs):
    """Tells which thread reads, and fails where two do at once."""

    def __init__(self) -> None:
        super().__init__(64)
        self.threads: set[str] = set()
        self._busy = threading.Lock()

    def __getitem__(self, index: int) -> PairRecord:
        assert self._busy.acquire(blocking=False), "two threads read the source at once"
        try:
            time.sleep(0.0005)
            self.threads.add(threading.current_thread().name)
            return super().__getitem__(index)
        finally:
            self._busy.release()


def reads_reach(source: MadePairs, count: int) -> bool:
    """Whether the source has been read exactly `count` times once the threads are done."""
    deadline = time.monotonic() + 20
    while len(source.read) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    return len(source.read) == count


def test_the_next_step_is_decoded_while_the_current_one_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected gets read before it is fetched, also after a jump; one thread reads at a time."""
    monkeypatch.setattr(loader_module, "AHEAD", 8)
    source = SlowPairs()
    source.ids = [pair_record(i).id for i in range(64)]  # type: ignore[attr-defined]
    with load(source, replace(BASE, crop="random"), step=8) as loader, load(64, replace(BASE, crop="random"), step=8) as plain:
        for start, read in ((0, 16), (8, 24), (40, 40)):
            assert same(loader.fetch(range(start, start + 8)), plain.fetch(range(start, start + 8)))
            loader.expect(range(start + 8, start + 16))
            assert reads_reach(source, read)
    assert all(name.startswith("decode") for name in source.threads)


def test_decoding_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 60 with room for 5: never more than 5 decoded pairs wait beyond those encoded, and all come out right."""
    monkeypatch.setattr(loader_module, "AHEAD", 5)
    source = MadePairs(None)

    class Watching(SmallEncoder):
        def encode_images(self, images: torch.Tensor):  # type: ignore[no-untyped-def]
            waiting.append(len(source.read) - sum(self.image_calls) // 2)
            return super().encode_images(images)

    waiting: list[int] = []
    with load(source, encoder=Watching(), step=60) as loader, load(None, step=60) as plain:
        batch = loader.fetch(range(60))
        loader.expect(range(60, 120))
        assert reads_reach(source, 65)
        assert same(batch, plain.fetch(range(60)))
    assert max(waiting) <= 5 + 8


def test_a_closed_loader_decodes_no_more() -> None:
    """It is a `PairLoader` (mypy reads that here) until it is closed."""
    loader: PairLoader = load(None)
    assert len(loader.fetch(range(4))) == 4
    assert isinstance(loader, EncodedPairs)
    loader.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        loader.fetch(range(4, 8))
