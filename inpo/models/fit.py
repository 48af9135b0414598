"""Whether a pipeline's networks belong together: the shapes that their configurations promise, compared before gigabytes are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inpo.errors import InputError
from inpo.models.families import FAMILIES, VAE, Component, Family
from inpo.models.folders import read_json

Config = Mapping[str, object]


@dataclass(frozen=True)
class _Pipeline:
    """The network's folder and configuration, and what it must fit: a pipeline's `folder`, family and text encoders that are there."""

    network: Path
    config: Config
    folder: Path
    family: Family
    towers: tuple[Component, ...]

    def said(self, tower: Component, *keys: str) -> int | None:
        """The first of these keys in a text encoder's configuration, where it is a number."""
        config = read_json(self.folder / tower.name / "config.json")
        return next((value for key in keys if isinstance(value := config.get(key), int)), None)

    @property
    def places(self) -> str:
        """The text encoders' folders, for messages."""
        return ", ".join(str(self.folder / tower.name) for tower in self.towers)


def check_fit(network: Path, vae: Path, folder: Path, family: Family, *, absent: frozenset[str] = frozenset()) -> None:
    """Raises `InputError` where the network, the VAE and the text encoders are not of one base model.

    `absent`: names of text encoders that are not there.
    """
    configs = {part: read_json(part / "config.json") for part in (network, vae)}
    for part, component in ((network, family.network), (vae, VAE)):
        kind = configs[part].get("_class_name", component.class_name)
        if kind not in component.class_names:
            raise InputError(f"{part} is a {kind}; a {component.class_name} is expected (model.{component.name})")
    if scaled := next((key for key in ("latents_mean", "latents_std") if configs[vae].get(key) is not None), None):
        raise InputError(f"{vae}: {scaled} is set, as by models that are trained on latents of another scale (EDM); they are not supported")
    towers = tuple(tower for tower in family.text_encoders if tower.name not in absent)
    whole = _Pipeline(network, configs[network], folder, family, towers)
    check, outputs = _CHECKS[family.network.class_name]
    check(whole)
    _check_channels(whole, vae, configs[vae].get("latent_channels", 4), outputs)


def _check_channels(whole: _Pipeline, vae: Path, channels: object, outputs: Sequence[int]) -> None:
    """`outputs`: how many times the latents' channels the network may answer."""
    found = whole.config.get("in_channels", channels)
    if found != channels:
        raise InputError(f"{whole.network}: in_channels={found}, but the VAE in {vae} makes latents of {channels} channels")
    answered = whole.config.get("out_channels") or found
    if not isinstance(answered, int) or answered not in [times * int(str(channels)) for times in outputs]:
        raise InputError(f"{whole.network}: out_channels={answered}, but the VAE in {vae} makes latents of {channels} channels")


def _check_unet(whole: _Pipeline) -> None:
    added = whole.config.get("addition_embed_type")
    if added != whole.family.addition_embed_type:
        owner = next((each.title for each in FAMILIES.values() if each.addition_embed_type == added), "another family")
        raise InputError(
            f"{whole.network} is the UNet of {owner} (addition_embed_type={added!r}), "
            f"but {whole.folder} is a pipeline of {whole.family.title}"
        )
    if (width := whole.config.get("time_cond_proj_dim")) is not None:
        raise InputError(
            f"{whole.network}: time_cond_proj_dim={width}: the UNet is told its guidance, as a distilled one is (LCM), and cannot be "
            "trained here; give the UNet that it was distilled from"
        )
    widths = [whole.said(tower, "hidden_size") for tower in whole.towers]
    if whole.config.get("cross_attention_dim") != sum(width for width in widths if width is not None):
        raise InputError(
            f"{whole.network}: cross_attention_dim={whole.config.get('cross_attention_dim')}, but the text encoders in {whole.places} "
            f"make embeddings of hidden_size={' + '.join(map(str, widths))}: the UNet belongs to another base model"
        )
    if added:
        _check_added(whole)


def _check_added(whole: _Pipeline) -> None:
    """Six sizes and the pooled embedding: SDXL's refiner, with five, is another network."""
    per_size, total = whole.config.get("addition_time_embed_dim"), whole.config.get("projection_class_embeddings_input_dim")
    tower = whole.towers[-1]
    pooled = whole.said(tower, "projection_dim")
    if not (isinstance(per_size, int) and pooled is not None and total == 6 * per_size + pooled):
        raise InputError(
            f"{whole.network}: projection_class_embeddings_input_dim={total!r} is not 6 · addition_time_embed_dim={per_size!r} + "
            f"projection_dim={pooled!r} of {whole.folder / tower.name}: the UNet belongs to another base model "
            "(SDXL's refiner is not supported)"
        )


def _check_joint_transformer(whole: _Pipeline) -> None:
    """T5 as wide as the attention; CLIP's towers beside each other no wider; their pooled embeddings, where both are there, exactly."""
    wide, pooled = (whole.config.get(key) for key in ("joint_attention_dim", "pooled_projection_dim"))
    clip = [tower for tower in whole.towers if tower in whole.family.clip_encoders]
    states = sum(whole.said(tower, "hidden_size") or 0 for tower in clip)
    projected = sum(whole.said(tower, "projection_dim") or 0 for tower in clip)
    t5 = {whole.said(tower, "d_model") for tower in whole.towers if tower not in clip}
    every = len(clip) == len(whole.family.clip_encoders)
    fits = isinstance(wide, int) and isinstance(pooled, int) and states <= wide and t5 <= {wide}
    if not fits or (projected != pooled if every else projected >= int(str(pooled))):
        raise InputError(
            f"{whole.network}: joint_attention_dim={wide} and pooled_projection_dim={pooled}, but the text encoders in {whole.places} "
            f"make embeddings of {states} (CLIP) and {', '.join(map(str, t5)) or 'no'} (T5) features, pooled {projected}: "
            "the transformer belongs to another base model"
        )


def _check_cross_transformer(whole: _Pipeline) -> None:
    if (norm := whole.config.get("norm_type", "ada_norm_single")) != "ada_norm_single":
        raise InputError(f"{whole.network}: norm_type={norm!r} is another transformer's; PixArt's has 'ada_norm_single'")
    wide, made = whole.config.get("caption_channels"), whole.said(whole.towers[0], "d_model")
    if wide != made:
        raise InputError(
            f"{whole.network}: caption_channels={wide}, but the text encoder in {whole.places} makes embeddings of d_model={made}: "
            "the transformer belongs to another base model"
        )


_CHECKS: Mapping[str, tuple[Callable[[_Pipeline], None], Sequence[int]]] = {
    "UNet2DConditionModel": (_check_unet, (1,)),
    "SD3Transformer2DModel": (_check_joint_transformer, (1,)),
    "PixArtTransformer2DModel": (_check_cross_transformer, (1, 2)),
}
"""What each class of network must fit, and how many times the latents' channels it may answer: some answer a variance too."""
