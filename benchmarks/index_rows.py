"""Time and memory of finding the valid pairs among many rows: `python benchmarks/index_rows.py [--rows 5000000] [--out FILE]`.

Makes a Parquet file whose pictures are tiny but valid and all different, opens it in a process of its own as a training run
does (data.verify=headers, an index kept in a run folder), and once more from that index; prints seconds and peak memory.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

GROUP_ROWS = 1000

OPEN = """
import resource, sys, time
from pathlib import Path
from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
pairs = ParquetPairs.open(DataConfig(sys.argv[1], verify="headers"), folder=Path(sys.argv[2]))
seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
assert pairs[pairs.size - 1].id == pairs.ids[pairs.size - 1]
print(f"{pairs.size} pairs, {seconds:.1f} s, {cpu:.1f} s of processor, peak {after.ru_maxrss / 2**10:.0f} MiB, "
      f"{before.ru_maxrss / 2**10:.0f} MiB of it before the first row")
"""


def make(path: Path, rows: int) -> None:
    """`rows` rows in groups of a thousand: a PNG and a JPEG of 8×8 pixels a row, labels and a caption."""
    colours = np.random.default_rng(0)
    jpeg = io.BytesIO()
    Image.fromarray(colours.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(jpeg, "JPEG")
    schema = pa.schema(
        [("jpg_0", pa.binary()), ("jpg_1", pa.binary()), ("label_0", pa.float64()), ("label_1", pa.float64()), ("caption", pa.string())]
    )
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, GROUP_ROWS):
            numbers = range(start, min(start + GROUP_ROWS, rows))
            wins = [float(number % 3 == 0) for number in numbers]
            columns = [
                [png(number) for number in numbers], [jpeg.getvalue() + number.to_bytes(4, "big") + b"\xff\xd9" for number in numbers],
                wins, [1 - win for win in wins], [f"a picture of {number} circles" for number in numbers],
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))


def png(number: int) -> bytes:
    """A picture of 8×8 pixels that tells its number."""
    rows = b"".join(b"\0" + number.to_bytes(4, "big") * 6 for _ in range(8))
    header = b"\0\0\0\x08\0\0\0\x08\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def opened(path: Path, run: Path) -> str:
    """What a process of its own says about opening the file."""
    found = subprocess.run([sys.executable, "-c", OPEN, str(path), str(run)], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "pairs.parquet", Path(folder) / "run"
        make(path, arguments.rows)
        lines = [
            f"{arguments.rows} rows, {path.stat().st_size / 2**20:.0f} MiB, row groups of {GROUP_ROWS}, data.verify=headers",
            f"{os.cpu_count()} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the start, "
            f"Python {platform.python_version()}, pyarrow {pa.__version__}",
            f"first opening:  {opened(path, run)}",
            f"second opening: {opened(path, run)}",
            f"index: {sum(file.stat().st_size for file in run.iterdir()) / 2**20:.0f} MiB",
        ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
