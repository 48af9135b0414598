"""Run folders as the program leaves them, made of nothing: no model, no training. For tests of whatever reads them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter

from inpo.evaluation.scores import SCORES, ScoreRow, write_scores
from inpo.evaluation.summary import FailureCounts, Failures, MethodSummary, Part, SecondScorer, write_summary
from inpo.evaluation.winrate import paired_difference, win_rate

COLOURS = {"red": (206, 45, 45), "green": (44, 150, 84), "blue": (50, 92, 200), "yellow": (232, 190, 48)}
GROUNDS = {"white": (245, 244, 240), "black": (20, 20, 22), "grey": (150, 150, 152)}
SHAPES = ("circle", "square", "triangle")
SKILL = {"base": 0.0, "inpo": 0.9, "diffusion-dpo": 0.7, "base-again": 0.0, "inpo-shuffled": 0.05}
"""How far each model's pictures are from the base's, in standard deviations of the score."""


def prompts(count: int) -> list[str]:
    """Distinct-looking prompts of the world's kind."""
    words = [(s, c, g) for g in GROUNDS for c in COLOURS for s in SHAPES]
    sizes = ("small", "big")
    chosen = (words[i * 7 % len(words)] for i in range(count))
    return [f"a {sizes[i % 2]} {colour} {shape} on a {ground} background" for i, (shape, colour, ground) in enumerate(chosen)]


