"""Scorers in PickScore's format: a CLIP model's folder, score = exp(logit scale) · cos(picture, prompt).

PickScore (Kirstain et al., arXiv:2305.01569) is a ViT-H/14 in this format, and the world's second scorer a tiny one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from inpo.errors import InputError
from inpo.evaluation.rewards.preprocessing import ClipTransform, read_transform
from inpo.files import file_sha256

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class PickScore:
    """A CLIP model as a judge of pictures, in fp32: half precision would tie scores that differ.

    `name` is how result files call it, `spec` all that its numbers depend on: hashes, so that a folder may move.
    """

    def __init__(self, folder: Path | str, *, name: str = "pickscore", batch_size: int = 32, device: torch.device | str = "cpu") -> None:
        """Loads the folder. Raises `InputError` where it is incomplete, holds pickles only, or is no CLIP model."""
        folder = Path(folder)
        _check_files(folder)
        self.name = name
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._transform: ClipTransform = read_transform(folder)
        self._model = _load_model(folder).to(self._device)
        self._tokenizer = _load_tokenizer(folder)
        self._length: int = self._model.config.text_config.max_position_embeddings
        self.spec: Mapping[str, object] = {"format": "pickscore", "sha256": _folder_sha256(folder), "dtype": "float32"}

    @torch.inference_mode()
    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """fp32 `[B]` on the CPU; `images` uint8 `[H,W,3]` of any size. Prompts beyond the model's length are cut, as PickScore does."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        scores = [self._cosines(images[i : i + self._batch_size], prompts[i : i + self._batch_size]) for i in self._starts(images)]
        return torch.cat(scores).mul(self._model.logit_scale.exp().cpu()) if scores else torch.empty(0)

    def _starts(self, images: Sequence[Tensor]) -> range:
        return range(0, len(images), self._batch_size)

    def _cosines(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        pixels = np.stack([self._transform(image.cpu().numpy()) for image in images])
        seen = self._model.get_image_features(pixel_values=torch.from_numpy(pixels).to(self._device)).pooler_output
        # Always the full length: a prompt's embedding must not depend on how long its neighbours in the batch are.
        tokens = self._tokenizer(list(prompts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt")
        asked = self._model.get_text_features(**tokens.to(self._device)).pooler_output
        return (normalize(seen.float(), dim=-1) * normalize(asked.float(), dim=-1)).sum(dim=-1).cpu()


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"scorer: there is no folder {folder}")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise InputError(f"{folder}: {pickles[0]} is a pickle, which can run code when it is opened; convert it to model.safetensors")
        raise InputError(f"{folder}: no model.safetensors in it")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json in it")


def _load_model(folder: Path) -> Any:
    """A `CLIPModel`, frozen, fp32. `Any`: transformers' annotations do not describe what it returns."""
    from safetensors import SafetensorError
    from transformers import CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind = _model_type(folder / "config.json")
    if kind != "clip":
        raise InputError(f"{folder / 'config.json'}: model_type is {kind!r}; PickScore's format is a 'clip' model")
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder}: the weights cannot be loaded ({error})") from None
    model, info = loaded
    if info["missing_keys"]:
        # transformers would fill them with random numbers and only warn.
        raise InputError(f"{folder}: weights are missing: {', '.join(sorted(info['missing_keys'])[:3])} and maybe more")
    return model.eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: the tokenizer cannot be loaded ({error})") from None


def _model_type(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a model's configuration ({error})") from None


def _folder_sha256(folder: Path) -> str:
    """One hash over the names and hashes of all files that decide the scores."""
    files = sorted(path for pattern in ("*.json", "*.txt", "*.safetensors") for path in folder.glob(pattern))
    listing = "".join(f"{path.name} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()
