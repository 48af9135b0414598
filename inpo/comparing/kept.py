"""What a comparison keeps so that no start works it out again: fingerprints of models, and lists of pairs that all its runs share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import glob
from importlib import metadata
from pathlib import Path

from inpo.comparing.cells import digest_of
from inpo.compose import load, resolve_model
from inpo.data.config import DataConfig
from inpo.files import replacing
from inpo.models.config import ModelConfig
from inpo.models.parts import examine

KEPT = "kept"
PACKAGES = ("inpo", "diffusers", "transformers")
"""Whose versions a fingerprint may depend on: by names of weights, say."""


@dataclass(frozen=True)
class Kept:
    """The folder kept/ of a comparison's `out`, made when there is something for it. None keeps nothing."""

    out: Path | None

    def pairs(self, data: DataConfig) -> Path | None:
        """Where the list of the pairs of these settings is kept: one for all runs, one for both of a pair and one picture of each.

        Of files that have changed it is another one.
        """
        both = dataclasses.asdict(dataclasses.replace(data, positive_ratio=None))
        place = Path(data.path).expanduser()
        named = [place] if place.exists() else [Path(found) for found in sorted(glob(str(place)))]
        files = [file for each in named for file in (sorted(each.rglob("*")) if each.is_dir() else [each])]
        return None if self.out is None else self.out / KEPT / f"pairs-{digest_of({**both, 'files': _times(files)})}"

    def model_fingerprint(self, config: ModelConfig) -> str:
        """The loaded model's; without loading it where its files are the same as when that was done last. Raises `InputError`."""
        if self.out is None:
            return load(config).fingerprint()
        path = self.out / KEPT / f"model-{digest_of(dataclasses.asdict(config))}.json"
        now = {"versions": {name: metadata.version(name) for name in PACKAGES}, "files": _stamps(config)}
        known = _read(path)
        if {key: known.get(key) for key in now} == now and isinstance(known.get("fingerprint"), str):
            return str(known["fingerprint"])
        found = load(config).fingerprint()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps({**now, "fingerprint": found}, indent=1) + "\n", encoding="utf-8")
        return found


def _stamps(config: ModelConfig) -> dict[str, list[int]]:
    """Size and time of change of every file that a model may be read from."""
    parts = examine(resolve_model(config))
    folders = {parts.folder, parts.network, parts.vae, *parts.adapters}
    files = {file.absolute() for folder in folders for file in folder.rglob("*")}
    return _times(sorted(files))


def _times(files: Iterable[Path]) -> dict[str, list[int]]:
    """Size and time of change of each that is a file."""
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()}


def _read(path: Path) -> Mapping[str, object]:
    """What stands in the file; nothing where it is not there or not whole."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
