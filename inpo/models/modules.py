"""One component's folder to a network: complete, in one precision, and without a word from the libraries that read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn

from inpo.errors import InputError
from inpo.models.families import Component
from inpo.models.folders import weights_variant


def load_module(component: Component, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A component in `dtype`, complete: a weight that the files lack would otherwise be random without a word."""
    import diffusers
    import transformers

    library = transformers if component.library == "transformers" else diffusers
    variant = weights_variant(folder, component.weights)
    maker = getattr(library, component.class_name)
    try:
        with _quiet():
            module, found = maker.from_pretrained(
                folder, use_safetensors=True, variant=variant, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{folder} cannot be loaded as a {component.class_name}: {in_one_line(error)}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of its {component.class_name}'s weights, the first is {missing[0]!r}; copy or download it again"
        )
    # diffusers warns of `to(dtype)` whatever the dtype.
    return cast(nn.Module, module.float() if dtype == torch.float32 else module.to(dtype))


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for files read in a second, and no warnings about what this module reports as errors."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both = (of_diffusers, of_transformers)
    before = [library.get_verbosity() for library in both]
    bars = of_transformers.is_progress_bar_enabled()
    for library in both:
        library.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(both, before, strict=True):
            library.set_verbosity(verbosity)
        if bars:
            of_transformers.enable_progress_bar()


def in_one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
