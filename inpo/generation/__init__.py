"""Prompts to pictures, in memory (`sampling`) or in a folder that can be resumed (`folder`)."""

from inpo.generation.folder import ImageRecord, count_faults, generate, read_records, write_png
from inpo.generation.grid import SampleGrid
from inpo.generation.sampling import (
    Controlled,
    GenerationConfig,
    GenerativeModel,
    Shot,
    check_scheduler,
    check_steps,
    generate_images,
    generate_latents,
    initial_latents,
    shots,
)

__all__ = [
    "Controlled",
    "GenerationConfig",
    "GenerativeModel",
    "ImageRecord",
    "SampleGrid",
    "Shot",
    "check_scheduler",
    "check_steps",
    "count_faults",
    "generate",
    "generate_images",
    "generate_latents",
    "initial_latents",
    "read_records",
    "shots",
    "write_png",
]
