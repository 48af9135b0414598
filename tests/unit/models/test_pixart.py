"""PixArt is diffusers' PixArt: T5 and its mask, ε and not the variance beside it, sizes where the network is told them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.testing import assert_close

from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import adapted_layers
from inpo.models.model import Model
from inpo.models.parts import examine
from inpo.models.prompts import T5Tower
from inpo.models.sizes import model_sizes
from inpo.types import Condition, Denoiser
from tests.tiny_models import LATENT, T5_WIDTH, tiny_pixart, tiny_sd3, write_pieces

PROMPTS = ["a red circle on a white background", "", "  A Green SQUARE "]
TIMES = torch.tensor([0, 417, 999])


@pytest.fixture(scope="module")
def model(tiny_pixart_pipeline: Path) -> Model:
    return load(ModelConfig(str(tiny_pixart_pipeline)))


def latents(side: int = 8) -> Tensor:
    return torch.randn(3, LATENT[0], side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("letter", "tokens"), [("Alpha", 120), ("Sigma", 300)])
def test_prompts_encode_as_the_pipeline_does(letter: str, tokens: int, tmp_path: Path) -> None:
    """States and mask, with the prompt in lower case and stripped; the empty prompt is its end alone. To 1e-5."""
    folder = tiny_pixart(tmp_path, letter)
    pipeline, model = diffusers.DiffusionPipeline.from_pretrained(folder), load(ModelConfig(str(folder)))
    with torch.no_grad():
        prompt, mask, _, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    encoded = model.encoder.encode_prompts(PROMPTS)
    assert (model.family.name, model.policy.prediction_type) == (f"pixart-{letter.lower()}", "epsilon")
    assert encoded.tensors["prompt"].shape == (3, tokens, T5_WIDTH)
    assert_close(encoded.tensors["prompt"], prompt, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded.tensors["mask"], mask.float())
    assert encoded.tensors["mask"].sum(dim=1).tolist()[1] == 1


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("told", [False, True])
def test_denoiser_is_the_first_half_of_what_the_transformer_answers(told: bool, side: int, tmp_path: Path) -> None:
    """With 16 or 24 pixels a side told in pixels, and a ratio of 1, where the network is told sizes."""
    model = load(ModelConfig(str(tiny_pixart(tmp_path, "Alpha", told_sizes=told))))
    condition = model.encoder.encode_prompts(PROMPTS)
    sizes = {"resolution": torch.full((3, 2), 2.0 * side), "aspect_ratio": torch.ones(3, 1)}
    answer = diffusers.PixArtAlphaPipeline.from_pretrained(model.source).transformer(
        latents(side), condition.tensors["prompt"], timestep=TIMES, encoder_attention_mask=condition.tensors["mask"],
        added_cond_kwargs=sizes if told else {"resolution": None, "aspect_ratio": None},
    ).sample  # fmt: skip
    ours = model.policy(latents(side), TIMES, condition)
    assert isinstance(model.policy, Denoiser)
    assert answer.shape[1] == 2 * LATENT[0]
    assert torch.equal(ours, answer.chunk(2, dim=1)[0])


def test_each_example_is_denoised_by_its_own_time_prompt_and_mask(model: Model) -> None:
    """A batch of three is three batches of one; what the mask hides changes nothing, what it shows does."""
    condition = model.encoder.encode_prompts(PROMPTS)
    together = model.policy(latents(), TIMES, condition)
    assert_close(together, torch.cat([model.policy(latents()[i : i + 1], TIMES[i : i + 1], condition[i : i + 1]) for i in range(3)]))
    prompt, mask = condition.tensors["prompt"].clone(), condition.tensors["mask"]
    prompt[mask == 0] = 7.0
    assert_close(model.policy(latents(), TIMES, Condition({"prompt": prompt, "mask": mask})), together)
    shown = model.policy(latents(), TIMES, Condition({"prompt": prompt, "mask": torch.ones_like(mask)}))
    assert (shown - together).flatten(1).abs().amax(dim=1).min() > 1e-5


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_policy_and_reference_agree_exactly_at_step_0(tiny_pixart_pipeline: Path, dtype: str) -> None:
    """max |difference| is 0 with checkpointing on (docs/method.md §6.5); the gradient reaches every weight, and no row of the variance."""
    model = load(ModelConfig(str(tiny_pixart_pipeline), dtype=dtype, gradient_checkpointing=True))
    reference, condition = model.reference(), model.encoder.encode_prompts(PROMPTS)
    model.policy.train()
    answer = model.policy(latents(), TIMES, condition)
    assert (answer - reference(latents(), TIMES, condition)).abs().max() == 0
    answer.square().mean().backward()
    assert all(p.grad is not None for p in model.policy.parameters())
    rows = model.policy.network.proj_out.weight.grad.unflatten(0, (2, 2, 2 * LATENT[0])).abs().amax(dim=(0, 1, 3))
    assert (rows[: LATENT[0]] > 0).all()
    assert (rows[LATENT[0] :] == 0).all()


def test_attention_adapts_both_attentions_of_every_block(tiny_pixart_pipeline: Path) -> None:
    """Two blocks of two attentions of four projections."""
    model = load(ModelConfig(str(tiny_pixart_pipeline)), lora=Lora(rank=2))
    assert len(adapted_layers(model.policy.network)) == 2 * 2 * 4
    sizes = model_sizes(examine(ModelConfig(str(tiny_pixart_pipeline))), Lora(rank=2))
    vae, t5 = (sum(p.numel() for p in module.parameters()) for module in model.encoder.modules)
    assert (sizes.title, sizes.adapted_layers, sizes.frozen, sizes.t5) == ("transformer", 16, vae, t5)


def test_folders_of_before_the_class_was_named_load(tiny_pixart_pipeline: Path, tmp_path: Path) -> None:
    """Published ones call it Transformer2DModel in both of their files; what is saved of them has today's name."""
    old = shutil.copytree(tiny_pixart_pipeline, tmp_path / "old")
    for name, change in (("model_index", {"transformer": ["diffusers", "Transformer2DModel"]}),
                         ("transformer/config", {"_class_name": "Transformer2DModel", "num_vector_embeds": None})):  # fmt: skip
        file = old / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    model, today = (load(ModelConfig(str(folder))) for folder in (old, tiny_pixart_pipeline))
    condition = today.encoder.encode_prompts(PROMPTS)
    assert torch.equal(model.policy(latents(), TIMES, condition), today.policy(latents(), TIMES, condition))
    model.save_pipeline(tmp_path / "new")
    for name, kind in (("model_index", "transformer"), ("transformer/config", "_class_name")):
        assert "PixArtTransformer2DModel" in str(json.loads((tmp_path / "new" / f"{name}.json").read_text())[kind])


