"""The shapes in which preferences are published, each as a function from a row to a `Ranking`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from inpo.data.fields import OPINIONS, Fault, opinion, short
from inpo.data.importing.rankings import Columns, Faulty, Item, Place, Ranking, array, caption, number, optional, optional_text, text
from inpo.data.writer import Kind
from inpo.errors import InputError

FormatName = Literal["hpdv2", "hpdv3", "imagereward", "likes"]

_RATINGS = ("overall_rating", "image_text_alignment_rating", "fidelity_rating")


@dataclass(frozen=True)
class Format:
    """A published shape. `fields`: any of these sets of names in a row identifies it.

    `sides` and `common`: the columns it adds to a pair, the first ones twice (rank → rank_0, rank_1).
    """

    name: FormatName
    fields: tuple[frozenset[str], ...]
    ranking: Callable[[Columns, Place], Ranking]
    sides: Mapping[str, Kind] = field(default_factory=dict)
    common: Mapping[str, Kind] = field(default_factory=dict)


def detect(row: Columns, where: str) -> Format:
    """The format whose fields a row has. Raises `InputError` naming the fields that are there."""
    for each in FORMATS.values():
        if any(fields <= row.keys() for fields in each.fields):
            return each
    known = "; ".join(f"{each.name}: {' or '.join('+'.join(sorted(fields)) for fields in each.fields)}" for each in FORMATS.values())
    raise InputError(f"{where}: the fields {', '.join(map(repr, row)) or 'none'} are those of no known format ({known})")


def hpdv2(row: Columns, place: Place) -> Ranking:
    """HPDv2. train.json: prompt, file_path (two), human_preference (1 for the preferred one), user_hash. test.json: prompt,
    image_path (n), rank (the annotators' mean order, 1 is best), raw_annotations, which is not read.

    Source: the card of ymhao/HPDv2, the README of tgxs002/HPSv2, and its evaluation, in which a lower rank is better.
    """
    chosen = "human_preference" in row
    paths = "file_path" if "file_path" in row else "image_path"
    order = "human_preference" if chosen else "rank"
    ranks = [number(value, f"{order}[{i}]") for i, value in enumerate(array(row, order))]
    if chosen and (len(ranks) != 2 or not set(ranks) <= {0.0, 1.0}):
        raise Faulty(Fault(order, "is not two numbers, each 0 or 1", short(row[order])))
    values = ranks if chosen else [-rank for rank in ranks]
    columns: list[Columns] = [{} if chosen else {"rank": rank} for rank in ranks]
    items = _items(row, paths, place, values, columns)
    return Ranking(str(place), caption(row, "prompt"), items, {"user_id": optional_text(row.get("user_hash"))})


def hpdv3(row: Columns, place: Place) -> Ranking:
    """HPDv3: prompt, path1 (always the preferred one), path2, model1, model2, choice_dist (the votes for each) and confidence,
    which are null where nobody counted.

    The label is path1's, whatever the votes: the set's authors weighed annotators by skill, and say so of `confidence`.
    Source: the README of MizzenAI/HPSv3, the card of MizzenAI/HPDv3.
    """
    votes = array(row, "choice_dist") if row.get("choice_dist") is not None else [None, None]
    if len(votes) != 2:
        raise Faulty(Fault("choice_dist", "is not two numbers of votes", short(votes)))
    sides = [{"model": optional_text(row.get(f"model{i + 1}")), "votes": optional(votes[i], f"choice_dist[{i}]")} for i in range(2)]
    items = tuple(Item(text(row, f"path{i + 1}"), 1.0 - i, place, f"path{i + 1}", sides[i]) for i in range(2))
    return Ranking(str(place), caption(row, "prompt"), items, {"confidence": optional(row.get("confidence"), "confidence")})


def imagereward(row: Columns, place: Place) -> Ranking:
    """ImageRewardDB. metadata-*.parquet and the JSON files beside the pictures: a row a picture, with image_path, prompt_id,
    prompt, rank and three ratings; rows of one prompt_id are a ranking. data/test.json of the repository: id, prompt,
    generations (n paths), ranking. A lower rank is better, and ranks may be equal.

    Source: the card and the loader of zai-org/ImageRewardDB (once THUDM/), data/test.json and train/src/rank_pair_dataset.py
    of THUDM/ImageReward.
    """
    if "generations" in row:
        ranks = [number(value, f"ranking[{i}]") for i, value in enumerate(array(row, "ranking"))]
        items = _items(row, "generations", place, [-rank for rank in ranks], [{"rank": rank} for rank in ranks])
        return Ranking(text(row, "id"), caption(row, "prompt"), items)
    rank = number(row.get("rank"), "rank")
    columns = {"rank": rank, **{name: optional(row.get(name), name) for name in _RATINGS}}
    item = Item(text(row, "image_path"), -rank, place, "image_path", columns)
    return Ranking(text(row, "prompt_id"), caption(row, "prompt"), (item,))


def likes(row: Columns, place: Place) -> Ranking:
    """Unpaired opinions, ours: image, caption and label, true for a picture that was liked (`OPINIONS`). Pictures of one caption
    belong together; space around a caption does not count.
    """
    liked = opinion(row.get("label"))
    if liked is None:
        raise Faulty(Fault("label", f"is not one of {', '.join(OPINIONS)}", short(row.get("label"))))
    shown = caption(row, "caption").strip()
    return Ranking(shown, shown, (Item(text(row, "image"), float(liked), place, "image"),))


def _items(row: Columns, paths: str, place: Place, values: list[float], columns: list[Columns]) -> tuple[Item, ...]:
    found = array(row, paths)
    if len(found) != len(values):
        raise Faulty(Fault(paths, f"names {len(found)} pictures, and {len(values)} are judged", short(found)))
    if len(found) < 2:
        raise Faulty(Fault(paths, "names fewer than two pictures", short(found)))
    named = [(path, f"{paths}[{i}]") for i, path in enumerate(found)]
    return tuple(
        Item(text({where: path}, where), value, place, where, kept)
        for (path, where), value, kept in zip(named, values, columns, strict=True)
    )


# HPDv2 comes last: its test set's fields are among those of ImageRewardDB's rows.
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("hpdv3", (frozenset({"path1", "path2"}),), hpdv3, {"model": str, "votes": float}, {"confidence": float}),
        Format(
            "imagereward", (frozenset({"generations", "ranking"}), frozenset({"prompt_id", "image_path", "rank"})), imagereward,
            {"rank": float, **dict.fromkeys(_RATINGS, float)},
        ),
        Format("likes", (frozenset({"image", "label"}),), likes),
        Format("hpdv2", (frozenset({"human_preference"}), frozenset({"image_path", "rank"})), hpdv2, {"rank": float}, {"user_id": str}),
    )
}  # fmt: skip
