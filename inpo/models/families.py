"""The table of model families: what a pipeline is made of, and what its prompts become. No method and no trainer knows a family.

To add one whose network is a UNet, write a row. `encoder` and `stable_diffusion` read rows; `parts` refuses what no row describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inpo.errors import InputError
from inpo.models.targets import ATTENTION

Library = Literal["diffusers", "transformers"]


@dataclass(frozen=True)
class Component:
    """One folder of a pipeline: its name there and in model_index.json, and the class that reads it."""

    name: str
    library: Library
    kind: str

    @property
    def weights(self) -> str:
        """How its files of weights begin."""
        return "model" if self.library == "transformers" else "diffusion_pytorch_model"


@dataclass(frozen=True)
class Family:
    """What `inpo.models` does alike for every family, and differently by these values.

    `pipeline`: diffusers' class that its folders name and its results load with. `text_encoders`, `tokenizers`: one each per tower,
    in the order in which their embeddings are concatenated. `layer`: how many layers before the last one the embeddings are taken
    from; `normed`: whether the final norm is applied to them. `added`: the UNet's `addition_embed_type`; "text_time" wants the last
    tower's pooled embedding and the picture's sizes too. `zero_empty`: whether the empty prompt is zeros unless model_index.json's
    `force_zeros_for_empty_prompt` says otherwise, as its pipeline's guidance has it. `safety_checker`: whether the pipeline has one.
    `checkpoint_prefixes`: how the names of each tower's tensors begin in a single-file checkpoint. `lora_targets`: endings of the
    UNet's module names that LoRA adapts unless told otherwise.
    """

    name: str
    title: str
    pipeline: str
    text_encoders: tuple[Component, ...]
    tokenizers: tuple[Component, ...]
    layer: int
    normed: bool
    added: Literal["text_time"] | None
    zero_empty: bool
    safety_checker: bool
    checkpoint_prefixes: tuple[str, ...]
    lora_targets: tuple[str, ...] = ATTENTION

    @property
    def components(self) -> tuple[Component, ...]:
        """Every folder that a pipeline of this family must have."""
        return UNET, VAE, *self.text_encoders, *self.tokenizers, SCHEDULER

    def require_sizes(self) -> None:
        """Raises `InputError` for a family whose network is told no sizes of pictures."""
        if self.added != "text_time":
            raise InputError(
                f"data.sizes='original' means nothing to {self.title}, whose network is told no sizes of pictures: use 'constant'"
            )


UNET = Component("unet", "diffusers", "UNet2DConditionModel")
VAE = Component("vae", "diffusers", "AutoencoderKL")
SCHEDULER = Component("scheduler", "diffusers", "Scheduler")
_TEXT_ENCODER = Component("text_encoder", "transformers", "CLIPTextModel")
_TEXT_ENCODER_2 = Component("text_encoder_2", "transformers", "CLIPTextModelWithProjection")
_TOKENIZER = Component("tokenizer", "transformers", "CLIPTokenizer")
_TOKENIZER_2 = Component("tokenizer_2", "transformers", "CLIPTokenizer")

SD = Family(
    name="sd",
    title="Stable Diffusion",
    pipeline="StableDiffusionPipeline",
    text_encoders=(_TEXT_ENCODER,),
    tokenizers=(_TOKENIZER,),
    layer=0,
    normed=True,
    added=None,
    zero_empty=False,
    safety_checker=True,
    checkpoint_prefixes=("cond_stage_model.",),
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    text_encoders=(_TEXT_ENCODER, _TEXT_ENCODER_2),
    tokenizers=(_TOKENIZER, _TOKENIZER_2),
    layer=1,
    normed=False,
    added="text_time",
    zero_empty=True,
    safety_checker=False,
    checkpoint_prefixes=("conditioner.embedders.0.", "conditioner.embedders.1."),
)

FAMILIES: dict[str, Family] = {family.name: family for family in (SD, SDXL)}

UNSUPPORTED: Mapping[str, str] = {
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX",
    "PixArtAlphaPipeline": "PixArt-α",
    "PixArtSigmaPipeline": "PixArt-Σ",
    "SanaPipeline": "Sana",
}
"""Pipelines that people try; the message then says what they have rather than a class name."""


def family_of(pipeline: str) -> Family | None:
    """The family whose folders name this pipeline class."""
    return next((family for family in FAMILIES.values() if family.pipeline == pipeline), None)