def test_saved_pipeline_loads_without_us(model: Model, tmp_path: Path) -> None:
    """diffusers alone makes a picture with it, and we load the same model again."""
    model.save_pipeline(tmp_path / "out")
    pipeline = diffusers.PixArtSigmaPipeline.from_pretrained(tmp_path / "out")
    settings = {"use_resolution_binning": False, "clean_caption": False, "num_inference_steps": 2, "output_type": "np"}
    assert pipeline("a red circle", **settings).images[0].shape == (16, 16, 3)
    assert load(ModelConfig(str(tmp_path / "out"))).fingerprint() == model.fingerprint()


@pytest.mark.parametrize(("make", "name"), [(tiny_pixart, "tokenizer"), (tiny_sd3, "tokenizer_3")])
def test_a_vocabulary_of_sentencepiece_is_read_and_kept(make: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    """`spiece.model` without tokenizer.json, as PixArt is published: the tokens are SentencePiece's own and an end; a saved pipeline has
    the file, and is the same model to us and to diffusers."""
    folder = make(tmp_path)
    write_pieces(folder / name)
    model, pieces = load(ModelConfig(str(folder))), SentencePieceProcessor(model_file=str(folder / name / "spiece.model"))
    (tower,) = (each for each in model.encoder.towers if isinstance(each, T5Tower))
    for prompt in (*PROMPTS, "² ｂｉｇ ﬁ\tx\n"):
        assert tower.tokenizer(prompt).input_ids == [*pieces.encode(prompt), pieces.eos_id()]
    model.save_pipeline(tmp_path / "out")
    assert (tmp_path / "out" / name / "spiece.model").read_bytes() == (folder / name / "spiece.model").read_bytes()
    again = load(ModelConfig(str(tmp_path / "out")))
    assert again.fingerprint() == model.fingerprint()
    ours, theirs = (each.encoder.encode_prompts(PROMPTS).tensors for each in (model, again))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    read = getattr(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out"), name)
    assert read(PROMPTS).input_ids == tower.tokenizer(PROMPTS).input_ids
