"""Which sizes of pictures a network takes, from its settings alone."""

from __future__ import annotations

from collections.abc import Mapping

from inpo.errors import InputError


def latent_side(settings: Mapping[str, object]) -> int:
    """The side of the latents that a network was made for; `settings`: its config.json."""
    size = settings["sample_size"]
    return int(str(size[0] if isinstance(size, list | tuple) else size))


def check_side(pixels: int, settings: Mapping[str, object], *, pixels_per_latent: int) -> None:
    """Raises `InputError` for a side that the VAE cannot halve often enough, or a transformer cannot cut into patches it has places for."""
    patch = int(str(settings.get("patch_size") or 1))
    step = pixels_per_latent * patch
    if pixels % step or pixels < step:
        cut = f" and its network cuts the rest into patches of {patch}" if patch > 1 else ""
        raise InputError(f"resolution {pixels} is not a positive multiple of {step}: this VAE shrinks pictures by {pixels_per_latent}{cut}")
    places = settings.get("pos_embed_max_size")
    if isinstance(places, int) and pixels > places * step:
        raise InputError(f"resolution {pixels} is more than {places * step}, the largest that this network has places for")
