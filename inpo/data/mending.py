"""Going on with a run that met a damaged picture: a closer look takes pairs out of its list, and no other pair moves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from inpo.data.order import held_out
from inpo.data.split import SplitNames, without_rankings


def with_stand_ins(kept: pa.Table, sound: pa.Table, validation_fraction: float) -> pa.Table | None:
    """`kept`, the pairs of a run under data.verify=headers, with stand-ins for those that are not in `sound`, found under full.

    Each lost pair's place goes to the next pair that is sound and on the same side of the validation split. So no other pair moves, and
    the order of training is the run's own. None where the two lists differ in anything else, or no pair can stand in.
    """
    stays = np.isin(_places(kept), _places(sound))
    # A ranking that lost a pair may be shared no longer: the run's own list says which pairs were held out.
    if not without_rankings(kept.filter(pa.array(stays))).equals(without_rankings(sound)):
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
    names = SplitNames(table)
    wanted = held_out(names[lost], fraction)
    after = np.roll(np.arange(len(stays)), -lost - 1)
    return next((int(row) for row in after if stays[row] and held_out(names[int(row)], fraction) == wanted), None)
