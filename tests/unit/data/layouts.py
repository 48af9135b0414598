"""The pairs of `making.row` as everything that `data.path` may be."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.unit.data.making import row, write


def as_parquet(folder: Path, count: int) -> Path:
    """One Parquet file."""
    return write(folder / "pairs.parquet", [row(i) for i in range(count)])


def as_sides(folder: Path, count: int) -> Path:
    """win/ and lose/, nested, the captions beside the winners, in captions/ and at the root by turns."""
    for i in range(count):
        stem = f"part {i // 5}/{i:03d}"
        for side, data in sides(i).items():
            put(folder / side / f"{stem}.{('png', 'PNG')[i % 2]}", data)
        put(folder / ("win", "captions", ".")[i % 3] / f"{stem}.txt", f"caption {i}\n".encode())
    put(folder / "README.txt", b"not a caption")
    return folder


def as_suffixes(folder: Path, count: int) -> Path:
    """One folder of 003_w.png and 003_l.png, the captions as 003.txt or 003_w.txt."""
    for i in range(count):
        for side, data in sides(i).items():
            put(folder / f"{i:03d}_{side[0]}.png", data)
        put(folder / (f"{i:03d}.txt", f"{i:03d}_w.txt")[i % 2], f"caption {i}".encode())
    return folder


def as_jsonl(folder: Path, count: int) -> Path:
    """win, lose and caption, one object a line, with empty lines between."""
    lines = [{side: image(folder, i, side) for side in ("win", "lose")} | {"caption": f"caption {i}", "score": i} for i in range(count)]
    return put(folder / "pairs.jsonl", "\n\n".join(map(json.dumps, lines)).encode())


def as_csv(folder: Path, count: int) -> Path:
    """image_0, image_1 and labels, as Pick-a-Pic orders them, with a byte-order mark as spreadsheets write it."""
    path = put(folder / "pairs.csv", b"")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_0", "image_1", "label_0", "label_1", "caption", "score"])
        for i in range(count):
            order = ("win", "lose") if i % 2 == 0 else ("lose", "win")
            table.writerow([*(image(folder, i, side) for side in order), 1 - i % 2, i % 2, f"caption {i}", i])
    return path


LAYOUTS: Mapping[str, Callable[[Path, int], Path]] = {
    "parquet": as_parquet, "win and lose": as_sides, "suffixes": as_suffixes, "jsonl": as_jsonl, "csv": as_csv,
}  # fmt: skip


def sides(number: int) -> dict[str, bytes]:
    """The winner and the loser of `row(number)`."""
    line = row(number)
    first, second = bytes(line["jpg_0"]), bytes(line["jpg_1"])  # type: ignore[call-overload]
    return {"win": first, "lose": second} if number % 2 == 0 else {"win": second, "lose": first}


def image(folder: Path, number: int, side: str) -> str:
    """Writes one picture below `folder`; its path relative to that."""
    name = f"pictures/{number:03d} {side}.png"
    put(folder / name, sides(number)[side])
    return name


def put(path: Path, data: bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
