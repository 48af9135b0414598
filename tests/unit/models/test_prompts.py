"""Windows of tokens and skipped layers, against diffusers and against a computation by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch.testing import assert_close

from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate_images
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.prompts import TextTower
from tests.tiny_models import MAX_TOKENS

LONG = "red circle on white background photo of big blue square left of triangle " * 3
ROOM = MAX_TOKENS - 2


def towers(folder: Path) -> tuple[TextTower, ...]:
    return load(ModelConfig(str(folder))).encoder.towers


@pytest.mark.parametrize("prompt", ["", "a red circle", "猫 <|endoftext|> a", LONG])
def test_one_window_is_the_tokenizers_own(tiny_sdxl_pipeline: Path, prompt: str) -> None:
    """Start, words, end, padding, and the cut at the tokenizer's length."""
    for tower in towers(tiny_sdxl_pipeline):
        theirs = tower.tokenizer(prompt, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
        assert torch.equal(tower.windows([prompt], 1)[0], theirs)


def test_a_long_prompt_is_cut_into_windows_that_begin_and_end_like_prompts(tiny_pipeline: Path) -> None:
    """Nothing is lost up to chunks · 22 words of this tokenizer's 24; a short prompt's later windows hold a start and an end alone."""
    (tower,) = towers(tiny_pipeline)
    words = tower.tokenizer(LONG, add_special_tokens=False).input_ids
    assert 2 * ROOM < len(words) < 3 * ROOM
    windows = tower.windows([LONG, "a cat"], 3)
    bos, eos = tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id
    assert windows.shape == (2, 3, MAX_TOKENS)
    assert windows[..., 0].unique().tolist() == [bos]
    assert torch.cat([windows[0, 0, 1:-1], windows[0, 1, 1:-1], windows[0, 2, 1 : 1 + len(words) - 2 * ROOM]]).tolist() == words
    assert windows[0, :2, -1].tolist() == [eos, eos]
    assert windows[1, 1].tolist() == [bos, eos, *[tower.tokenizer.pad_token_id] * ROOM]
    assert tower.windows([LONG], 2).tolist() == windows[:1, :2].tolist()


def test_windows_are_embedded_apart_and_stand_side_by_side(tiny_sdxl_pipeline: Path) -> None:
    """By hand: each window through each tower alone, states concatenated along tokens; the pooled embedding is the first window's."""
    model = load(ModelConfig(str(tiny_sdxl_pipeline), prompt_chunks=3))
    encoded = model.encoder.encode_prompts(["a cat", LONG]).tensors
    assert encoded["prompt"].shape == (2, 3 * MAX_TOKENS, 20)
    for window in range(3):
        answers = [t.network(t.windows([LONG], 3)[:, window], output_hidden_states=True) for t in model.encoder.towers]
        expected = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        assert_close(encoded["prompt"][1:, window * MAX_TOKENS : (window + 1) * MAX_TOKENS], expected)
        if window == 0:
            assert_close(encoded["text_embeds"][1:], answers[1].text_embeds)


def test_every_prompt_has_the_same_length_encoded_alone_or_together(tiny_pipeline: Path) -> None:
    """Conditions of prompts that were encoded one by one fit together: the number of windows is the setting's, not the prompt's."""
    encoder = load(ModelConfig(str(tiny_pipeline), prompt_chunks=2)).encoder
    together = encoder.encode_prompts(["a cat", LONG, ""]).tensors["prompt"]
    alone = [encoder.encode_prompts([prompt]).tensors["prompt"] for prompt in ("a cat", LONG, "")]
    assert_close(torch.cat(alone), together)


@pytest.mark.parametrize(
    ("kind", "skip"), [("tiny_sdxl_pipeline", 0), ("tiny_sdxl_pipeline", 1), ("tiny_pipeline", 0), ("tiny_pipeline", 1)]
)
def test_clip_skip_counts_as_diffusers_does(request: pytest.FixtureRequest, kind: str, skip: int) -> None:
    """0 is the family's own layer; 1 is the one before, with the final norm for SD and without for SDXL."""
    folder = request.getfixturevalue(kind)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    # diffusers 0.42 looks for the norm where transformers 4 had it.
    pipeline.text_encoder.__dict__["text_model"] = SimpleNamespace(final_layer_norm=pipeline.text_encoder.final_layer_norm)
    theirs = pipeline.encode_prompt(
        ["a red circle", LONG], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=skip or None
    )
    ours = load(ModelConfig(str(folder), clip_skip=skip)).encoder.encode_prompts(["a red circle", LONG]).tensors["prompt"]
    assert torch.equal(ours, theirs[0])


def test_a_model_remembers_how_its_prompts_were_read(tiny_sdxl_pipeline: Path, tmp_path: Path) -> None:
    """Training's setting is generation's: it is saved with the result, the pictures are the same, and a setting of one's own wins."""
    trained = load(ModelConfig(str(tiny_sdxl_pipeline), clip_skip=1, prompt_chunks=2))
    trained.save_pipeline(tmp_path / "out")
    config = GenerationConfig(steps=2, guidance=3.0)
    again = load(ModelConfig(str(tmp_path / "out")))
    assert (again.encoder.reading.clip_skip, again.encoder.reading.chunks) == (1, 2)
    assert again.fingerprint() == trained.fingerprint()
    assert torch.equal(generate_images(again, [LONG], config), generate_images(trained, [LONG], config))
    plain = load(ModelConfig(str(tmp_path / "out"), clip_skip=0, prompt_chunks=1))
    assert plain.fingerprint() == load(ModelConfig(str(tiny_sdxl_pipeline))).fingerprint() != trained.fingerprint()
    assert not (tiny_sdxl_pipeline / "inpo.json").exists()
    DiffusionPipeline.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip_skip": -1}, "model.clip_skip=-1"),
        ({"prompt_chunks": 0}, "model.prompt_chunks=0"),
        ({"clip_skip": 3}, "which has 3 layers"),
    ],
)
def test_readings_that_cannot_be(tiny_sdxl_pipeline: Path, settings: dict[str, int], words: str) -> None:
    """By key, and by the encoder that would be left without a layer."""
    with pytest.raises(InputError, match=words):
        load(ModelConfig(str(tiny_sdxl_pipeline), **settings))


def test_a_damaged_record_of_the_reading_is_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    """inpo.json is a file that people may edit."""
    load(ModelConfig(str(tiny_pipeline), prompt_chunks=2)).save_pipeline(tmp_path / "out")
    (tmp_path / "out" / "inpo.json").write_text(json.dumps({"prompt_chunks": "two"}))
    with pytest.raises(InputError, match=r"inpo\.json: prompt_chunks='two'"):
        load(ModelConfig(str(tmp_path / "out")))
