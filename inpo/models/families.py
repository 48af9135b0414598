"""The table of model families: what a pipeline is made of, and what its prompts become. No method and no trainer knows a family.

To add one whose network is a UNet, write a row. `encoder` and `stable_diffusion` read rows; `parts` refuses what no row describes.
A network of another class has a module of its own, as `stable_diffusion_3` and `pixart` are, and a line in `wiring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inpo.errors import InputError
from inpo.models.targets import ATTENTION, JOINT_ATTENTION

Library = Literal["diffusers", "transformers"]


@dataclass(frozen=True)
class Component:
    """One folder of a pipeline: its name there and in model_index.json, and the class that reads it.

    `formerly`: what diffusers called that class when older folders were written; they are still read.
    """

    name: str
    library: Library
    class_name: str
    formerly: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every name of the class that a folder may have."""
        return (self.class_name,) if self.formerly is None else (self.class_name, self.formerly)

    @property
    def weights(self) -> str:
        """How the names of its weight files begin."""
        return "model" if self.library == "transformers" else "diffusion_pytorch_model"

    @property
    def title(self) -> str:
        """What a sentence calls the network that is trained."""
        return "UNet" if self.name == "unet" else self.name


@dataclass(frozen=True)
class Family:
    """What differs between families; everything else in `inpo.models` is the same for all of them."""

    name: str
    title: str
    pipeline: str
    """diffusers' class, which the family's folders name and its results load with."""
    network: Component
    """What is trained."""
    text_encoders: tuple[Component, ...]
    tokenizers: tuple[Component, ...]
    """One per text encoder, in the order in which their embeddings are concatenated."""
    noise: Literal["vp", "flow"] = "vp"
    """A variance-preserving table of times, or a rectified flow."""
    lora_targets: tuple[str, ...] = ATTENTION
    """Endings of the network's module names that LoRA adapts by default."""
    lora_loader: bool = True
    """Whether diffusers' pipeline has `load_lora_weights`."""
    guidance: float = 7.5
    """The guidance scale that diffusers' pipeline samples with by default."""
    clip_layers_from_end: int = 0
    """How many layers before CLIP's last one its embeddings are taken from."""
    clip_final_norm: bool = False
    """Whether CLIP's final layer norm is applied to them."""
    addition_embed_type: Literal["text_time"] | None = None
    """The UNet's own; "text_time" reads the last text encoder's pooled embedding and the image's sizes too."""
    zero_empty: bool = False
    """Whether the empty prompt is encoded as zeros, unless model_index.json's `force_zeros_for_empty_prompt` decides."""
    t5_tokens: int = 0
    """How many tokens T5 reads of each prompt; the rest is cut off."""
    optional_towers: bool = False
    """Whether text encoders may be absent, with zeros in their place."""
    safety_checker: bool = False
    """Whether the pipeline has one."""
    checkpoint_prefixes: tuple[str, ...] = ()
    """How the names of each text encoder's tensors begin in a single-file checkpoint; empty if such files are not read."""

    @property
    def tag(self) -> str:
        """Its name among the hub's tags, in ASCII."""
        return self.title.lower().replace(" ", "-").replace("α", "alpha").replace("σ", "sigma")

    @property
    def components(self) -> tuple[Component, ...]:
        """Every folder that a pipeline of this family has; of `optional_towers` some may be absent."""
        return self.network, VAE, *self.text_encoders, *self.tokenizers, SCHEDULER

    @property
    def clip_encoders(self) -> tuple[Component, ...]:
        """The text encoders that read windows and have layers to skip."""
        return tuple(tower for tower in self.text_encoders if tower.class_name.startswith("CLIP"))

    def require_part(self, part: str, key: str) -> None:
        """Raises `InputError` where `key` was set to a kind of network, `part`, that this family does not have."""
        if part in ("unet", "transformer") and part != self.network.name:
            raise InputError(f"{key}={part!r}: the network of {self.title} is its {self.network.title}: use {self.network.name!r}")

    def require_sizes(self) -> None:
        """Raises `InputError` for a family whose network is told no sizes of pictures."""
        if self.addition_embed_type != "text_time":
            raise InputError(
                f"data.sizes='original' means nothing to {self.title}, whose network is told no sizes of pictures: use 'constant'"
            )


