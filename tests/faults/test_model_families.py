"""What can be wrong with a transformer's folder, or with settings that belong to another family: one line each, before weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from inpo.config import load_experiment
from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate, generate_latents, shots
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.parts import examine
from inpo.models.sizes import model_sizes
from inpo.verbs.alignment import examine_model
from tests.tiny_models import SD3_TOWERS, tiny_pixart_transformer, tiny_sd3_transformer, tiny_t5, tiny_t5_tokenizer, tiny_vae


@pytest.fixture
def sd3(tiny_sd3_pipeline: Path, tmp_path: Path) -> Path:
    """A Stable Diffusion 3 pipeline that may be spoilt."""
    return shutil.copytree(tiny_sd3_pipeline, tmp_path / "models" / "sd3")


@pytest.fixture
def pixart(tiny_pixart_pipeline: Path, tmp_path: Path) -> Path:
    """A PixArt-Σ pipeline that may be spoilt."""
    return shutil.copytree(tiny_pixart_pipeline, tmp_path / "models" / "pixart")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(config: ModelConfig, *words: str) -> None:
    """Refused before weights are read, in one line that holds these words."""
    with pytest.raises(InputError) as caught:
        examine(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["transformer", "vae", "tokenizer", "tokenizer_3", "scheduler"])
def test_sd3_without_what_it_needs_names_it(sd3: Path, part: str) -> None:
    """Also a tokenizer whose text encoder is there."""
    shutil.rmtree(sd3 / part)
    refused(ModelConfig(str(sd3)), f"has no {part}/ folder", str(sd3))
    edit(sd3 / "model_index.json", **{part: [None, None]})
    refused(ModelConfig(str(sd3)), f"names no {part}", "incomplete")


def test_sd3_without_any_text_encoder_is_refused(sd3: Path) -> None:
    for tower in SD3_TOWERS:
        shutil.rmtree(sd3 / tower)
    refused(ModelConfig(str(sd3)), "has none of text_encoder, text_encoder_2, text_encoder_3", "a prompt says nothing")


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_pixart_needs_its_one_text_encoder(pixart: Path, part: str) -> None:
    shutil.rmtree(pixart / part)
    refused(ModelConfig(str(pixart)), f"has no {part}/ folder")
    edit(pixart / "model_index.json", **{part: [None, None]})
    refused(ModelConfig(str(pixart)), f"names no {part}", "incomplete")


@pytest.mark.parametrize(
    ("kind", "key", "own", "title"),
    [
        ("tiny_pipeline", "transformer", "unet", "UNet"),
        ("tiny_sd3_pipeline", "unet", "transformer", "transformer"),
        ("tiny_pixart_pipeline", "unet", "transformer", "transformer"),
    ],
)
def test_the_key_of_the_other_kind_of_network_names_the_right_one(
    kind: str, key: str, own: str, title: str, request: pytest.FixtureRequest
) -> None:
    """Where the network comes from, and what a run saves."""
    folder = request.getfixturevalue(kind)
    refused(ModelConfig(str(folder), **{key: str(folder)}), f"model.{key}=", f"is its {title}", f"give it as model.{own}")
    recipe = "sd15-sft" if own == "unet" else "sd3-sft" if "sd3" in kind else "pixart-sft"
    settings = [f"model.path={folder}", "data.path=x.parquet", "data.resolution=16", f"output.format={key}"]
    with pytest.raises(InputError, match=rf"output\.format='{key}'.*is its {title}: use '{own}'"):
        examine_model(load_experiment(recipe, settings))


def test_transformers_of_another_model_say_which_numbers_differ(sd3: Path, pixart: Path, tmp_path: Path) -> None:
    """Another class, other latents, other text encoders; PixArt's may answer a variance, SD3's may not."""
    refused(ModelConfig(str(sd3), transformer=str(pixart)), "is a PixArtTransformer2DModel", "SD3Transformer2DModel is expected")
    tiny_vae().save_pretrained(tmp_path / "vae")
    refused(ModelConfig(str(sd3), vae=str(tmp_path / "vae")), "in_channels=16", "latents of 4 channels")
    own = tmp_path / "own"
    for network, folder, answers in ((tiny_sd3_transformer(), sd3, 32), (tiny_pixart_transformer(), pixart, 12)):
        network.save_pretrained(own)
        edit(own / "config.json", out_channels=answers)
        refused(ModelConfig(str(folder), transformer=str(own)), f"out_channels={answers}", "the VAE in")
    edit(sd3 / "transformer" / "config.json", pooled_projection_dim=21)
    refused(ModelConfig(str(sd3)), "pooled_projection_dim=21", "pooled 20", "another base model")
    edit(sd3 / "transformer" / "config.json", pooled_projection_dim=20, joint_attention_dim=16)
    refused(ModelConfig(str(sd3)), "joint_attention_dim=16", "20 (CLIP) and 24 (T5)")
    edit(pixart / "transformer" / "config.json", _class_name="Transformer2DModel", norm_type="ada_norm_zero")
    refused(ModelConfig(str(pixart)), "norm_type='ada_norm_zero' is another transformer's")
    edit(pixart / "transformer" / "config.json", norm_type="ada_norm_single")
    tiny_t5(tiny_t5_tokenizer(), width=32).save_pretrained(pixart / "text_encoder")
    refused(ModelConfig(str(pixart)), "caption_channels=24", "d_model=32")


def test_one_clip_alone_must_leave_room_for_the_other(sd3: Path) -> None:
    """The pooled embedding of 20 numbers is of an 8 and a 12: a lonely CLIP of 20 is of another model."""
    edit(sd3 / "model_index.json", text_encoder_2=[None, None], tokenizer_2=[None, None])
    examine(ModelConfig(str(sd3)))
    edit(sd3 / "text_encoder" / "config.json", projection_dim=20)
    refused(ModelConfig(str(sd3)), "pooled 20", "another base model")


def test_schedulers_of_the_other_kind(sd3: Path, pixart: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    """A flow under a table's scheduler and the reverse, and grids of a flow that are not ours."""
    name = Path("scheduler") / "scheduler_config.json"
    sd = shutil.copytree(tiny_pipeline, tmp_path / "sd")
    kept = {folder: (folder / name).read_text() for folder in (sd3, sd, pixart)}
    sd_s = "of a DDIMScheduler; Stable Diffusion 3 follows a rectified flow"
    for folder, other, words in ((sd3, sd, sd_s), (pixart, sd3, "FlowMatchEuler"), (sd, sd3, "a table")):
        (folder / name).write_text(kept[other])
        refused(ModelConfig(str(folder)), str(folder / name), words, "expected a")
    for values, words in (
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting=True is not supported"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "_class_name='FlowMatchHeunDiscreteScheduler' is not supported"),
        ({"shift": 0}, "shift=0 must be a number above 0"),
        ({"num_train_timesteps": 500}, "num_train_timesteps=500 must be 1000"),
    ):
        (sd3 / name).write_text(kept[sd3])
        edit(sd3 / name, **values)
        refused(ModelConfig(str(sd3)), str(sd3 / name), words)


