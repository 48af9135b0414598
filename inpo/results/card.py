"""The model card (README.md) beside every result: how it was made, what was measured, how it is loaded. As the Hugging Face hub reads it.

A card is public: it names folders by their last part alone, and nothing of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from inpo.config import Experiment
from inpo.models.families import Family
from inpo.results.bases import UNKNOWN, Base, base_of, is_on_hub
from inpo.results.loading_code import Loading, on_hub
from inpo.results.public import MODEL_PLACES, public, public_settings
from inpo.results.result import Judgement

CARD = "README.md"
TAG = "inpo"
_HUB_DATA = re.compile(r"hub:([^/\s]+/[^/\s@:]+)")
_ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
_MEASURED = "## What was measured"
_ALL_SETTINGS = "All settings:\n\n```yaml\n"


@dataclass(frozen=True)
class Card:
    """`form`: what the result is (a format of `inpo export`). `file`: the one that is loaded, where the result is a single file;
    of a network, the folder inside the result that it lies in. `here`: the result as it is seen from the folder around it, None for its
    name; a single file's own path. `base`: what it is loaded on, None for what it was trained from.

    `pairs`: how many the data had, None where nobody counted. `kept`: of a LoRA extracted from a fully trained network, the share of its
    update's energy that it has. `absent`: names of text encoders that its pipeline has none of. `told`: places of its settings as they
    stand in its run's own card. `told_settings`: whether diffusers would take the single file for a model with other settings.
    """

    name: str
    form: str
    family: Family
    experiment: Experiment | None = None
    pairs: int | None = None
    judgements: tuple[Judgement, ...] = ()
    file: str | None = None
    kept: float | None = None
    absent: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()
    told_settings: bool = False
    here: str | None = None
    base: Base | None = None

    def text(self) -> str:
        """The whole file. Equal facts make equal bytes."""
        parts = [self._front_matter(), f"# {self.name}", self._about(), *self._sections()]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    @property
    def _adapters(self) -> bool:
        return self.form.startswith("lora")

    @property
    def _origin(self) -> Base:
        """What it was trained from."""
        return base_of(self.experiment.model, told=self.told) if self.experiment else UNKNOWN

    @property
    def _loaded_on(self) -> Base:
        return self.base or self._origin

    def _place(self, path: str) -> str:
        """A hub id as it is, a folder by its last part."""
        return path if is_on_hub(path, self.told) else public(path)

    def _front_matter(self) -> str:
        facts: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
        tags = ["text-to-image", "diffusers", self.family.tag, "preference-alignment", TAG]
        base, relation = (self._loaded_on, "adapter") if self._adapters else (self._origin, "finetune")
        if base.hub_id:
            facts |= {"base_model": base.hub_id, "base_model_relation": relation}
        if self.experiment:
            if found := _HUB_DATA.match(self.experiment.data.path):
                facts["datasets"] = [found[1]]
            method = self.experiment.method
            tags += [method.name, *(f"arxiv:{each}" for each in _ARXIV.findall(method.paper))]
        if self._adapters:
            tags.append("lora")
        facts["tags"] = list(dict.fromkeys(tags))
        return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---"

    def _about(self) -> str:
        networks = dict.fromkeys(("unet", "transformer"), "denoising network")
        kinds = {"lora": "LoRA", "lora-kohya": "LoRA", **networks, "single-file": "checkpoint"}
        kind = kinds.get(self.form, "pipeline")
        if self.experiment is None:
            return f"A {self.family.title} {kind}, written by `inpo export`."
        return f"A {self.family.title} {kind}, trained with {self.experiment.method.title} from {code(self._origin.title)}."

    def _paper(self) -> str:
        paper = self.experiment.method.paper if self.experiment else ""
        return _ARXIV.sub(lambda found: f"[{found[0]}](https://arxiv.org/abs/{found[0]})", paper)

    def _sections(self) -> Iterator[str]:
        yield f"## How to load it\n\n{_fenced('python', self._loading())}"
        if self.form in ("lora-kohya", "single-file"):
            folder = "loras" if self._adapters else "checkpoints"
            yield f"ComfyUI reads {code(str(self.file))} from `models/{folder}`, and so do the other programs that know this layout."
        if self.told_settings:
            yield (
                "Without `config` diffusers would take the file for a model with other settings, and what it predicts for something "
                f"else. {code(self._loaded_on.settings_of.name)} stands for a folder or a hub id with the settings of this one; "
                "`inpo export --format pipeline` writes one."
            )
        if self.kept is not None:
            yield (
                f"This LoRA was extracted by SVD from the trained weights. It holds {self.kept:.1%} of the energy of their update (the sum "
                "of the squares of all weights' changes); the rest is not in it."
            )
        if self.experiment:
            yield f"## How it was trained\n\n{self._training(self.experiment)}"
            yield f"If you use it, please cite the method's paper: {self._paper()}."
        if self.judgements:
            yield f"{_MEASURED}\n\n{_measured(self.judgements)}"
        yield (
            "## Licence\n\nThe licence of the base model applies to what was made from it, and the data may add terms of its own: read "
            "both before you pass this on."
        )

    def _loading(self) -> str:
        if self._adapters and not self.family.lora_loader:
            pipeline = self.family.pipeline
            return f"# diffusers loads no LoRA into {pipeline}: merge it first.\n# inpo export {self.name} --format pipeline --out FOLDER"
        here = self.here or (self.file if self.form == "single-file" and self.file else self.name)
        return Loading(self.form, self.family, here, self._loaded_on, self.file, self.absent, self.told_settings).text()

    def _training(self, experiment: Experiment) -> str:
        train, adapters, replaced = experiment.train, experiment.lora, experiment.model.network
        trained = f"{'DoRA' if adapters.dora else 'LoRA'} of rank {adapters.rank}" if adapters else "the whole network"
        counted = "" if self.pairs is None else f", {self.pairs:,} pairs"
        rows = {
            "base": code(self._origin.title) + (f", its network from {code(self._place(replaced[1]))}" if replaced else ""),
            "data": code(public(experiment.data.path)) + counted,
            "trained": trained,
            "steps": f"at most {train.steps}, of {train.pairs_per_step} pairs each",
            "learning rate": f"{experiment.optimizer.lr:g}",
            "seed": str(train.seed),
        }
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
        tree = public_settings(experiment.to_tree())
        places = {key: self._place(value) for key in MODEL_PLACES if (value := getattr(experiment.model, key))}
        tree["model"] = {**cast("dict[str, object]", tree["model"]), **places}
        settings = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        return f"{table}\n\n{_ALL_SETTINGS}{settings.strip()}\n```"


def published(text: str, to: str, judgements: tuple[Judgement, ...], *, file: str | None = None) -> str:
    """A card for the hub's repository `to`: loaded by that name instead of the folder's, with what was measured since it was written.

    `file`: what is pushed, where it is a single file.
    """
    text = on_hub(text, to, file)
    if not judgements or _MEASURED in text:
        return text
    before, licence, after = text.partition("\n## Licence\n")
    return f"{before}\n{_MEASURED}\n\n{_measured(judgements)}\n{licence}{after}"


def is_card(file: Path) -> bool:
    """Whether `file` is a card of this program's, by its tags."""
    try:
        _, facts, _ = file.read_text(encoding="utf-8").split("---\n", 2)
        return TAG in yaml.safe_load(facts)["tags"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False


def told_places(folder: Path) -> frozenset[str]:
    """How the card in a run's `model/` names the models of its settings; nothing without a card that has them."""
    try:
        _, _, after = (folder / CARD).read_text(encoding="utf-8").partition(_ALL_SETTINGS)
        told = yaml.safe_load(after.partition("```")[0])["model"]
        return frozenset(str(told[key]) for key in MODEL_PLACES if told.get(key))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return frozenset()


def code(text: str) -> str:
    """As Markdown's code, whatever it holds: names are other people's text."""
    return f"`{text.replace('`', '').replace('|', '/').replace(chr(10), ' ')}`"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def _measured(judgements: tuple[Judgement, ...]) -> str:
    lines = ["| | judged by | win rate | 95 % | prompts |", "|---|---|---|---|---|"]
    for each in judgements:
        found = each.numbers
        against = f"{code(each.name)} against {code(each.baseline)}"
        rate = f"{found.win_rate:.3f} | {found.low:.3f} – {found.high:.3f}"
        lines.append(f"| {against} | {code(public(found.scorer or '–'))} | {rate} | {found.n} |")
        if second := found.second_scorer:
            rate = f"{second.win_rate:.3f} | {second.low:.3f} – {second.high:.3f}"
            lines.append(f"| {against} | {code(public(second.name))} | {rate} | |")
    return "\n".join(lines)