def picture(prompt: str, quality: float, seed: int, size: int = 32) -> Image.Image:
    """The prompt's shape, blurred and noisy where quality is low."""
    rng = np.random.default_rng(seed)
    words = prompt.split()
    ground = next((GROUNDS[word] for word in words if word in GROUNDS), GROUNDS["white"])
    colour = next((COLOURS[word] for word in words if word in COLOURS), COLOURS["red"])
    image = Image.new("RGB", (size * 4, size * 4), ground)
    x, y = size * 2 + rng.normal(0, size * 0.3 * (1.2 - quality), 2)
    r = size * (1.3 if "big" in words else 0.75)
    draw = ImageDraw.Draw(image)
    if "circle" in words:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif "square" in words:
        draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(size * 0.22 * (1 - quality))).resize((size, size), Image.Resampling.BOX)
    noisy = np.asarray(image, np.float64) + rng.normal(0, 26 * (1 - quality), (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def scores(model: str, count: int) -> np.ndarray:
    """One judge's scores in [0, 1]; a prompt's difficulty is common to all models."""
    rng = np.random.default_rng([sum(map(ord, model)), 1])
    difficulty = np.random.default_rng(0).normal(0, 0.6, count)
    return 1 / (1 + np.exp(-(difficulty + SKILL.get(model, 0.3) + rng.normal(0, 0.8, count))))


def write_images(folder: Path, model: str, texts: Sequence[str], *, seed: int = 0) -> dict[int, str]:
    """A folder of generated pictures; hashes by prompt index."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, hashes = [], {}
    for index, (text, quality) in enumerate(zip(texts, scores(model, len(texts)), strict=True)):
        file = f"{index:05d}_0.png"
        picture(text, float(quality), seed + index).save(folder / file)
        hashes[index] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        entry = {"file": file, "prompt_index": index, "sample_index": 0, "seed": seed + index, "prompt": text, "sha256": hashes[index]}
        lines.append(json.dumps(entry))
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return hashes


def write_training(folder: Path, method: str, *, steps: int = 400) -> None:
    """config.yaml, environment.json, metrics.jsonl, rejected.jsonl, samples/ of one run."""
    folder.mkdir(parents=True, exist_ok=True)
    inversion = {"inversion_steps": 10, "eta": 0.0} if "inpo" in method else {}
    config = {
        "model": {"path": "world:base", "dtype": "fp32"},
        "data": {"path": "world:pairs", "ties": "drop", "prompt_dropout": 0.1, "validation_fraction": 0.02},
        "method": {"name": method, "noising": inversion, "objective": {"beta": 500.0}},
        "optimizer": {"name": "adamw", "lr": 2e-5 if "inpo" in method else 1e-5, "warmup_steps": 20, "clip": 1.0},
        "train": {"steps": steps, "pairs_per_step": 32, "seed": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        "schema": 1, "started": "2026-11-22T10:00:00+00:00", "command": ["/somewhere/bin/inpo", "demo", "--out", "runs/demo", "--force"],
        "python": "3.11.7", "platform": "Linux-x86_64", "packages": {"inpo": "0.1.0", "torch": "2.13.0+cpu", "diffusers": "0.42.1"},
        "git_commit": "0f3c9a1", "cpu": {"machine": "x86_64", "threads": 2}, "gpus": [], "cuda": None,
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics(method, steps)))
    rejected = [{"file": "pairs.parquet", "row": i, "field": "jpg_1", "reason": "truncated JPEG", "value": ""} for i in (12, 40)]
    (folder / "rejected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rejected))
    for step in range(0, steps + 1, max(steps // 4, 1)):
        target = folder / "samples" / f"step-{step:06d}"
        target.mkdir(parents=True)
        for place, text in enumerate(prompts(4)):
            picture(text, 0.3 + 0.6 * step / max(steps, 1), place).save(target / f"{place:02d}.png")
    (folder / "samples" / "prompts.json").write_text(json.dumps({"schema": 1, "seed": 0, "prompts": prompts(4)}))


def metrics(method: str, steps: int) -> list[dict[str, object]]:
    """A run that learns, with the noise of small batches, by step and by bucket."""
    rng = np.random.default_rng([sum(map(ord, method)), steps])
    learns = 0.0 if "shuffled" in method else 1.0 if "inpo" in method else 0.8
    lines = []
    for step in range(1, steps + 1):
        progress = learns * (1 - math.exp(-3 * step / steps))
        margin = 0.35 * progress + rng.normal(0, 0.12)
        accuracy = min(1.0, max(0.0, 0.5 + 0.17 * progress + rng.normal(0, 0.08)))
        by_bucket = {
            str(k): {
                "loss": 0.693 - 0.03 * k / 10 * progress, "implicit_accuracy": 0.5 + 0.2 * k / 10 * progress,
                "margin": 0.4 * k / 10 * progress, "win_error": 0.05 + 0.2 / k, "lose_error": 0.06 + 0.2 / k,
                "tau_rms_win": 0.2 + 0.07 * k, "tau_rms_lose": 0.22 + 0.07 * k,
            }
            for k in range(1, 11)
        }  # fmt: skip
        lines.append({
            "step": step, "loss": 0.693 - 0.45 * margin / 2, "implicit_accuracy": accuracy, "margin": margin,
            "win_error": 0.11 - 0.002 * progress + rng.normal(0, 0.004), "lose_error": 0.12 + 0.001 * progress + rng.normal(0, 0.004),
            "ref_win_error": 0.11 + rng.normal(0, 0.0002), "ref_lose_error": 0.12 + rng.normal(0, 0.0002),
            "tau_rms_win": 0.61 + rng.normal(0, 0.02), "tau_rms_lose": 0.64 + rng.normal(0, 0.02), "grad_norm": abs(rng.normal(0.4, 0.1)),
            "lr": 2e-5 * min(1, step / 20), "pairs_per_second": 38 + rng.normal(0, 1), "unet_forwards_per_pair": 15.0,
            "peak_memory_bytes": 812_000_000, "by_bucket": by_bucket,
        })  # fmt: skip
        if step % max(1, steps // 8) == 0:
            lines[-1]["validation"] = held_out(progress)
    return [{"step": 0, "validation": held_out(0.0)}, *lines]


def held_out(progress: float) -> dict[str, object]:
    """One look at 64 pairs."""
    means = {
        "loss": 0.693 - 0.06 * progress, "implicit_accuracy": 0.5 + 0.15 * progress, "margin": 0.3 * progress,
        "win_drift": 0.002 * progress, "lose_drift": 0.005 * progress,
    }  # fmt: skip
    interval = {"implicit_accuracy_low": means["implicit_accuracy"] - 0.12, "implicit_accuracy_high": means["implicit_accuracy"] + 0.12}
    return {"n": 64, **means, **interval, "by_bucket": {str(k): {"pairs": 6, **means} for k in range(1, 11)}}


def method_entry(model: str, baseline: str, count: int) -> MethodSummary:
    """What an evaluation of these scores says."""
    ours, theirs = scores(model, count), scores(baseline, count)
    result = {key: value for key, value in asdict(win_rate(ours, theirs, resamples=2000)).items() if key != "excluded"}
    rng = np.random.default_rng(5)
    parts = {}
    for place, name in enumerate(("shape", "colour", "relation", "composition", "sharpness", "contrast")):
        gain = paired_difference(0.2 * (ours - theirs) * (place + 1) / 3 + rng.normal(0, 0.1, count), np.zeros(count), resamples=2000)
        parts[name] = Part(gain.gain, gain.low, gain.high, gain.n)
    other = win_rate(ours + rng.normal(0, 0.3, count), theirs + rng.normal(0, 0.3, count), resamples=2000)
    training = {"steps": 400, "beta": 500.0, "lr": 2e-5, "seeds": (0,), "seconds": 171.5}
    speed = {"pairs_per_second": 38.2, "unet_forwards_per_pair": 15.0}
    return MethodSummary(
        **({} if model == "base-again" else training | speed),
        **result,
        scorer="oracle",
        parts=parts,
        second_scorer=SecondScorer("pickscore", other.win_rate, other.low, other.high),
        failures=FailureCounts(Failures(), Failures(), 0),
    )


def score_rows(model: str, texts: Sequence[str], hashes: dict[int, str]) -> list[ScoreRow]:
    """One row a picture."""
    values = enumerate(scores(model, len(texts)).tolist())
    return [ScoreRow(i, 0, i, model, "oracle", value, '{"scorer": "oracle"}', hashes[i], texts[i]) for i, value in values]


def write_demo(root: Path, *, texts: Sequence[str] | None = None, null: bool = True, steps: int = 400) -> Path:
    """A whole demo folder: a run for each method, pictures and scores at the top, summary.json."""
    texts = list(texts) if texts is not None else prompts(192)
    trained = ["inpo", "diffusion-dpo"] + (["inpo-shuffled"] if null else [])
    methods = trained + (["base-again"] if null else [])
    (root / "base").mkdir(parents=True)
    (root / "base" / "config.yaml").write_text("model:\n  path: world\n")
    for method in trained:
        write_training(root / method, method, steps=steps)
    rows = []
    for model in ["base", *methods]:
        hashes = write_images(root / "evaluation" / model, model, texts)
        rows += score_rows(model, texts, hashes)
    write_scores(root / SCORES, rows)
    write_summary(root / "summary.json", kind="demo", baseline="base", methods={m: method_entry(m, "base", len(texts)) for m in methods})
    return root
