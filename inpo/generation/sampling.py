"""Prompts to latents and pictures in memory. Each picture has a seed of its own, made of the prompt's index and the sample's,
so that two models start from the same noise, whatever the batch size.

Knows models by protocol only; the diffusers schedulers that are not our own sampler are adapted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from inpo.checking import number, one_of, whole
from inpo.ddim import Guided, sample
from inpo.errors import InputError
from inpo.randomness import seed_for
from inpo.schedule import FLOW_TIME_SCALE, PredictionType, Schedule
from inpo.types import Condition, Denoiser, Dtype, Encoder

SCHEDULERS = ("ddim", "euler", "dpmsolver++")
_OF_DIFFUSERS = {"euler": "EulerDiscreteScheduler", "dpmsolver++": "DPMSolverMultistepScheduler"}
_OF_DIFFUSERS_FOR_FLOW = {"euler": "FlowMatchEulerDiscreteScheduler"}
"""By the names that users type. `ddim` is our own sampler: DDIM, and on a rectified flow Euler's method."""

BATCH = 16
"""Pictures at once, unless it is set or they are larger than 512²."""
_LATENTS_AT_ONCE = BATCH * 64 * 64


class GenerativeModel(Protocol):
    """What generation asks of a model; `inpo.models.model.Model` is one."""

    @property
    def policy(self) -> Denoiser:
        """The network that is sampled."""

    @property
    def encoder(self) -> Encoder:
        """Reads prompts, decodes latents."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""

    @property
    def dtype(self) -> Dtype:
        """What its network computes in."""

    @property
    def scheduler_config(self) -> Mapping[str, object]:
        """The scheduler_config.json that diffusers' schedulers are built from."""

    @property
    def guidance(self) -> float:
        """What its pictures are sampled with unless told otherwise."""

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of one square picture's latent; None is the model's own size."""

    def fingerprint(self) -> str:
        """Changes whenever the model's pictures may."""


@runtime_checkable
class Controlled(Protocol):
    """A `GenerativeModel` whose pictures follow something beside the prompt, each shot its own."""

    @property
    def control(self) -> Mapping[str, object]:
        """What that is, for generation.json: changes whenever the pictures may."""

    def denoiser(self, batch: Sequence[Shot], resolution: int | None = None) -> Denoiser:
        """The network that is sampled for these shots."""


@dataclass(frozen=True)
class GenerationConfig:
    """How pictures are sampled. `guidance` 1 is the conditional model alone; None is what the model's family is sampled with.

    `batch`: pictures at once, without influence on them; None is 16, or fewer where they are larger than 512². `resolution`: side of
    the square in pixels; None is the model's own. Raises `InputError` naming the key for a value that cannot be.
    """

    seed: int = 0
    samples: int = 1
    steps: int = 50
    guidance: float | None = None
    scheduler: str = "ddim"
    batch: int | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        for key in ("samples", "steps"):
            whole(key, getattr(self, key), low=1)
        whole("batch", self.batch, low=1, optional=True)
        if self.guidance is not None:
            number("guidance", self.guidance, low=0)
        whole("resolution", self.resolution, low=1, optional=True)
        one_of("scheduler", self.scheduler, SCHEDULERS)


@dataclass(frozen=True)
class Shot:
    """One picture to be made: a prompt, its place, and the seed of its initial latent."""

    prompt: str
    prompt_index: int
    sample_index: int
    seed: int

    @property
    def name(self) -> str:
        """The file's name, made of numbers alone: prompts are untrusted text."""
        return f"{self.prompt_index:05d}_{self.sample_index}.png"


def shots(prompts: Sequence[str], config: GenerationConfig) -> list[Shot]:
    """Every (prompt, sample), prompts first. Raises `InputError` where there is no prompt, or one that is no text."""
    if not prompts:
        raise InputError("there are no prompts to generate pictures for")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not _encodable(prompt):
            raise InputError(f"prompt {i} is not text that UTF-8 can hold: {prompt!r}")
    return [
        Shot(prompt, i, j, seed_for(config.seed, "generation", i, j)) for i, prompt in enumerate(prompts) for j in range(config.samples)
    ]


