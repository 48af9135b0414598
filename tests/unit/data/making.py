"""Pictures, pairs files, sources and an encoder, all made on the spot from small numbers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from inpo.data.pairs import pair_id
from inpo.randomness import torch_rng
from inpo.types import Condition, LatentDistribution, PairRecord

SIDE = 16

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noise_picture(seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Random RGB pixels, `[height, width, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as the bytes of a file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def png(seed: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """A PNG of random pixels."""
    return encoded(noise_picture(seed, width, height))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(header: tuple[int, int, int, int], rows: Sequence[bytes], extra: bytes = b"") -> bytes:
    """A PNG by hand: (width, height, bit depth, colour type), the unfiltered rows, further chunks."""
    ihdr = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    idat = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + ihdr + extra + idat + png_chunk(b"IEND", b"")


def row(number: int, **changes: object) -> dict[str, object]:
    """A valid row: its two pictures and caption belong to `number` alone, and jpg_0 wins where it is even."""
    first_wins = number % 2 == 0
    labels = {"label_0": float(first_wins), "label_1": float(not first_wins)}
    pictures = {"jpg_0": png(2 * number), "jpg_1": png(2 * number + 1)}
    return {**pictures, **labels, "caption": f"caption {number}", **changes}


def write(path: Path, rows: Sequence[Mapping[str, object]], *, group: int = 4, structs: bool = False) -> Path:
    """Rows to a Parquet file with `group` rows in a row group; `structs` writes images as Hugging Face does."""
    columns = {name: [line[name] for line in rows] for name in rows[0]}
    kinds = {"jpg_0": pa.binary(), "jpg_1": pa.binary(), "label_0": pa.float64(), "label_1": pa.float64(), "caption": pa.string()}
    if structs:
        for name in ("jpg_0", "jpg_1"):
            kinds[name] = IMAGE
            columns[name] = [{"bytes": value, "path": None} for value in columns[name]]
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path, row_group_size=group)
    return path


@cache
def pair_record(number: int) -> PairRecord:
    """The pair of `row(number)`, winner first."""
    win, lose, caption = png(2 * number), png(2 * number + 1), f"caption {number}"
    return PairRecord(pair_id(win, lose, caption).hex(), caption, win, lose, 1.0, f"made, row {number}")


class MadePairs:
    """A source of `pair_record`s: `size` of them, or without end. Counts its readings."""

    singles = False

    def __init__(self, size: int | None, block: int = 4) -> None:
        self.size, self.block, self.fingerprint = size, block, f"made-{size}"
        self.read: list[int] = []

    def __getitem__(self, index: int) -> PairRecord:
        self.read.append(index)
        return pair_record(index)


class SmallEncoder:
    """An encoder whose results can be computed by hand: latents are 4×4 means of the colours, prompts are noise from their text."""

    def __init__(self) -> None:
        self.image_calls: list[int] = []
        self.prompts: list[str] = []
        self.readings = 0

    def encode_images(self, images: Tensor) -> LatentDistribution:
        self.image_calls.append(len(images))
        mean = F.avg_pool2d(images, 4)
        return LatentDistribution(mean, torch.full_like(mean, 0.25))

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        self.prompts += prompts
        return Condition({"text": torch.stack([torch.randn(3, 2, generator=torch_rng(prompt)) for prompt in prompts])})

    def reading_prompts(self) -> AbstractContextManager[None]:
        self.readings += 1
        return nullcontext()

    def encode_sizes(self, sizes: Tensor) -> Mapping[str, Tensor]:
        return {"sizes": sizes}

    def decode(self, latents: Tensor) -> Tensor:
        raise AssertionError("loading pairs decodes nothing")
