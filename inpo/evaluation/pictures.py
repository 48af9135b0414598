"""The pictures to be scored: a folder of `inpo generate`, or any folder of pictures and a file that says their prompts. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from inpo.errors import InputError
from inpo.evaluation.images import INDEX, GeneratedImage, read_images
from inpo.files import file_sha256

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Prompts = Sequence[str] | Mapping[str, str]
"""One for each picture in the order of their names, or a single one for all; or a prompt by file name."""


def pictures_in(folder: Path, prompts: Prompts | None) -> tuple[GeneratedImage, ...]:
    """What is to be scored in `folder`, by (prompt, sample). Raises `InputError` where pictures and prompts do not go together.

    Where `inpo generate` made the pictures, images.jsonl says prompts and places, and `prompts` need not. Elsewhere pictures of one
    prompt are its samples, in the order of their names; prompts count in the order in which they first appear, and the seed is 0.
    """
    if not folder.is_dir():
        raise InputError(f"--images {folder}: there is no such folder")
    if (folder / INDEX).is_file():
        listed = read_images(folder)
        _check_same_prompts(folder, listed, prompts)
        return listed
    return _listed(folder, _by_file(folder, prompts))


def _check_same_prompts(folder: Path, listed: Sequence[GeneratedImage], prompts: Prompts | None) -> None:
    for image in listed if prompts is not None else ():
        if isinstance(prompts, Mapping):
            given = prompts.get(image.file)
        else:
            given = prompts[image.prompt_index] if prompts and image.prompt_index < len(prompts) else None
        if given != image.prompt:
            found = "none" if given is None else repr(given)
            raise InputError(
                f"--images {folder}: {INDEX} says that {image.file} was made for {image.prompt!r}, and the prompts given say {found}: "
                "leave them out"
            )


def _by_file(folder: Path, prompts: Prompts | None) -> Mapping[str, str]:
    """Each picture's prompt, in the order of the pictures' names."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not names:
        raise InputError(f"--images {folder}: no picture in it; pictures end in {', '.join(SUFFIXES)}")
    if not prompts:
        raise InputError(f"--images {folder}: there is no {INDEX} in it, so the prompts must be given: --prompts FILE, or --prompt TEXT")
    if isinstance(prompts, Mapping):
        absent = sorted(set(prompts) - set(names))
        if absent:
            raise InputError(f"--images {folder}: the prompts name {absent[0]!r}, and no such picture is in it ({len(absent)} such names)")
        return {name: prompts[name] for name in names if name in prompts}
    if len(prompts) not in (1, len(names)):
        raise InputError(
            f"--images {folder}: {len(names)} pictures ({names[0]} … {names[-1]}) and {len(prompts)} prompts; give one prompt for each "
            "picture in the order of their names, one for all, or a CSV or JSONL file with 'file' and 'prompt'"
        )
    return dict(zip(names, prompts if len(prompts) > 1 else list(prompts) * len(names), strict=True))


def _listed(folder: Path, prompt_of: Mapping[str, str]) -> tuple[GeneratedImage, ...]:
    places = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompt_of.values()))}
    samples: Counter[str] = Counter()
    images = []
    for name, prompt in prompt_of.items():
        images.append(GeneratedImage(name, places[prompt], samples[prompt], 0, prompt, file_sha256(folder / name)))
        samples[prompt] += 1
    return tuple(sorted(images, key=lambda image: image.key))
