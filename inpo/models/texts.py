"""A pipeline's text encoders and tokenizers, loaded, with their places where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from inpo.errors import InputError
from inpo.models.families import Component
from inpo.models.folders import read_json
from inpo.models.modules import in_one_line, load_module
from inpo.models.parts import Parts
from inpo.models.prompts import Absent, T5Tower, TextTower, Tower
from inpo.types import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLIP_TOKENS = 77
"""What a CLIP reads that is not there to be asked."""
_WORDS = {"CLIPTokenizer": "tokenizer.json nor vocab.json and merges.txt", "T5Tokenizer": "tokenizer.json nor spiece.model"}


def load_towers(parts: Parts, device: torch.device | str, *, dtype: Dtype = "fp32") -> tuple[Tower, ...]:
    """One for each text encoder of the family: CLIP on `device` in fp32, T5 on the CPU, in bf16 where the network's `dtype` is a half.

    Raises `InputError` naming the folder that cannot be loaded.
    """
    pairs = zip(parts.family.text_encoders, parts.family.tokenizers, strict=True)
    towers = {text: _load_tower(parts, text, words, device, dtype) for text, words in pairs if text.name not in parts.absent}
    return tuple(towers.get(text) or _place(parts, text, towers) for text in parts.family.text_encoders)


def _load_tower(parts: Parts, text: Component, words: Component, device: torch.device | str, dtype: Dtype) -> TextTower | T5Tower:
    tokenizer = _load_tokenizer(words, parts.place(words))
    if text in parts.family.clip_encoders:
        return TextTower(cast("PreTrainedModel", load_module(text, parts.place(text)).to(device)), tokenizer)
    # Never fp16, whose range T5's activations leave.
    stored = torch.float32 if dtype == "fp32" else torch.bfloat16
    return T5Tower(cast("PreTrainedModel", load_module(text, parts.place(text), stored)), tokenizer, parts.family.t5_tokens)


def _place(parts: Parts, absent: Component, towers: dict[Component, TextTower | T5Tower]) -> Absent:
    """As many tokens and features as the absent encoder had: of T5 the attention's width, of CLIP what the other one leaves."""
    config = read_json(parts.network / "config.json")
    if absent not in parts.family.clip_encoders:
        return Absent(parts.family.t5_tokens, int(str(config["joint_attention_dim"])))
    others = [tower for text, tower in towers.items() if text in parts.family.clip_encoders and isinstance(tower, TextTower)]
    tokens = parts.reading.chunks * next((tower.length for tower in others), CLIP_TOKENS)
    left = int(str(config["pooled_projection_dim"])) - sum(int(tower.network.config.projection_dim) for tower in others)
    # With both absent all of it is zeros, whoever had which part.
    return Absent(tokens, left if others or absent == parts.family.clip_encoders[0] else 0)


def _load_tokenizer(words: Component, folder: Path) -> PreTrainedTokenizerBase:
    import transformers

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")):
        raise InputError(f"{folder} holds no words: neither {_WORDS[words.class_name]}; copy or download it again")
    if (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file():
        _check_pieces(folder / "spiece.model")
    try:
        return cast("PreTrainedTokenizerBase", getattr(transformers, words.class_name).from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"{folder} cannot be loaded as a {words.class_name}: {in_one_line(error)}") from error


def _check_pieces(file: Path) -> None:
    """A damaged vocabulary would be taken for one of tiktoken's, and that library asked for."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file} is no complete vocabulary of T5 ({in_one_line(error)}); copy or download it again") from error
