"""One file and a folder of settings are a pipeline: bit for bit the one that the file was made of, without a network."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from inpo.errors import InputError
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from tests.single_files import write_single_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inpo" / "single-file"


def settings_alone(folder: Path, copy: Path) -> Path:
    """The folder without its weights."""
    return shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.mark.parametrize("kind", ["tiny_pipeline", "tiny_sdxl_pipeline", "tiny_sdxl_v_pipeline"])
def test_a_single_file_is_the_folder_it_was_made_of(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    """Every weight of every network, the schedule and the prediction; its result loads with diffusers alone."""
    folder = request.getfixturevalue(kind)
    file = write_single_file(folder, tmp_path / "one.safetensors")
    config = ModelConfig(str(file), config=str(settings_alone(folder, tmp_path / "settings")))
    model = load(config)
    assert model.fingerprint() == load(ModelConfig(str(folder))).fingerprint()
    model.save_pipeline(tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert pipeline("a red circle", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


def test_a_file_is_unpacked_once_and_again_when_it_changes(
    tiny_pipeline: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is keyed by the file and its settings; what was unpacked before costs no second reading of the weights."""
    read: list[object] = []
    original = safetensors.torch.load_file
    monkeypatch.setattr(safetensors.torch, "load_file", lambda path, **named: read.append(path) or original(path, **named))
    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    config = ModelConfig(str(file), config=str(settings_alone(tiny_pipeline, tmp_path / "settings")))
    first = load(config).source
    assert load(config).source == first
    assert read.count(file) == 1
    os.utime(file, ns=(1, 1))
    assert load(config).source != first
    assert sorted(each.name[:4] for each in cache.iterdir()) == ["one-", "one-"]


def test_a_disk_without_room_is_told(tiny_pipeline: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is needed and where, and nothing half unpacked is left."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match=r"cannot be unpacked into .*No space left.*XDG_CACHE_HOME"):
        load(ModelConfig(str(file), config=str(settings_alone(tiny_pipeline, tmp_path / "settings"))))
    assert list(cache.iterdir()) == []


def test_without_settings_and_without_a_network_the_key_is_named(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says which folder is wanted; no token is ever in it."""

    def offline(*_: object, **__: object) -> str:
        raise OSError("hf_secret\ncannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    with pytest.raises(InputError, match=r"put a diffusers folder .* beside it, as .*/one, or for training set model\.config") as caught:
        load(ModelConfig(str(file)))
    assert "hf_secret" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tiny_pipeline))
    assert load(ModelConfig(str(file))).family.name == "sd"


def test_settings_beside_the_file_need_no_network_and_no_key(
    tiny_pipeline: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the file's name: `--model one.safetensors` has no other way to its settings. model.config comes before it."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    (tmp_path / "one").mkdir()
    with pytest.raises(InputError, match="could not be fetched"):
        load(ModelConfig(str(file)))
    (tmp_path / "one").rmdir()
    beside = settings_alone(tiny_pipeline, tmp_path / "one")
    assert load(ModelConfig(str(file))).fingerprint() == load(ModelConfig(str(tiny_pipeline))).fingerprint()
    (beside / "model_index.json").write_text("{")
    assert load(ModelConfig(str(file), config=str(tiny_pipeline))).family.name == "sd"


def test_what_is_no_checkpoint_is_refused_unopened(tiny_pipeline: Path, tmp_path: Path, cache: Path) -> None:
    """A pickle, a LoRA, half a file, settings of another architecture, settings without a file, a folder that is no pipeline."""
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({}))
    save_file({"unet.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"\x10")
    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    for path, config, words in (
        ("old.ckpt", tiny_pipeline, "pickle"),
        ("lora.safetensors", tiny_pipeline, "is a LoRA"),
        ("half.safetensors", tiny_pipeline, "no complete safetensors file"),
        (str(tiny_pipeline), tiny_pipeline, "goes with a single-file checkpoint"),
        (str(file), tmp_path, r"model\.config=.* is not a diffusers pipeline folder"),
    ):
        with pytest.raises(InputError, match=words):
            load(ModelConfig(str(tmp_path / path), config=str(config)))
    assert not cache.exists()


def test_settings_of_another_family_or_prediction_are_named(
    tiny_pipeline: Path, tiny_sdxl_pipeline: Path, tmp_path: Path, cache: Path
) -> None:
    """SDXL's settings for an SD file, and ε for a file that is marked as v."""
    file = write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    with pytest.raises(InputError, match="does not have the architecture of"):
        load(ModelConfig(str(file), config=str(tiny_sdxl_pipeline)))
    marked = write_single_file(tiny_sdxl_pipeline, tmp_path / "v.safetensors", v_pred=torch.zeros(0))
    with pytest.raises(InputError, match="marked as a v-prediction model"):
        load(ModelConfig(str(marked), config=str(tiny_sdxl_pipeline)))
    for mark, words in (("ztsnr", "does not say rescale_betas_zero_snr=true"), ("edm_vpred.sigma_max", "a model of EDM's kind")):
        marked = write_single_file(tiny_sdxl_pipeline, tmp_path / "mark.safetensors", **{mark: torch.zeros(0)})
        with pytest.raises(InputError, match=words):
            load(ModelConfig(str(marked), config=str(tiny_sdxl_pipeline)))
    assert not list(cache.glob("*"))


def test_settings_that_name_an_unknown_pipeline_are_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    """The settings decide the family."""
    settings = settings_alone(tiny_pipeline, tmp_path / "settings")
    index = json.loads((settings / "model_index.json").read_text()) | {"_class_name": "FluxPipeline"}
    (settings / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="FluxPipeline"):
        load(ModelConfig(str(write_single_file(tiny_pipeline, tmp_path / "one.safetensors")), config=str(settings)))
