"""What a run folder holds, read with patience: whatever is missing or broken becomes a note, never an exception.

A run may have died at any moment, and a demo is a folder of runs; the page should say what is there, and what is not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inpo.errors import InputError
from inpo.evaluation.accuracy import ACCURACY, Accuracy, read_accuracy
from inpo.evaluation.images import INDEX, GeneratedImage, read_images
from inpo.evaluation.scores import SCORES, ScoreRow, read_scores
from inpo.evaluation.summary import SUMMARY, Summary, read_summary

CONFIG, ENVIRONMENT, METRICS, REJECTED, SAMPLES = "config.yaml", "environment.json", "metrics.jsonl", "rejected.jsonl", "samples"

PROMPTS = "prompts.json"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Training:
    """One training run: its settings (parsed, and as written), metrics by step, sample pictures by step and what they were asked for.

    `rejected`: faults of the data by reason; a pair may have several, so there are `rejected_pairs` of them.
    """

    name: str
    settings: Mapping[str, object]
    settings_text: str
    metrics: tuple[Mapping[str, object], ...]
    rejected: Counter[str]
    rejected_pairs: int
    samples: Mapping[int, tuple[Path, ...]]
    prompts: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """0 where there is none."""
        return int(str(self.metrics[-1]["step"])) if self.metrics else 0

    @property
    def stopped(self) -> str | None:
        """Why it ended before its last step, if it did so by itself."""
        reason = self.metrics[-1].get("stopped") if self.metrics else None
        return str(reason) if reason else None

    @property
    def finished(self) -> bool:
        """Whether no step is left to train."""
        return self.stopped is not None or (self.last_step > 0 and self.last_step == self.settings.get("train.steps"))


@dataclass(frozen=True)
class Images:
    """One model's generated pictures, by (prompt, sample)."""

    folder: Path
    listed: Mapping[tuple[int, int], GeneratedImage]


@dataclass(frozen=True)
class RunFolder:
    """Everything that the page is made of. `scores[model, scorer][prompt, sample]`; `notes`: what is missing or could not be read.

    `accuracies`: what `inpo score --pairs` left in the folder, or in one right below it, whose name then comes first.
    """

    path: Path
    summary: Summary | None
    trainings: tuple[Training, ...]
    environment: Mapping[str, object]
    scores: Mapping[tuple[str, str], Mapping[tuple[int, int], ScoreRow]]
    images: Mapping[str, Images]
    notes: tuple[str, ...]
    accuracies: tuple[tuple[str, Accuracy], ...] = ()

    @property
    def is_a_run(self) -> bool:
        """Whether anything of a run or an evaluation is there, broken or not."""
        return bool(self.trainings) or any((self.path / name).exists() for name in (SUMMARY, ENVIRONMENT, SCORES.parent, ACCURACY))


@dataclass
class _Reader:
    """Reads below `root` and takes notes."""

    root: Path
    notes: list[str] = field(default_factory=list)

    def text(self, path: Path) -> str:
        """The file's text, undecodable bytes made visible; empty where there is no file."""
        try:
            return path.read_text(encoding="utf-8", errors="backslashreplace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            self.notes.append(f"{self.name(path)} cannot be read: {error.strerror}.")
            return ""

    def lines(self, path: Path) -> list[Mapping[str, object]]:
        """The objects of a .jsonl file; lines that are none (a run killed while it wrote) are counted in a note."""
        values: list[Mapping[str, object]] = []
        broken = 0
        for line in self.text(path).split("\n"):
            value = _parsed(line) if line.strip() else {}
            broken += value is None
            if value:
                values.append(value)
        if broken:
            self.notes.append(f"{self.name(path)}: {broken} {'line is' if broken == 1 else 'lines are'} no JSON object, left out.")
        return values

    def mapping(self, path: Path) -> Mapping[str, object]:
        """A .json file's object, empty where there is none."""
        text = self.text(path)
        value = _parsed(text) if text else {}
        if value is None:
            self.notes.append(f"{self.name(path)} is no JSON object.")
        return value or {}

    def name(self, path: Path) -> str:
        """The path as the page names it."""
        return path.relative_to(self.root).as_posix()


def read_run(root: Path) -> RunFolder:
    """Reads a run's folder, or a demo's with a run in each subfolder. Raises `InputError` only where there is no such folder."""
    if not root.is_dir():
        raise InputError(f"report: there is no folder {root}")
    reader = _Reader(root)
    summary = _summary(reader)
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and _is_run(path))]
    trainings = [_training(reader, path, summary) for path in folders if _is_run(path) and not _is_baseline(path, summary)]
    scores, images, accuracies = _scores(reader, folders), _images(reader, folders), _accuracies(reader, folders)
    environments = [reader.mapping(path / ENVIRONMENT) for path in folders]
    if not any(environments):
        reader.notes.append(f"There is no {ENVIRONMENT}: on what machine this ran is not known.")
    environment = next((found for found in environments if found), {})
    return RunFolder(root, summary, tuple(_ordered(trainings, summary)), environment, scores, images, tuple(reader.notes), accuracies)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG, METRICS))