def test_recipes_for_another_family_or_prediction_are_one_clear_line(sd3: Path, pixart: Path, tiny_pipeline: Path) -> None:
    refused(ModelConfig(str(sd3), family="sd"), "model.family='sd'", "a pipeline of Stable Diffusion 3", "model.family=sd3")
    refused(ModelConfig(str(tiny_pipeline), family="sd3"), "model.family='sd3'", "model.family=sd")
    refused(ModelConfig(str(pixart), family="pixart-alpha"), "PixArt-Σ", "model.family=pixart-sigma")
    refused(ModelConfig(str(sd3), prediction="epsilon"), "model.prediction='epsilon'", "prediction_type='flow'")
    refused(ModelConfig(str(pixart), prediction="flow"), "model.prediction='flow'", "prediction_type='epsilon'")


def test_readings_of_clip_are_refused_where_there_is_none(pixart: Path) -> None:
    for settings in ({"clip_skip": 1}, {"prompt_chunks": 2}):
        refused(ModelConfig(str(pixart), **settings), "are for CLIP", "PixArt-Σ reads T5")


def test_a_lora_target_that_matches_nothing_names_the_nearest(sd3: Path) -> None:
    """A UNet's name on a transformer, and a slip; the plan says it before weights are read."""
    for target, near in (("add_q_prj", "add_q_proj"), ("attn1.to_q", "attn.to_q")):
        with pytest.raises(InputError, match=rf"lora\.targets: '{target}' matches no layer.*did you mean '{near}'"):
            model_sizes(examine(ModelConfig(str(sd3))), Lora(targets=target))


