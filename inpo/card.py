"""The model card (README.md) beside every result: how it was made, what was measured, how it is loaded. As the Hugging Face hub reads it.

A card is public: it names folders by their last part alone, and nothing of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from inpo.config import Experiment
from inpo.models.families import Family
from inpo.models.folders import is_hub_id
from inpo.results import Judgement

CARD = "README.md"
_HUB_DATA = re.compile(r"hub:([^/\s]+/[^/\s@:]+)")
_ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
_MEASURED = "## What was measured"
_KIND = re.compile(r"([a-z-]+:)(.+)", re.DOTALL)
_MODEL_PLACES, _DATA_PLACES = ("path", "unet", "transformer", "vae", "config"), ("path", "root", "scorer")
"""Settings that may say where on this machine something lies."""


@dataclass(frozen=True)
class Card:
    """`form`: what the result is (a format of `inpo export`). `file`: the one that is loaded, where the result is a single file;
    of a network, the folder inside the result that it lies in.

    `pairs`: how many the data had, None where nobody counted. `kept`: of a LoRA extracted from a fully trained network, the share of its
    update's energy that it has. `absent`: names of text encoders that its pipeline has none of. `from_hub`: whether its base was read
    from the hub, None where what the settings name is looked for from here. `told_settings`: whether diffusers would take the single
    file for a model with other settings.
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
    from_hub: bool | None = None
    told_settings: bool = False

    def text(self) -> str:
        """The whole file. Equal facts make equal bytes."""
        parts = [self._front_matter(), f"# {self.name}", self._about(), *self._sections()]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    @property
    def _adapters(self) -> bool:
        return self.form.startswith("lora")

    @property
    def _base(self) -> str:
        """What it was trained from: a hub id, or a folder's last part."""
        if self.experiment is None:
            return "BASE"
        path = self.experiment.model.path
        return path if self._on_hub else public(path)

    @property
    def _on_hub(self) -> bool:
        return self.from_hub if self.from_hub is not None else self.experiment is not None and is_hub_id(self.experiment.model.path)

    def _front_matter(self) -> str:
        facts: dict[str, object] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
        tags = ["text-to-image", "diffusers", self.family.tag, "preference-alignment", "inpo"]
        if self.experiment:
            if self._on_hub:
                facts |= {"base_model": self._base, "base_model_relation": "adapter" if self._adapters else "finetune"}
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
        return f"A {self.family.title} {kind}, trained with {self.experiment.method.title} from {code(self._base)}."

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
                f"else. {code(self._base)} stands for a folder or a hub id with the settings of this one; `inpo export --format pipeline` "
                "writes one."
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
        pipeline, file = self.family.pipeline, self.file or ""
        whole = f"from diffusers import {pipeline}\n\npipe = {pipeline}"
        # diffusers wants to be told, and what is not there has no tokenizer either.
        pairs = [(name, name.replace("text_encoder", "tokenizer")) for name in sorted(self.absent)]
        options = "".join(f", {text}=None, {words}=None" for text, words in pairs)
        if self.form == "single-file":
            return f"{whole}.from_single_file({file!r}{f', config={self._base!r}' if self.told_settings else ''})"
        if self._adapters and not self.family.lora_loader:
            return f"# diffusers loads no LoRA into {pipeline}: merge it first.\n# inpo export {self.name} --format pipeline --out FOLDER"
        if self._adapters:
            return f"{whole}.from_pretrained({self._base!r}{options})\npipe.load_lora_weights({self.name!r}, weight_name={file!r})"
        if self.form == self.family.network.name:
            kind = self.family.network.kind
            inside = f", subfolder={self.file!r}" if self.file else ""
            imports = f"from diffusers import {pipeline}, {kind}\n\nnetwork = {kind}.from_pretrained({self.name!r}{inside})"
            return f"{imports}\npipe = {pipeline}.from_pretrained({self._base!r}, {self.form}=network{options})"
        return f"{whole}.from_pretrained({self.name!r}{options})"

    def _training(self, experiment: Experiment) -> str:
        train, adapters, replaced = experiment.train, experiment.lora, experiment.model.network
        trained = f"{'DoRA' if adapters.dora else 'LoRA'} of rank {adapters.rank}" if adapters else "the whole network"
        counted = "" if self.pairs is None else f", {self.pairs:,} pairs"
        rows = {
            "base": code(self._base) + (f", its network from {code(public_model(replaced[1]))}" if replaced else ""),
            "data": code(public(experiment.data.path)) + counted,
            "trained": trained,
            "steps": f"at most {train.steps}, of {train.pairs_per_step} pairs each",
            "learning rate": f"{experiment.optimizer.lr:g}",
            "seed": str(train.seed),
        }
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
        tree = public_settings(experiment.to_tree())
        tree["model"] = {**cast("dict[str, object]", tree["model"]), "path": self._base}
        settings = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        return f"{table}\n\nAll settings:\n\n{_fenced('yaml', settings)}"


def published(text: str, name: str, to: str, judgements: tuple[Judgement, ...]) -> str:
    """A card for the hub's repository `to`: loaded by that name instead of the folder's, with what was measured since it was written."""
    text = text.replace(f"({name!r}", f"({to!r}")
    if not judgements or _MEASURED in text:
        return text
    before, licence, after = text.partition("\n## Licence\n")
    return f"{before}\n{_MEASURED}\n\n{_measured(judgements)}\n{licence}{after}"


def made_from_hub(folder: Path) -> bool | None:
    """Whether the card in a run's `model/` says that its base was read from the hub: a name that is no folder here may have been one where
    it was trained. None without a card that says so or not."""
    try:
        _, facts, _ = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
        return "base_model" in yaml.safe_load(facts)
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return None


def public(place: str) -> str:
    """A folder or file by its last part, behind a kind too (`implicit:FOLDER?times=20`); built-in names and `hub:` data as they are."""
    if place.startswith("hub:"):
        return place
    if found := _KIND.fullmatch(place):
        folder, mark, options = found[2].partition("?")
        return f"{found[1]}{Path(folder).name}{mark}{options}"
    path = Path(place)
    # Of a pattern the last part says nothing.
    return path.name if not re.search(r"[*?\[]", path.name) else f"{path.parent.name}/{path.name}"


def public_model(place: str) -> str:
    """The same of a model, which may be on the hub: its id as it is."""
    return place if is_hub_id(place) else public(place)


def public_settings(tree: Mapping[str, object]) -> dict[str, object]:
    """The settings without where on this machine anything lies."""
    places = {"model": dict.fromkeys(_MODEL_PLACES, public_model), "data": dict.fromkeys(_DATA_PLACES, public)}
    return {name: _public_section(section, places.get(name, {})) for name, section in tree.items()}


def _public_section(value: object, places: Mapping[str, Callable[[str], str]]) -> object:
    if isinstance(value, Mapping):
        return {
            key: places[key](item) if key in places and isinstance(item, str) else _public_section(item, {}) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_public_section(item, {}) for item in value]
    return public(value) if isinstance(value, str) and value.partition(":")[2].startswith(("/", "~")) | Path(value).is_absolute() else value


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
