"""What a user says about the model: where it lies, what replaces its parts, and how it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inpo.checking import number, one_of, whole
from inpo.errors import InputError
from inpo.models.families import FAMILIES
from inpo.types import Dtype

NETWORKS = ("unet", "transformer")
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ModelConfig:
    """`path`, `unet`, `transformer`, `vae`: a diffusers folder, a finished run's folder, or a hub id such as `owner/name`.

    `path` may also be a single-file `.safetensors` checkpoint; `config` then names a folder with its settings and tokenizers.
    `unet` or `transformer`, whichever the family's network is, and `vae` replace the pipeline's own. `family` and `prediction` None are
    read from the folder; otherwise the folder must agree.
    `clip_skip` and `prompt_chunks` are `inpo.models.prompts.Reading`'s; None takes what the model was trained with, or 0 and 1.
    `dtype` is what the network computes in: its weights stay fp32 in all cases. `gradient_checkpointing` recomputes activations in the
    backward pass to save memory.
    Raises `InputError` for an unknown family or dtype.
    """

    path: str
    unet: str | None = None
    transformer: str | None = None
    vae: str | None = None
    config: str | None = None
    family: str | None = None
    prediction: Literal["epsilon", "v_prediction", "flow"] | None = None
    clip_skip: int | None = None
    prompt_chunks: int | None = None
    dtype: Dtype = "fp32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for key in ("path", "unet", "transformer", "vae", "config"):
            value = getattr(self, key)
            if value is not None and not str(value).strip():
                raise InputError(f"model.{key} is empty; give a folder or a hub id such as 'owner/name'")
        one_of("model.dtype", self.dtype, DTYPES)
        if self.family is not None:
            one_of("model.family", self.family, tuple(FAMILIES))
        if self.prediction is not None:
            one_of("model.prediction", self.prediction, ("epsilon", "v_prediction", "flow"))
        whole("model.clip_skip", self.clip_skip, low=0, optional=True)
        whole("model.prompt_chunks", self.prompt_chunks, low=1, optional=True)

    @property
    def network(self) -> tuple[str, str] | None:
        """The key and the value that replace the pipeline's network; None where its own is kept. A family has one of the two."""
        return next(((key, value) for key in NETWORKS if (value := getattr(self, key)) is not None), None)


@dataclass(frozen=True)
class Lora:
    """Train low-rank adapters in place of the network's own weights: B·A of `rank`, scaled by `alpha`/`rank`, on the `targets`.

    `alpha` None is the rank: a scale of 1. `targets`: a preset (`attention`, `all-linear`, `conv`), the last parts of a layer's name, or
    a regular expression over whole names; one, or a list. `dora` trains every output's magnitude apart from its direction.
    Raises `InputError` naming `lora.<key>`.
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "attention"
    dora: bool = False

    def __post_init__(self) -> None:
        whole("lora.rank", self.rank, low=1)
        if self.alpha is not None:
            number("lora.alpha", self.alpha, low=0, above=True)
        if not self.target_names or not all(self.target_names):
            raise InputError(f"lora.targets={self.targets!r} names no layer; expected 'attention', another preset, or names of layers")

    @property
    def strength(self) -> float:
        """α: the adapters' output is multiplied by α/rank."""
        return float(self.rank if self.alpha is None else self.alpha)

    @property
    def target_names(self) -> tuple[str, ...]:
        """`targets` as a list."""
        return (self.targets,) if isinstance(self.targets, str) else self.targets
