"""Everything that can be wrong with a model's folder is said in one line, before gigabytes are read, and nothing is executed."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from inpo.errors import InputError
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.saving import replace_folder
from tests.tiny_models import tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Canary:
    """Leaves a file behind if anyone unpickles it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A pipeline that may be spoilt."""
    return shutil.copytree(tiny_pipeline, tmp_path / "models" / "base")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(config: ModelConfig, *words: str) -> str:
    """The message of the refusal, which must be one line and hold these words."""
    with pytest.raises(InputError) as caught:
        load(config)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_folder_without_a_component_names_it(folder: Path, part: str) -> None:
    """Missing on disk, and missing from the index."""
    shutil.rmtree(folder / part)
    refused(ModelConfig(str(folder)), f"has no {part}/ folder", str(folder))
    edit(folder / "model_index.json", **{part: [None, None]})
    refused(ModelConfig(str(folder)), f"names no {part}", "incomplete")


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [None, "{half", "[]", b"\xff\xfe"])
def test_configurations_that_are_missing_or_damaged(folder: Path, name: str, content: str | bytes | None) -> None:
    """The file is named."""
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(ModelConfig(str(folder)), str(folder / name))


@pytest.mark.parametrize(
    ("pipeline", "family"), [("SanaPipeline", "Sana"), ("FluxPipeline", "FLUX"), ("NewPipeline", "NewPipeline")]
)
def test_unsupported_families_are_named_with_the_supported_ones(folder: Path, pipeline: str, family: str) -> None:
    """FLUX is FLUX and not a stack trace about a missing unet/."""
    edit(folder / "model_index.json", _class_name=pipeline)
    refused(ModelConfig(str(folder)), family, "not supported yet", "StableDiffusionPipeline")


def test_a_recipe_for_another_family_is_one_clear_line(folder: Path, tiny_sdxl_pipeline: Path) -> None:
    """An SDXL folder with an SD1.5 recipe, and the reverse."""
    refused(ModelConfig(str(tiny_sdxl_pipeline), family="sd"), "model.family='sd'", "Stable Diffusion XL", "model.family=sdxl")
    refused(ModelConfig(str(folder), family="sdxl"), "model.family='sdxl'", "a pipeline of Stable Diffusion (", "model.family=sd")


@pytest.mark.parametrize("said", ["epsilon", "v_prediction"])
def test_a_recipe_for_another_prediction_is_one_clear_line(tiny_pipeline: Path, tiny_v_pipeline: Path, said: str) -> None:
    """What the network predicts is the folder's to say; a recipe may only agree."""
    folders = {"epsilon": tiny_pipeline, "v_prediction": tiny_v_pipeline}
    other = next(name for name in folders if name != said)
    assert load(ModelConfig(str(folders[said]), prediction=said)).policy.prediction_type == said
    refused(
        ModelConfig(str(folders[other]), prediction=said), f"model.prediction='{said}'", f"prediction_type='{other}'", "scheduler_config"
    )


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_sdxl_without_its_second_tower_names_it(tiny_sdxl_pipeline: Path, tmp_path: Path, part: str) -> None:
    """Missing on disk, and missing from the index, as in SDXL's refiner."""
    copy = shutil.copytree(tiny_sdxl_pipeline, tmp_path / "xl")
    shutil.rmtree(copy / part)
    refused(ModelConfig(str(copy)), f"has no {part}/ folder")
    edit(copy / "model_index.json", **{part: [None, None]})
    refused(ModelConfig(str(copy)), f"names no {part}", "incomplete")


def test_sdxl_with_parts_of_another_model_says_which_number_differs(tiny_sdxl_pipeline: Path, folder: Path, tmp_path: Path) -> None:
    """SD's UNet, a UNet of other sizes (the refiner has five), a narrower tower, and a tower without a projection."""
    refused(ModelConfig(str(tiny_sdxl_pipeline), unet=str(folder)), "UNet of Stable Diffusion (", "pipeline of Stable Diffusion XL")
    copy = shutil.copytree(tiny_sdxl_pipeline, tmp_path / "xl")
    edit(copy / "unet" / "config.json", projection_class_embeddings_input_dim=26)
    refused(ModelConfig(str(copy)), "projection_class_embeddings_input_dim=26", "refiner")
    edit(copy / "text_encoder_2" / "config.json", hidden_size=10)
    refused(ModelConfig(str(copy)), "cross_attention_dim=20", "hidden_size=8 + 10")
    edit(copy / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])
    refused(ModelConfig(str(copy)), "is a CLIPTextModel", "must be a CLIPTextModelWithProjection")


