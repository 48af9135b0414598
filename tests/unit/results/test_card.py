"""The card is what the hub reads, says what is known and nothing of this machine, and equal facts make equal bytes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from inpo.config import Experiment, load_experiment
from inpo.evaluation.summary import MethodSummary, SecondScorer
from inpo.models.config import ModelConfig
from inpo.models.families import PIXART_SIGMA, SD, SD3, SDXL
from inpo.results.bases import base_of
from inpo.results.card import Card, is_card, told_places
from inpo.results.public import public, public_settings
from inpo.results.result import Judgement


def experiment(*more: str) -> Experiment:
    return load_experiment("sd15-inpo", ["data.path=/home/somebody/secret/pairs.parquet", *more])


def test_the_front_matter_is_the_hubs() -> None:
    """Read by huggingface_hub itself: base model, library, pipeline tag, the method and its paper."""
    card = ModelCard(Card("mine", "pipeline", SD, experiment(), pairs=1234).text())
    assert card.data.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert {"stable-diffusion", "inpo", "arxiv:2503.18454"} <= set(card.data.tags)
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert "datasets" not in card.data.to_dict()
    assert "1,234 pairs" in card.content
    assert "[2503.18454](https://arxiv.org/abs/2503.18454)" in card.content


def test_adapters_and_hub_data_are_said() -> None:
    """A LoRA is an adapter of its base, and a data set of the hub is linked."""
    made = load_experiment("sd15-dpo", ["data.path=hub:owner/pairs@main:train", "lora.rank=8", "output.format=lora"])
    card = ModelCard(Card("mine", "lora", SD, made, file="pytorch_lora_weights.safetensors").text())
    facts = card.data.to_dict()
    assert facts["base_model_relation"] == "adapter"
    assert facts["datasets"] == ["owner/pairs"]
    assert "lora" in facts["tags"]
    assert "LoRA of rank 8" in card.content
    assert "load_lora_weights('mine', weight_name='pytorch_lora_weights.safetensors')" in card.content


def test_nothing_of_this_machine_is_in_it(tmp_path: Path) -> None:
    """Folders by their last part, in the text and in the settings; a folder is no base model of the hub."""
    made = experiment(f"model.path={tmp_path}/base", f"model.unet={tmp_path}/sft/unet", "data.root=/home/somebody")
    text = Card("mine", "unet", SD, made).text()
    assert str(tmp_path) not in text
    assert "/home" not in text
    assert "`base`, its network from `unet`" in text
    assert "base_model" not in yaml.safe_load(text.split("---")[1])
    assert public("/data/pick/*.parquet") == "pick/*.parquet"
    assert public("world:pairs") == "world:pairs"
    assert public("implicit:/home/somebody/runs/mine") == "implicit:mine"
    assert public("implicit:/home/somebody/mine?times=20&noising=forward") == "implicit:mine?times=20&noising=forward"
    assert public("somebody/pairs.parquet") == "pairs.parquet"
    assert public_settings({"data": {"scorer": "pickscore:my/models/x", "other": "a:/b/c"}}) == {
        "data": {"scorer": "pickscore:x", "other": "a:c"}
    }
    assert public_settings({"extra": {"list": ["/a/b", 1]}, "report_to": []}) == {"extra": {"list": ["b", 1]}, "report_to": []}


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_two_parts_deep_is_no_model_of_the_hub(beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its first part is a folder here, loading takes it for a folder, though the second is gone by now; else for a hub id."""
    monkeypatch.chdir(tmp_path)
    if beside:
        (tmp_path / "models").mkdir()
    text = Card("mine", "pipeline", SD, experiment("model.path=models/base")).text()
    assert ("base_model: models/base" in text) is not beside
    assert ("models/base" in text) is not beside
    assert ("`base`" in text) is beside


def test_what_was_a_folder_where_it_was_trained_is_one_elsewhere(tmp_path: Path) -> None:
    """The run's own card knows whether its base came from the hub; without one, and for one that says nothing, nobody does."""
    made = experiment("model.path=models/base")
    for known in ("models/base", "base"):
        (tmp_path / "README.md").write_text(Card("mine", "pipeline", SD, made, told=frozenset({known})).text())
        assert told_places(tmp_path) == {known}
        text = Card("mine", "lora", SD, made, file="x", told=told_places(tmp_path)).text()
        assert ("models/base" in text) is (known == "models/base")
    # The settings were changed since.
    assert "owner/moved" in Card("mine", "lora", SD, experiment("model.path=owner/moved"), file="x", told=frozenset({"base"})).text()
    for content in ("# mine", "---\n- 1: [\n---\n", "---\n1\n---\n"):
        (tmp_path / "README.md").write_text(content)
        assert told_places(tmp_path) == frozenset()
        assert not is_card(tmp_path / "README.md")
    assert told_places(tmp_path / "nowhere") == frozenset()


