"""Pictures at fixed seeds while a run trains: the same prompts and noise each time, so that only the model moves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from inpo.files import replacing
from inpo.generation.folder import write_png
from inpo.generation.sampling import GenerationConfig, GenerativeModel, generate_images, guidance_of

PROMPTS = "prompts.json"


@dataclass(frozen=True)
class SampleGrid:
    """Calling it with a step writes `run`/samples/step-000100/00000.png …, one a prompt, and beside them once what was asked for.

    Step 0 is the model before training. samples/prompts.json: {schema, seed, steps, guidance, scheduler, prompts}, in the pictures' order.
    """

    model: GenerativeModel
    run: Path
    prompts: tuple[str, ...]
    config: GenerationConfig

    def __call__(self, step: int) -> None:
        pictures = generate_images(self.model, self.prompts, self.config)
        folder = self.run / "samples" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._describe()
        for i, picture in enumerate(pictures):
            write_png(folder / f"{i:05d}.png", picture.numpy())

    def _describe(self) -> None:
        asked = {name: getattr(self.config, name) for name in ("seed", "steps", "guidance", "scheduler")}
        asked["guidance"] = guidance_of(self.model, self.config)
        with replacing(self.run / "samples" / PROMPTS) as partial:
            text = json.dumps({"schema": 1, **asked, "prompts": self.prompts}, indent=1, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