def test_a_component_of_another_class_is_named(folder: Path) -> None:
    """A T5 in the place of CLIP."""
    edit(folder / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
    refused(ModelConfig(str(folder)), "T5EncoderModel", "must be a CLIPTextModel")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_unopened(folder: Path, part: str, tmp_path: Path) -> None:
    """The message tells how to convert, and the pickle's code does not run."""
    next((folder / part).glob("*.safetensors")).unlink()
    (folder / part / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "executed")))
    refused(ModelConfig(str(folder)), "pytorch_model.bin", "pickle", "use_safetensors=False")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 3, 40, 0.5])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights_name_the_file(folder: Path, part: str, keep: float) -> None:
    """Cut inside the length, the header, or the data."""
    file = next((folder / part).glob("*.safetensors"))
    raw = file.read_bytes()
    file.write_bytes(raw[: int(keep if keep == 0 or keep > 1 else keep * len(raw))])
    refused(ModelConfig(str(folder)), str(file), "no complete safetensors file")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_missing_or_misshapen(folder: Path, part: str) -> None:
    """diffusers and transformers would draw what is missing at random, with a warning."""
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    refused(ModelConfig(str(folder)), "lacks 1 of", name)
    save_file(tensors | {name: torch.zeros(3, 3)}, file, {"format": "pt"})
    refused(ModelConfig(str(folder)), str(folder / part))
    file.unlink()
    refused(ModelConfig(str(folder)), "holds no weights")


def test_a_tokenizer_that_is_empty_or_damaged(folder: Path) -> None:
    """The folder is named."""
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    refused(ModelConfig(str(folder)), str(folder / "tokenizer"))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    refused(ModelConfig(str(folder)), "neither tokenizer.json nor vocab.json")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prediction_type": "flow"}, "prediction_type='flow'"),
        ({"beta_schedule": "odd"}, "beta_schedule='odd'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr needs prediction_type v_prediction"),
        ({"trained_betas": [0.01] * 999 + [1.0]}, "a beta of 1 needs prediction_type v_prediction"),
        ({"timestep_spacing": "sideways"}, "timestep_spacing='sideways'"),
    ],
)
def test_schedules_that_cannot_be(folder: Path, values: dict[str, object], words: str) -> None:
    """Key, value and file."""
    edit(folder / "scheduler" / "scheduler_config.json", **values)
    refused(ModelConfig(str(folder)), words, "scheduler_config.json")


def save_odd_unets(folder: Path) -> dict[str, Path]:
    tiny_unet(cross_attention_dim=16).save_pretrained(folder / "wide")
    tiny_unet(in_channels=8).save_pretrained(folder / "deep")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_unet().save_pretrained(folder / "xl")
    edit(folder / "xl" / "config.json", addition_embed_type="text_time")
    return {name: folder / name for name in ("wide", "deep", "vae", "xl")}


def test_overrides_that_do_not_fit_say_which_number_differs(folder: Path, tmp_path: Path) -> None:
    """Another base's UNet, a UNet of other latents, a VAE given as a UNet, SDXL's, and a UNet given as a VAE."""
    odd = save_odd_unets(tmp_path / "odd")
    for name, words in (
        ("wide", ("cross_attention_dim=16", "hidden_size=8", "another base")),
        ("deep", ("in_channels=8", "latents of 4 channels")),
        ("vae", ("is a AutoencoderKL", "model.unet")),
        ("xl", ("UNet of Stable Diffusion XL", "addition_embed_type", "pipeline of Stable Diffusion")),
    ):
        refused(ModelConfig(str(folder), unet=str(odd[name])), str(odd[name]), *words)
    refused(ModelConfig(str(folder), vae=str(odd["wide"])), "is a UNet2DConditionModel", "model.vae")
    refused(ModelConfig(str(folder), unet=str(tmp_path)), "model.unet", "neither a config.json nor a unet/")


def test_a_wider_text_encoder_is_caught_by_the_same_check(folder: Path) -> None:
    """Whichever side was exchanged."""
    tiny_text_encoder(tiny_tokenizer(), hidden_size=16).save_pretrained(folder / "text_encoder")
    refused(ModelConfig(str(folder)), "cross_attention_dim=8", "hidden_size=16")


def the_parent(folder: Path) -> Path:
    return folder.parent


def its_unet(folder: Path) -> Path:
    return folder / "unet"


def a_lonely_unet(folder: Path) -> Path:
    return shutil.copytree(folder / "unet", folder.parent.parent / "lonely")