@pytest.mark.parametrize(("replaced", "base_model"), [
    ("model.unet=mhdang/dpo-sd1.5-text2image-v1", "mhdang/dpo-sd1.5-text2image-v1"),
    ("model.unet=folder", None),
    ("model.vae=folder", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["lora", "unet"])
def test_the_base_model_is_what_its_network_was(form: str, replaced: str, base_model: str | None) -> None:
    """Of a network that replaced the base's own its id, and none where that is on no hub; a VAE makes no difference."""
    text = Card("mine", form, SD, experiment(replaced), file="x.safetensors").text()
    facts = ModelCard(text).data.to_dict()
    assert facts.get("base_model") == base_model
    assert facts.get("base_model_relation") == ({"lora": "adapter", "unet": "finetune"}[form] if base_model else None)
    assert ("vae = AutoencoderKL.from_pretrained('folder')" in text) is ("vae" in replaced)
    if form == "lora" and "mhdang" in replaced:
        assert "network = UNet2DConditionModel.from_pretrained('mhdang/dpo-sd1.5-text2image-v1', subfolder='unet')" in text


def test_the_world_and_a_measured_base_are_said() -> None:
    """The embedded pipeline is in the package; a LoRA is loaded on what it was measured from, and trained from another."""
    text = Card("mine", "lora", SD, experiment("model.path=world"), file="x").text()
    assert "import inpo.world" in text
    assert "from_pretrained(inpo.world.pipeline_path())" in text
    text = Card("mine", "lora", SD, experiment("model.path=folder"), file="x", base=base_of(ModelConfig("owner/plain"))).text()
    assert ModelCard(text).data.base_model == "owner/plain"
    assert "from_pretrained('owner/plain')" in text
    assert "from `folder`" in text


def test_names_cannot_break_out_of_the_card() -> None:
    """Backticks, pipes and line ends of other people's names stay inside."""
    made = experiment("data.path=/x/`a|b\nc`.parquet")
    row = next(line for line in Card("mine", "pipeline", SD, made).text().splitlines() if line.startswith("| data"))
    assert row == "| data | `a/b c.parquet` |"


def test_win_rates_are_told_with_their_interval() -> None:
    """Those of the first scorer, and of the one that was not optimised for."""
    numbers = MethodSummary(
        scorer="world:oracle", win_rate=0.625, low=0.5, high=0.75, n=40, second_scorer=SecondScorer("world:clip", 0.55, 0.4, 0.7)
    )
    text = Card("mine", "pipeline", SDXL, experiment(), judgements=(Judgement("candidate", "baseline", numbers),)).text()
    assert "| `candidate` against `baseline` | `world:oracle` | 0.625 | 0.500 – 0.750 | 40 |" in text
    assert "| `candidate` against `baseline` | `world:clip` | 0.550 | 0.400 – 0.700 | |" in text
    private = dataclasses.replace(
        numbers, scorer="pickscore:/home/somebody/one", second_scorer=SecondScorer("implicit:/home/somebody/run?times=20", 0.55, 0.4, 0.7)
    )
    text = Card("mine", "pipeline", SDXL, experiment(), judgements=(Judgement("candidate", "baseline", private),)).text()
    assert "somebody" not in text
    assert "| `pickscore:one` |" in text
    assert "| `implicit:run?times=20` |" in text
    assert "What was measured" not in Card("mine", "pipeline", SDXL, experiment()).text()


@pytest.mark.parametrize("form", ["pipeline", "unet", "lora", "lora-kohya", "single-file"])
def test_every_form_says_how_it_is_loaded(form: str) -> None:
    """As code that compiles, with the family's own class."""
    card = Card("mine", form, SDXL, experiment(), file="f.safetensors", kept=0.5 if form == "lora" else None)
    text = card.text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    compile(code, form, "exec")
    assert "StableDiffusionXLPipeline" in code
    assert ("holds 50.0% of the energy" in text) is (form == "lora")
    assert ("ComfyUI" in text) is (form in ("lora-kohya", "single-file"))
    assert text == dataclasses.replace(card).text()
    assert "written by `inpo export`" in Card("mine", form, SDXL).text()


def test_text_encoders_that_are_not_there_are_told_to_diffusers() -> None:
    """Its pipeline asks for them otherwise: for the result itself, for its base under adapters, and for its base beside a network."""
    made = load_experiment("sd3-sft", ["data.path=pairs.parquet"])
    absent = frozenset({"text_encoder_3"})
    base = repr(made.model.path)
    for form, start in (("pipeline", "'mine'"), ("lora", base), ("transformer", f"{base}, transformer=network")):
        text = Card("mine", form, SD3, made, file="x.safetensors", absent=absent).text()
        assert f"from_pretrained({start}, text_encoder_3=None, tokenizer_3=None)" in text
        assert "=None" not in Card("mine", form, SD3, made, file="x.safetensors").text().split("## How it was trained")[0]


def test_a_lora_that_diffusers_cannot_load_is_said() -> None:
    """PixArt's pipelines have no loader: the card says to merge. Its tag is in ASCII."""
    made = load_experiment("pixart-sft", ["data.path=pairs.parquet", "lora.rank=8", "output.format=lora"])
    text = Card("mine", "lora", PIXART_SIGMA, made, file="x.safetensors").text()
    assert "inpo export mine --format pipeline" in text
    assert "load_lora_weights" not in text.split("## How it was trained")[0]
    assert "pixart-sigma" in ModelCard(text).data.tags