def _is_baseline(folder: Path, summary: Summary | None) -> bool:
    """The baseline's own folder in a demo: a model that nobody trained here."""
    return folder.name == (summary.baseline if summary else "base") and not (folder / METRICS).exists()


def _parsed(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _summary(reader: _Reader) -> Summary | None:
    path = reader.root / SUMMARY
    if not path.exists():
        reader.notes.append("There is no summary.json: this run has not been evaluated yet.")
        return None
    try:
        return read_summary(path)
    except InputError as error:
        reader.notes.append(f"summary.json cannot be used: {error}")
        return None


def _training(reader: _Reader, folder: Path, summary: Summary | None) -> Training:
    text = reader.text(folder / CONFIG)
    settings = _settings(reader, folder / CONFIG, text)
    metrics = reader.lines(folder / METRICS)
    if not metrics:
        reader.notes.append(f"{reader.name(folder / METRICS)} has no step in it: there are no curves to draw.")
    faults = reader.lines(folder / REJECTED)
    rejected = Counter(": ".join(str(line[key]) for key in ("field", "reason") if line.get(key)) or "no reason given" for line in faults)
    pairs = len({(str(line.get("file")), str(line.get("row"))) for line in faults})
    name = folder.name if folder != reader.root else _own_name(folder, settings, summary)
    asked = reader.mapping(folder / SAMPLES / PROMPTS).get("prompts")
    prompts = tuple(map(str, asked)) if isinstance(asked, list) else ()
    return Training(name, settings, text, _by_step(metrics), rejected, pairs, _samples(folder / SAMPLES), prompts)


def _own_name(folder: Path, settings: Mapping[str, object], summary: Summary | None) -> str:
    """The method that a single run trained."""
    if summary is not None and summary.methods:
        return next(iter(summary.methods))
    method = settings.get("method.name")
    return str(method) if method else folder.name


def _settings(reader: _Reader, path: Path, text: str) -> Mapping[str, object]:
    """Settings under their dotted names; a YAML file that is no mapping has none."""
    import yaml

    if not text:
        reader.notes.append(f"There is no {reader.name(path)}: the settings are not known.")
        return {}
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        reader.notes.append(f"{reader.name(path)} is no YAML.")
        return {}
    return flattened(values) if isinstance(values, dict) else {}


def flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Leaves by dotted name; an empty mapping has none."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _by_step(metrics: list[Mapping[str, object]]) -> tuple[Mapping[str, object], ...]:
    """In order of steps; of a step that was run twice (resumed) the later line counts."""
    steps = {line["step"]: line for line in metrics if isinstance(line.get("step"), int)}
    return tuple(steps[step] for step in sorted(steps, key=lambda step: int(str(step))))


def _samples(folder: Path) -> Mapping[int, tuple[Path, ...]]:
    """Pictures by step, from `step-000100/*.png`."""
    found: dict[int, tuple[Path, ...]] = {}
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else ():
        number = re.fullmatch(r"step-(\d+)", path.name)
        pictures = tuple(sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)) if path.is_dir() else ()
        if number and pictures:
            found[int(number[1])] = pictures
    return dict(sorted(found.items()))


def _scores(reader: _Reader, folders: list[Path]) -> Mapping[tuple[str, str], Mapping[tuple[int, int], ScoreRow]]:
    scores: dict[tuple[str, str], dict[tuple[int, int], ScoreRow]] = {}
    for path in (folder / SCORES for folder in folders):
        try:
            rows = read_scores(path) if path.exists() else ()
        except InputError as error:
            reader.notes.append(f"{reader.name(path)} cannot be used: {error}")
            rows = ()
        for row in rows:
            scores.setdefault((row.model, row.scorer), {})[row.prompt_index, row.sample_index] = row
    if not scores:
        reader.notes.append(f"There is no {SCORES.as_posix()}: single pictures have no scores, so best and worst cases are not known.")
    return scores


def _accuracies(reader: _Reader, folders: list[Path]) -> tuple[tuple[str, Accuracy], ...]:
    found = []
    for folder in (folder for folder in folders if (folder / ACCURACY).is_file()):
        try:
            found.append((folder.name if folder != reader.root else "", read_accuracy(folder / ACCURACY)))
        except InputError as error:
            reader.notes.append(f"{reader.name(folder / ACCURACY)} cannot be used: {error}")
    return tuple(found)


def _images(reader: _Reader, folders: list[Path]) -> Mapping[str, Images]:
    images: dict[str, Images] = {}
    for index in (found for folder in folders for found in sorted((folder / SCORES.parent).glob(f"*/{INDEX}"))):
        try:
            images[index.parent.name] = Images(index.parent, {image.key: image for image in read_images(index.parent)})
        except InputError as error:
            reader.notes.append(f"{reader.name(index)} cannot be used: {error}")
    if not images:
        reader.notes.append("There is no folder of generated pictures below evaluation/: nothing can be shown side by side.")
    return images


def _ordered(trainings: list[Training], summary: Summary | None) -> list[Training]:
    """In the summary's order, so that a method has one colour all over the page; others after them."""
    order = list(summary.methods) if summary else []
    return sorted(trainings, key=lambda training: order.index(training.name) if training.name in order else len(order))