def initial_latents(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """x_T ~ N(0, I), fp32 `[B, *shape]` on the CPU: one generator a seed, the numbers that diffusers draws from it too."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def generate_latents(model: GenerativeModel, batch: Sequence[Shot], config: GenerationConfig) -> Tensor:
    """x_0 of these pictures in one batch, `[B,C,H,W]` on the model's device."""
    x_T = initial_latents(model.latent_shape(config.resolution), [shot.seed for shot in batch]).to(model.device)
    with model.encoder.reading_prompts():
        condition, empty = model.encoder.encode_prompts([shot.prompt for shot in batch]), model.encoder.encode_prompts([""])
    policy = model.denoiser(batch, config.resolution) if isinstance(model, Controlled) else model.policy
    with _evaluating(policy):
        guided = Guided(policy, empty, guidance_of(model, config))
        if config.scheduler == "ddim":
            return sample(guided, x_T, model.policy.schedule.sampling_nodes(config.steps, len(batch)), condition)
        scheduler = _diffusers_scheduler(model.scheduler_config, config, _diffusers_name(config.scheduler, guided.prediction_type))
        return _sample_with_diffusers(scheduler, guided, x_T, condition)


def guidance_of(model: GenerativeModel, config: GenerationConfig) -> float:
    """What is asked for, else the family's own."""
    return model.guidance if config.guidance is None else config.guidance


def generate_images(model: GenerativeModel, prompts: Sequence[str], config: GenerationConfig) -> Tensor:
    """The pictures in memory, uint8 `[prompts · samples, H, W, 3]`; samples of one prompt stand together."""
    every = batches(model, shots(prompts, config), config)
    return torch.cat([model.encoder.decode(generate_latents(model, batch, config)).cpu() for batch in every])


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def batches(model: GenerativeModel, wanted: Sequence[Shot], config: GenerationConfig) -> Iterator[Sequence[Shot]]:
    """Cuts the work into calls of `config.batch` pictures, or of as many as suit their size."""
    _, height, width = model.latent_shape(config.resolution)
    size = config.batch or max(1, min(BATCH, _LATENTS_AT_ONCE // (height * width)))
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


@contextmanager
def _evaluating(denoiser: Denoiser) -> Iterator[None]:
    """Without dropout, and back to how the trainer had it."""
    if not isinstance(denoiser, nn.Module):
        yield
        return
    training = denoiser.training
    denoiser.eval()
    try:
        yield
    finally:
        denoiser.train(training)


def check_steps(schedule: Schedule, config: GenerationConfig) -> None:
    """Raises `InputError` where the schedule has fewer times than `config.steps`, whatever the scheduler."""
    try:
        schedule.sampling_nodes(config.steps, 1)
    except (ValueError, IndexError) as error:
        raise InputError(f"steps={config.steps} does not fit the model's schedule: {error}") from error


def check_scheduler(prediction_type: PredictionType, config: GenerationConfig) -> None:
    """Raises `InputError` where `config.scheduler` cannot sample a network of this prediction type."""
    if config.scheduler != "ddim":
        _diffusers_name(config.scheduler, prediction_type)


def _diffusers_name(scheduler: str, prediction_type: PredictionType) -> str:
    known = _OF_DIFFUSERS_FOR_FLOW if prediction_type == "flow" else _OF_DIFFUSERS
    if scheduler not in known:
        raise InputError(
            f"scheduler={scheduler!r} cannot sample a rectified flow, which this model is: use {' or '.join(['ddim', *known])}"
        )
    return known[scheduler]


def _diffusers_scheduler(settings: Mapping[str, object], config: GenerationConfig, name: str) -> Any:
    import diffusers

    scheduler = getattr(diffusers, name).from_config(dict(settings))
    scheduler.set_timesteps(config.steps)
    return scheduler


def _sample_with_diffusers(scheduler: Any, denoiser: Denoiser, x_T: Tensor, condition: Condition) -> Tensor:
    """Lets one of diffusers' schedulers lead. It holds a state for each call, so one scheduler serves one batch."""
    if denoiser.prediction_type == "flow":
        return _sample_flow_with_diffusers(scheduler, denoiser, x_T, condition)
    x_t: Tensor = x_T * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        prediction = denoiser(scheduler.scale_model_input(x_t, t), t.expand(len(x_t)), condition)
        x_t = scheduler.step(prediction, t, x_t, return_dict=False)[0]
    return x_t


def _sample_flow_with_diffusers(scheduler: Any, denoiser: Denoiser, x_T: Tensor, condition: Condition) -> Tensor:
    """The same on a rectified flow, whose latents are never scaled, and whose times diffusers counts in thousandths."""
    x_t = x_T
    for t in scheduler.timesteps:
        prediction = denoiser(x_t, (t / FLOW_TIME_SCALE).expand(len(x_t)), condition)
        x_t = scheduler.step(prediction, t, x_t, return_dict=False)[0]
    return x_t