def misspelt(folder: Path) -> Path:
    return folder.with_name("bass")


def a_file(folder: Path) -> Path:
    return folder / "unet" / WEIGHTS


def an_empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def an_unfinished_run(folder: Path) -> Path:
    shutil.copytree(folder / "unet", folder.parent / "run" / "checkpoints" / "step-000400" / "policy")
    (folder.parent / "run" / "config.yaml").write_text("")
    return folder.parent / "run"


def the_folder_of_runs(folder: Path) -> Path:
    shutil.move(an_unfinished_run(folder), folder.parent / "runs" / "run")
    return folder.parent / "runs"


def an_unfinished_run_of_adapters(folder: Path) -> Path:
    run = an_unfinished_run(folder)
    for file in (run / "checkpoints" / "step-000400" / "policy").iterdir():
        file.unlink()
    return run


def a_run_with_a_unet_alone(folder: Path) -> Path:
    run = an_unfinished_run(folder)
    shutil.copytree(folder / "unet", run / "model" / "unet")
    return run


def test_a_run_with_a_unet_alone_is_an_override(folder: Path) -> None:
    """What the refusal of such a run as a whole model advises works."""
    run = a_run_with_a_unet_alone(folder)
    assert load(ModelConfig(str(folder), unet=str(run))).fingerprint() == load(ModelConfig(str(folder))).fingerprint()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (the_parent, ("did you mean", "base")),
        (the_folder_of_runs, ("did you mean", "runs/run'")),
        (its_unet, ("UNet2DConditionModel of one", "did you mean")),
        (a_lonely_unet, ("single UNet2DConditionModel", "model.unet")),
        (misspelt, ("there is no folder", "did you mean", "base'")),
        (a_file, ("no checkpoint of a whole", "conv_in.bias")),
        (an_empty_folder, ("it is empty",)),
        (an_unfinished_run, ("did not finish", "model.unet=", "step-000400/policy")),
        (an_unfinished_run_of_adapters, ("did not finish; train it to its end with --resume latest; its newest checkpoint", "step-000400")),
        (a_run_with_a_unet_alone, ("UNet alone", "model.unet")),
    ],
)
def test_what_is_no_pipeline_gets_the_nearest_thing_named(folder: Path, path: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    """The commonest slips have their own words."""
    refused(ModelConfig(str(path(folder))), "model.path=", *words)


def test_hub_ids_without_a_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """One clear line instead of a client's many, for the pipeline and for an override; safetensors are asked for."""
    asked: list[object] = []

    def fail(hub_id: str, **settings: object) -> str:
        asked.append(settings)
        logging.getLogger("diffusers.pipelines").warning("a library's own line")
        warnings.warn("and another", UserWarning, stacklevel=1)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused(ModelConfig("someone/model"), "model.path='someone/model'", "could not be reached", "hf download someone/model")
    refused(ModelConfig(str(folder), unet="someone/unet"), "model.unet='someone/unet'", "could not be reached")
    assert asked[0] == {"use_safetensors": True}
    assert not any("bin" in str(pattern) for pattern in asked[1]["allow_patterns"])
    assert not caplog.records
    assert not recwarn.list


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", "licence accepted"),
        ("RepositoryNotFoundError", "no such model on the hub"),
        ("RemoteEntryNotFoundError", "has no model_index.json of it"),
        ("LocalEntryNotFoundError", "could not be reached"),
        ("OSError", "could not be reached"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_hubs_refusals_are_told_apart(monkeypatch: pytest.MonkeyPatch, kind: str, words: str, wrapped: bool) -> None:
    """Gated, absent or private, no pipeline, unreachable: each has its own remedy, also where diffusers has wrapped it."""

    def fail(_: str, **settings: object) -> str:
        error = type(kind, (OSError,), {})(f"401: {settings}"[:3])
        if wrapped:
            raise OSError("Cannot load model someone/model: model is not cached locally") from error
        raise error

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    refused(ModelConfig("someone/model"), words)


@pytest.mark.parametrize("fit", [{"safety_checker"}, {"variant"}, {"safety_checker", "variant"}])
def test_a_pipeline_on_the_hub_may_have_a_pickled_checker_or_fp16_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fit: set[str]
) -> None:
    """diffusers refuses both as a whole: they are asked for again, without the checker and in fp16; each way once."""
    asked: list[set[str]] = []

    def download(_: str, **settings: object) -> str:
        asked.append(settings.keys() - {"use_safetensors", "feature_extractor"})
        assert settings["use_safetensors"] is True
        if asked[-1] != fit:
            raise OSError("Could not find the necessary `safetensors` weights in {'unet/diffusion_pytorch_model.bin'} (variant=None)")
        return str(folder)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert load(ModelConfig("someone/model")).source == folder
    assert asked == [set(), {"safety_checker"}, {"variant"}, {"safety_checker", "variant"}][: len(asked)]
    fit = {"nothing"}
    refused(ModelConfig("someone/model"), "as pickles only")


def test_a_component_on_the_hub_may_be_fp16_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a variant are asked for first."""
    asked: list[list[str]] = []
    (folder / "unet" / WEIGHTS).rename(folder / "aside")

    def download(_: str, *, allow_patterns: list[str]) -> str:
        asked.append([pattern for pattern in allow_patterns if "fp16" in pattern])
        if asked[-1]:
            shutil.move(folder / "aside", folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load(ModelConfig(str(folder), unet="someone/unet")).source == folder
    assert [bool(patterns) for patterns in asked] == [False, True]


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "a model of EDM's kind"),
        ("scheduler/scheduler_config.json", {"timestep_type": "continuous"}, "a model of EDM's kind"),
        ("vae/config.json", {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "latents_mean is set"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256: the UNet is told its guidance"),
    ],
)
def test_models_of_another_process_are_refused(folder: Path, file: str, values: dict[str, object], words: str) -> None:
    """EDM's continuous times and scaled latents, and networks that are told their guidance, would load and train on something else."""
    edit(folder / file, **values)
    refused(ModelConfig(str(folder)), words, str(folder / file.partition("/")[0]))


def test_hub_downloads_are_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client returns is the folder; the override may be a pipeline's."""
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: str(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert load(ModelConfig("someone/model", unet="someone/unet")).source == folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": " "}, "model.path is empty"),
        ({"path": "x", "vae": ""}, "model.vae is empty"),
        ({"path": "x", "dtype": "fp8"}, "model.dtype='fp8'"),
        ({"path": "x", "family": "sdx"}, "did you mean 'sd"),
        ({"path": "x", "prediction": "eps"}, "model.prediction='eps'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], words: str) -> None:
    """Named by key, before anything is opened."""
    with pytest.raises(InputError, match=words):
        ModelConfig(**settings)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left")


def test_a_failed_save_leaves_the_earlier_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete or absent, and what a killed save left behind is swept by the next."""
    model = load(ModelConfig(str(folder)))
    out = folder.parent / "out"
    model.save_pipeline(out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (folder.parent / ".out.new").mkdir()
    (folder.parent / ".out.new" / "leftover").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(type(model.encoder.vae), "save_pretrained", full_disk)
        with pytest.raises(OSError, match="No space left"):
            model.save_pipeline(out)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    model.save_pipeline(out)
    assert sorted(item.name for item in folder.parent.iterdir()) == ["base", "out"]


def test_a_rename_that_fails_puts_the_earlier_save_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier save is moved aside for an instant only, and comes back if its successor cannot take its place."""
    model, out, rename = load(ModelConfig(str(folder))), folder.parent / "out", Path.rename
    model.save_network(out)
    monkeypatch.setattr(Path, "rename", lambda self, to: full_disk() if self.name == ".out.new" else rename(self, to))
    with pytest.raises(OSError, match="No space left"):
        model.save_network(out)
    assert sorted(file.name for file in out.iterdir()) == ["config.json", WEIGHTS]
    assert sorted(item.name for item in folder.parent.iterdir()) == ["base", "out"]


def test_a_save_never_replaces_what_is_no_save(folder: Path) -> None:
    """A home folder given by mistake keeps its content."""
    home = folder.parent / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="nothing was overwritten"):
        load(ModelConfig(str(folder))).save_pipeline(home)
    with pytest.raises(InputError, match="nothing was overwritten"), replace_folder(home / "thesis.tex", "config.json"):
        pass
    assert (home / "thesis.tex").read_text() == "precious"


def test_foreign_checkpoints_do_not_enter_the_policy(folder: Path, tmp_path: Path) -> None:
    """Another network's weights, a damaged file, no file: named, and the policy is as it was."""
    model = load(ModelConfig(str(folder)))
    before = model.fingerprint()
    tiny_unet(cross_attention_dim=16).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="another network"):
        model.load_policy(tmp_path / "other")
    model.save_policy(tmp_path / "policy")
    (tmp_path / "policy" / WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match="no complete safetensors file"):
        model.load_policy(tmp_path / "policy")
    assert model.fingerprint() == before
