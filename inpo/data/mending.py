"""Going on with a run that met a damaged picture: a closer look takes pairs out of its list, and no other pair moves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from inpo.data.order import held_out


def with_stand_ins(kept: pa.Table, sound: pa.Table, validation_fraction: float) -> pa.Table | None:
    """`kept`, the pairs of a run under data.verify=headers, with stand-ins for those that are not in `sound`, found under full.

    Each lost pair's place goes to the next pair that is sound and on the same side of the validation split. So no other pair moves, and
    the order of training is the run's own. None where the two lists differ in anything else, or no pair can stand in.
    """
    stays = np.isin(_places(kept), _places(sound))
    if not kept.filter(pa.array(stays)).equals(sound):
        return None
    rows = np.arange(len(stays))
    for lost in np.flatnonzero(~stays):
        stand_in = _stand_in(kept, int(lost), stays, validation_fraction)
        if stand_in is None:
            return None
        rows[lost] = stand_in
    return kept.take(pa.array(rows)).combine_chunks()


def _places(table: pa.Table) -> np.ndarray:
    """One number for each row's file and row."""
    files, rows = (table.column(name).to_numpy().astype(np.int64) for name in ("file", "row"))
    places: np.ndarray = (files << 40) + rows
    return places


def _stand_in(table: pa.Table, lost: int, stays: np.ndarray, fraction: float) -> int | None:
    ids = table.column("id")
    wanted = held_out(ids[lost].as_py().hex(), fraction)
    after = np.roll(np.arange(len(stays)), -lost - 1)
    return next((int(row) for row in after if stays[row] and held_out(ids[int(row)].as_py().hex(), fraction) == wanted), None)
