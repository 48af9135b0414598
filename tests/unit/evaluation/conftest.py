"""Folders of generated pictures, and scorers that need no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def write_folder(folder: Path, brightness: Mapping[tuple[int, int], int], *, prompts: Sequence[str] = (), seed: int = 0) -> Path:
    """8×8 pictures of one grey level each, by (prompt, sample)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for (prompt, sample), level in brightness.items():
        file = f"{prompt:05d}_{sample}.png"
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / file)
        text = prompts[prompt] if prompts else f"prompt {prompt}"
        sha256 = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        entry = {"file": file, "prompt_index": prompt, "sample_index": sample, "seed": seed + prompt, "prompt": text, "sha256": sha256}
        lines.append(json.dumps(entry))
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Brightness:
    """Scores a picture by its mean, in [0, 1]; remembers how many it was shown."""

    def __init__(self, name: str = "brightness", sign: float = 1.0, nan_level: int | None = None) -> None:
        self.name = name
        self.spec = {"sign": sign}
        self.shown = 0
        self._nan_level = nan_level

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        self.shown += len(images)
        means = torch.stack([image.float().mean() for image in images])
        return torch.where(means == (self._nan_level or -1), torch.nan, self.spec["sign"] * means / 255)


class BrightnessByPart(Brightness):
    """The same with two parts, one of which applies to even prompts only."""

    def parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        means = torch.stack([image.float().mean() for image in images]) / 255
        even = torch.tensor([int(prompt.split()[-1]) % 2 == 0 for prompt in prompts])
        return {"all": means, "even": means.where(even, torch.nan), "never": torch.full_like(means, torch.nan)}
