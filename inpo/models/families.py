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

    `formerly`: what diffusers called that class when older folders were written; it reads them still.
    """

    name: str
    library: Library
    kind: str
    formerly: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every name of the class that a folder may have."""
        return (self.kind,) if self.formerly is None else (self.kind, self.formerly)

    @property
    def weights(self) -> str:
        """How its files of weights begin."""
        return "model" if self.library == "transformers" else "diffusion_pytorch_model"

    @property
    def title(self) -> str:
        """What a sentence calls the network that is trained."""
        return "UNet" if self.name == "unet" else self.name


@dataclass(frozen=True)
class Family:
    """What `inpo.models` does alike for every family, and differently by these values.

    `pipeline`: diffusers' class that its folders name and its results load with. `network`: what is trained. `text_encoders`,
    `tokenizers`: one each per tower, in the order in which their embeddings are concatenated. `path`: whether its noise follows a
    variance-preserving table of times or a rectified flow. `lora_targets`: endings of the network's module names that LoRA adapts
    unless told otherwise. `guidance`: what diffusers' pipeline samples with unless told otherwise.

    CLIP: `layer`: how many layers before the last one the embeddings are taken from; `normed`: whether the final norm is applied to
    them. `added`: the UNet's `addition_embed_type`; "text_time" wants the last tower's pooled embedding and the picture's sizes too.
    `zero_empty`: whether the empty prompt is zeros unless model_index.json's `force_zeros_for_empty_prompt` says otherwise, as its
    pipeline's guidance has it. T5: `t5_tokens`: how many it reads of each prompt, what is longer is cut off.
    `optional_towers`: whether text encoders may be absent, with zeros in their place. `safety_checker`: whether the pipeline has one.
    `lora_loader`: whether diffusers' pipeline has `load_lora_weights`.
    `checkpoint_prefixes`: how the names of each tower's tensors begin in a single-file checkpoint; none where such files are not read.
    """

    name: str
    title: str
    pipeline: str
    network: Component
    text_encoders: tuple[Component, ...]
    tokenizers: tuple[Component, ...]
    path: Literal["vp", "flow"] = "vp"
    lora_targets: tuple[str, ...] = ATTENTION
    lora_loader: bool = True
    guidance: float = 7.5
    layer: int = 0
    normed: bool = False
    added: Literal["text_time"] | None = None
    zero_empty: bool = False
    t5_tokens: int = 0
    optional_towers: bool = False
    safety_checker: bool = False
    checkpoint_prefixes: tuple[str, ...] = ()

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
        return tuple(tower for tower in self.text_encoders if tower.kind.startswith("CLIP"))

    def require_part(self, part: str, key: str) -> None:
        """Raises `InputError` where `key` was set to a kind of network, `part`, that this family does not have."""
        if part in ("unet", "transformer") and part != self.network.name:
            raise InputError(f"{key}={part!r}: the network of {self.title} is its {self.network.title}: use {self.network.name!r}")

    def require_sizes(self) -> None:
        """Raises `InputError` for a family whose network is told no sizes of pictures."""
        if self.added != "text_time":
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
    normed=True,
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
    layer=1,
    added="text_time",
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
    path="flow",
    lora_targets=JOINT_ATTENTION,
    guidance=7.0,
    layer=1,
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
