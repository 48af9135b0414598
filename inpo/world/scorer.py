"""The second scorer: a small CLIP in PickScore's format that learned pictures and captions, and never met the oracle."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from inpo.world.shapes import SIDE, Picture, parse, slip
from inpo.world.tokenizer import MAX_TOKENS, make_tokenizer, save_tokenizer
from inpo.world.unet import tokenize
from inpo.world.vae import cosine, draw_pictures, to_tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorer is trained: contrastively, against the other captions of the batch and as many that are wrong in one attribute."""

    steps: int = 2000
    batch: int = 64
    lr: float = 1e-3
    seed: int = 13


def make_scorer(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP with 0.3 M parameters."""
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**shape, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**shape, "image_size": SIDE, "patch_size": 4}, projection_dim=64))


def make_image_processor() -> CLIPImageProcessor:
    """Resizes to 32×32 and maps to [−1, 1]."""
    size = {"height": SIDE, "width": SIDE}
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size, image_mean=half, image_std=half)


def train_scorer(how: ScorerTraining) -> CLIPModel:
    """Trains the scorer on fresh pictures of the pretraining law."""
    torch.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    tokenizer = make_tokenizer()
    model = make_scorer(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(how.steps, 100))
    for step in range(1, how.steps + 1):
        pictures, captions = draw_pictures(rng, how.batch)
        wrong = [slip(parse(caption), rng).caption for caption in captions]
        similarity = similarities(model, pictures, tokenize(tokenizer, captions + wrong))
        loss = contrast(similarity, captions, wrong)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=4.0)
        if step % 250 == 0:
            log.info("scorer step %d: loss %.4f", step, loss.detach())
    return model.eval()


def similarities(model: CLIPModel, pictures: list[Picture], tokens: Tensor) -> Tensor:
    """exp(logit_scale) · cos of every picture with every caption, `[B, T]`."""
    logits: Tensor = model(input_ids=tokens, pixel_values=to_tensor(pictures)).logits_per_image
    return logits


def contrast(similarity: Tensor, captions: list[str], wrong: list[str]) -> Tensor:
    """CLIP's symmetric loss. `similarity`: `[B, 2B]`, the right captions first; a caption that happens to be right is no negative."""
    count = len(captions)
    same = torch.tensor([[text == caption for text in captions + wrong] for caption in captions])
    same[:, :count].fill_diagonal_(False)
    masked = similarity.masked_fill(same, -torch.inf)
    right = torch.arange(count)
    return 0.5 * (torch.nn.functional.cross_entropy(masked, right) + torch.nn.functional.cross_entropy(masked[:, :count].T, right))


@torch.no_grad()
def scorer_accuracy(model: CLIPModel, count: int, seed: int) -> float:
    """How often a picture scores higher with the scene it shows than with a caption wrong in one attribute. Chance is ½."""
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer()
    pictures, captions = draw_pictures(rng, count, slips=False)
    wrong = [slip(parse(caption), rng).caption for caption in captions]
    right = 0
    for i in range(0, count, 64):
        part = slice(i, i + 64)
        tokens = tokenize(tokenizer, captions[part] + wrong[part])
        good, bad = similarities(model, pictures[part], tokens).chunk(2, dim=1)
        right += int((good.diagonal() > bad.diagonal()).sum())
    return right / count


def save_scorer(folder: Path, model: CLIPModel) -> None:
    """Writes one folder that `CLIPModel` and `CLIPProcessor` load."""
    tokenizer = make_tokenizer()
    model.save_pretrained(folder, safe_serialization=True)
    CLIPProcessor(image_processor=make_image_processor(), tokenizer=tokenizer).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