UNET = Component("unet", "diffusers", "UNet2DConditionModel")
VAE = Component("vae", "diffusers", "AutoencoderKL")
SCHEDULER = Component("scheduler", "diffusers", "Scheduler")
_SD3_TRANSFORMER = Component("transformer", "diffusers", "SD3Transformer2DModel")
_PIXART_TRANSFORMER = Component("transformer", "diffusers", "PixArtTransformer2DModel", formerly="Transformer2DModel")
_TEXT_ENCODER = Component("text_encoder", "transformers", "CLIPTextModel")
_TEXT_ENCODER_2 = Component("text_encoder_2", "transformers", "CLIPTextModelWithProjection")
_TOKENIZER = Component("tokenizer", "transformers", "CLIPTokenizer")
_TOKENIZER_2 = Component("tokenizer_2", "transformers", "CLIPTokenizer")

SD = Family(
    name="sd",
    title="Stable Diffusion",
    pipeline="StableDiffusionPipeline",
    network=UNET,
    text_encoders=(_TEXT_ENCODER,),
    tokenizers=(_TOKENIZER,),
    clip_final_norm=True,
    safety_checker=True,
    checkpoint_prefixes=("cond_stage_model.",),
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    network=UNET,
    text_encoders=(_TEXT_ENCODER, _TEXT_ENCODER_2),
    tokenizers=(_TOKENIZER, _TOKENIZER_2),
    guidance=5.0,
    clip_layers_from_end=1,
    addition_embed_type="text_time",
    zero_empty=True,
    checkpoint_prefixes=("conditioner.embedders.0.", "conditioner.embedders.1."),
)
SD3 = Family(
    name="sd3",
    title="Stable Diffusion 3",
    pipeline="StableDiffusion3Pipeline",
    network=_SD3_TRANSFORMER,
    text_encoders=(
        Component("text_encoder", "transformers", "CLIPTextModelWithProjection"),
        _TEXT_ENCODER_2,
        Component("text_encoder_3", "transformers", "T5EncoderModel"),
    ),
    tokenizers=(_TOKENIZER, _TOKENIZER_2, Component("tokenizer_3", "transformers", "T5Tokenizer")),
    noise="flow",
    lora_targets=JOINT_ATTENTION,
    guidance=7.0,
    clip_layers_from_end=1,
    t5_tokens=256,
    optional_towers=True,
)
PIXART_ALPHA, PIXART_SIGMA = (
    Family(
        name=f"pixart-{letter.lower()}",
        title=f"PixArt-{sign}",
        pipeline=f"PixArt{letter}Pipeline",
        network=_PIXART_TRANSFORMER,
        text_encoders=(Component("text_encoder", "transformers", "T5EncoderModel"),),
        tokenizers=(Component("tokenizer", "transformers", "T5Tokenizer"),),
        lora_loader=False,
        guidance=4.5,
        t5_tokens=tokens,
    )
    for letter, sign, tokens in (("Alpha", "α", 120), ("Sigma", "Σ", 300))
)

FAMILIES: dict[str, Family] = {family.name: family for family in (SD, SDXL, SD3, PIXART_ALPHA, PIXART_SIGMA)}

UNSUPPORTED: Mapping[str, str] = {"FluxPipeline": "FLUX", "SanaPipeline": "Sana", "AuraFlowPipeline": "AuraFlow"}
"""Pipelines that people try; the message then says what they have rather than a class name."""


def family_of(pipeline: str) -> Family | None:
    """The family whose folders name this pipeline class."""
    return next((family for family in FAMILIES.values() if family.pipeline == pipeline), None)