def test_adapters_in_the_place_of_a_transformer(sd3: Path, tmp_path: Path) -> None:
    """Adapters know their base: they are no network, and a network cannot be put under them."""
    adapted = load(ModelConfig(str(sd3)), lora=Lora(rank=2))
    adapted.save_adapter(tmp_path / "adapters")  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "adapters" / "base.json").read_text())["path"] == str(sd3)
    refused(ModelConfig(str(sd3), transformer=str(tmp_path / "adapters")), "model.transformer=", "holds adapters, not a whole network")
    refused(ModelConfig(str(tmp_path / "adapters"), transformer=str(sd3)), "model.transformer=", "cannot replace the network")


def test_a_transformer_of_the_hub_that_cannot_be_had(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key, the id and what to do without a network; its own folder's files alone are asked for."""
    asked: list[list[str]] = []

    def offline(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused(ModelConfig(str(sd3), transformer="someone/transformer"), "model.transformer='someone/transformer'", "could not be reached")
    assert "transformer/config.json" in asked[0]
    assert not any(pattern.startswith("unet/") for pattern in asked[0])


def test_sides_are_checked_before_weights_are_read(sd3: Path) -> None:
    """Two pixels a latent, two latents a patch, eight places: 4 … 32."""
    for pixels, words in ((24, ""), (40, "more than 32")):
        experiment = load_experiment("sd3-sft", [f"model.path={sd3}", "data.path=x.parquet", f"data.resolution={pixels}"])
        if words:
            with pytest.raises(InputError, match=words):
                examine_model(experiment)
        else:
            assert examine_model(experiment).family.name == "sd3"


def test_a_single_file_of_sd3_is_told_from_a_unets(tmp_path: Path, sd3: Path) -> None:
    """By its blocks; and its settings cannot be lent to a UNet's file either."""
    file = tmp_path / "sd3.safetensors"
    save_file({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(2, 2)}, file)
    refused(ModelConfig(str(file)), str(file), "single file of Stable Diffusion 3", "give a diffusers folder")
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, file)
    refused(ModelConfig(str(file), config=str(sd3)), "model.config=", "StableDiffusion3Pipeline", "no single files")


@pytest.mark.parametrize("name", ["tokenizer_3", "tokenizer"])
def test_a_tokenizer_without_words(sd3: Path, name: str) -> None:
    (sd3 / name / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=rf"{name} holds no words: neither tokenizer\.json nor"):
        load(ModelConfig(str(sd3)))
    (sd3 / name / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=f"{name} cannot be loaded as a"):
        load(ModelConfig(str(sd3)))


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_a_damaged_vocabulary_of_sentencepiece(pixart: Path, content: bytes) -> None:
    """Nobody looks at it beside a tokenizer.json."""
    (pixart / "tokenizer" / "spiece.model").write_bytes(content)
    load(ModelConfig(str(pixart)))
    (pixart / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"spiece\.model is no complete vocabulary of T5.*copy or download it again"):
        load(ModelConfig(str(pixart)))


def test_a_scheduler_that_cannot_sample_a_flow(tiny_sd3_pipeline: Path, tmp_path: Path) -> None:
    """Refused before a picture is made, with what can; our own sampler and Euler's can."""
    model, config = load(ModelConfig(str(tiny_sd3_pipeline))), GenerationConfig(steps=2, scheduler="dpmsolver++")
    for call in (lambda: generate(model, ["a"], tmp_path / "out", config), lambda: generate_latents(model, shots(["a"], config), config)):
        with pytest.raises(InputError, match=r"scheduler='dpmsolver\+\+' cannot sample a rectified flow.*use ddim or euler"):
            call()
    assert not (tmp_path / "out").exists()
