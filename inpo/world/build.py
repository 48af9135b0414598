"""`inpo world build`: everything that the world's assets hold, made from fixed seeds."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel

from inpo.errors import InputError
from inpo.world.oracle import WEIGHTS, correct, parts, score
from inpo.world.pack import Packing, write_pairs
from inpo.world.scorer import ScorerTraining, save_scorer, scorer_accuracy, train_scorer
from inpo.world.shapes import parse, prompts, render
from inpo.world.unet import Denoising, UnetTraining, load_denoising, sample, save_pipeline, train_unet
from inpo.world.vae import VaeTraining, decode, encode, train_vae, vae_error

log = logging.getLogger(__name__)

# What a build has to reach: how often samples on training prompts are right in every attribute, for one item and for two.
FLOORS = {"one item": 0.9, "two items": 0.7}


@dataclass(frozen=True)
class BuildSettings:
    """Every number of a build. `judged`: prompts on which the base is judged, in `judged_steps` DDIM steps.

    VAE and scorer are judged on twice as many pictures.
    """

    vae: VaeTraining = field(default_factory=VaeTraining)
    unet: UnetTraining = field(default_factory=UnetTraining)
    scorer: ScorerTraining = field(default_factory=ScorerTraining)
    packing: Packing = field(default_factory=Packing)
    judged: int = 256
    judged_steps: int = 20


def build(out: Path, settings: BuildSettings | None = None) -> dict[str, float]:
    """Makes pipeline, scorer and pairs in `out`, with build.log and hashes.json, and returns what was measured.

    Each stage's result is kept (`out/scratch` has the VAE and the UNet on its way): a stage that is there is not made again.
    Raises `InputError` where `out` holds a finished build.
    """
    if (out / "hashes.json").exists():
        raise InputError(f"{out}: holds a finished build; choose another --out")
    settings = settings or BuildSettings()
    (out / "scratch").mkdir(parents=True, exist_ok=True)
    with _logged(out / "build.log"):
        log.info("machine: %s, %d threads, torch %s", platform.platform(), torch.get_num_threads(), torch.__version__)
        log.info("settings: %s", json.dumps(asdict(settings)))
        facts = _stages(out, settings)
        for name, value in facts.items():
            log.info("measured: %s = %.4f", name, value)
    _write_hashes(out)
    return facts


def _stages(out: Path, settings: BuildSettings) -> dict[str, float]:
    vae = _vae_stage(out / "scratch" / "vae", settings.vae)
    _unet_stage(out, settings.unet, vae)
    model, vae = load_denoising(out / "pipeline")
    facts = {"vae mse": vae_error(vae, 2 * settings.judged, 5), **judge_vae(vae, settings.judged), **judge_base(model, vae, settings)}
    for name, floor in FLOORS.items():
        log.info("floor: %s right %.3f, to reach %.2f", name, facts[f"base right, {name}"], floor)
    facts |= _scorer_stage(out / "scorer", settings)
    with _timed("pairs"):
        facts |= write_pairs(out / "pairs.parquet", settings.packing, model, vae)
    return facts


def _vae_stage(folder: Path, how: VaeTraining) -> AutoencoderKL:
    if not folder.is_dir():
        with _timed("vae"), _whole(folder) as partial:
            train_vae(how).save_pretrained(partial)
    vae = AutoencoderKL.from_pretrained(folder).eval()
    # The pipeline's config would name this folder for ever.
    vae.register_to_config(_name_or_path="")
    return vae


def _unet_stage(out: Path, how: UnetTraining, vae: AutoencoderKL) -> None:
    if (out / "pipeline").is_dir():
        return
    with _timed("unet"):
        model = train_unet(how, vae, lambda step, average: save_pipeline(out / "scratch" / f"step-{step:05d}", vae, average))
        with _whole(out / "pipeline") as partial:
            save_pipeline(partial, vae, model)


def _scorer_stage(folder: Path, settings: BuildSettings) -> dict[str, float]:
    if not folder.is_dir():
        with _timed("scorer"), _whole(folder) as partial:
            save_scorer(partial, train_scorer(settings.scorer))
    scorer = CLIPModel.from_pretrained(folder).eval()
    return {"scorer accuracy against one wrong attribute": scorer_accuracy(scorer, 2 * settings.judged, 6)}


def judge_vae(vae: AutoencoderKL, count: int) -> dict[str, float]:
    """How often the oracle finds clean renders right before and after the VAE, and the mean scores."""
    captions, rng = prompts("train")[:count], np.random.default_rng(7)
    clean = [render(parse(caption), rng) for caption in captions]
    again = decode(vae, encode(vae, clean)[0])
    facts = {}
    for name, pictures in (("clean renders", clean), ("reconstructions", again)):
        both = list(zip(pictures, captions, strict=True))
        facts[f"{name} right"] = float(np.mean([correct(*pair) for pair in both]))
        facts[f"{name} score"] = float(np.mean([score(*pair) for pair in both]))
    return facts


def judge_base(model: Denoising, vae: AutoencoderKL, settings: BuildSettings) -> dict[str, float]:
    """What the oracle says of the base's samples of training prompts at the world's guidance."""
    captions = list(prompts("train")[: settings.judged])
    pictures = sample(model, vae, captions, steps=settings.judged_steps, seed=0)
    both = list(zip(pictures, captions, strict=True))
    rows = [parts(*pair) for pair in both]
    facts = {f"base {part}": float(np.mean([row[part] for row in rows])) for part in WEIGHTS}
    facts["base score"] = float(np.mean([score(*pair) for pair in both]))
    for name, two in (("one item", False), ("two items", True)):
        facts[f"base right, {name}"] = float(np.mean([correct(*pair) for pair in both if bool(parse(pair[1]).relation) == two]))
    return facts


def _write_hashes(out: Path) -> None:
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    kept = [name for name in files if not name.startswith("scratch/") and name != "hashes.json"]
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in kept}
    (out / "hashes.json").write_text(json.dumps(hashes, indent=1) + "\n")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name when it is complete: a stage that was killed while saving is made again."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(folder)


@contextmanager
def _timed(stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    log.info("stage %s took %.0f s", stage, time.monotonic() - start)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Writes what this package logs to a file and to the terminal."""
    logger = logging.getLogger("inpo")
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    before = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
