"""Generation is diffusers' own, to the last digits, and a folder of pictures can be believed: seeds, names, records, resumption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from inpo.errors import InputError
from inpo.generation import (
    GenerationConfig,
    ImageRecord,
    count_faults,
    generate,
    generate_images,
    generate_latents,
    initial_latents,
    read_records,
    shots,
    write_png,
)
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from tests.tiny_models import tiny_pixart, tiny_sd3

PROMPTS = ["a red circle", "a blue square on a white background", "a big green triangle"]
CONFIG = GenerationConfig(steps=4, guidance=3.0)
SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpmsolver++": "DPMSolverMultistepScheduler"}
FLOW_SCHEDULERS = dict.fromkeys(("ddim", "euler"), "FlowMatchEulerDiscreteScheduler")


@pytest.fixture
def model(tiny_pipeline: Path) -> Model:
    return load(ModelConfig(str(tiny_pipeline)))


def count_forwards(model: Model) -> list[int]:
    """Batch sizes of every UNet call from now on."""
    sizes: list[int] = []
    model.policy.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def pipeline_latents(folder: Path, scheduler: str, config: GenerationConfig, **settings: object) -> Tensor:
    """What diffusers makes of the same initial latents, by one of its schedulers (never clipped, as ours are not)."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    latents = initial_latents((network.config.in_channels, 8, 8), [shot.seed for shot in shots(PROMPTS, config)])
    settings |= {"guidance_scale": config.guidance, "num_inference_steps": config.steps, "output_type": "latent"}
    return pipeline(PROMPTS, latents=latents, **settings).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "kind", ["tiny_pipeline", "tiny_v_pipeline", "tiny_zero_snr_pipeline", "tiny_sdxl_pipeline", "tiny_sdxl_v_pipeline"]
)
def test_latents_equal_the_diffusers_pipelines(kind: str, scheduler: str, request: pytest.FixtureRequest) -> None:
    """Same initial latents, guidance 3, 10 steps: 1e-4, for SD and SDXL, ε, v and zero terminal SNR, with each scheduler."""
    folder = request.getfixturevalue(kind)
    config = GenerationConfig(steps=10, guidance=3.0, scheduler=scheduler)
    ours = generate_latents(load(ModelConfig(str(folder))), shots(PROMPTS, config), config)
    theirs = pipeline_latents(folder, SCHEDULERS[scheduler], config)
    assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
@pytest.mark.parametrize("without", [(), ("text_encoder_3",)])
def test_latents_equal_stable_diffusion_3s(without: tuple[str, ...], scheduler: str, guidance: float, tmp_path: Path) -> None:
    """A rectified flow with shift 3, with T5 and without: our own sampler and flow matching's Euler, to 1e-4; guidance matters."""
    folder = tiny_sd3(tmp_path, without=without)
    # diffusers wants to be told.
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if without else {}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    config = GenerationConfig(steps=10, guidance=guidance, scheduler=scheduler)
    latents = initial_latents((16, 8, 8), [shot.seed for shot in shots(PROMPTS, config)])
    theirs = pipeline(PROMPTS, latents=latents, guidance_scale=guidance, num_inference_steps=10, output_type="latent").images
    model = load(ModelConfig(str(folder)))
    assert_close(generate_latents(model, shots(PROMPTS, config), config), theirs, atol=1e-4, rtol=0)
    other = generate_latents(model, shots(PROMPTS, config), replace(config, guidance=3.0))
    assert (other - theirs).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("letter", ["Alpha", "Sigma"])
def test_latents_equal_pixarts(letter: str, scheduler: str, guidance: float, tmp_path: Path) -> None:
    """ε of a transformer on PixArt's table, whose α_T of 0.006 makes untrained latents large: to 1e-5 of the largest; guidance matters.

    DDIM on a leading grid: on PixArt's own, diffusers' DDIM steps ⌊T/n⌋ down from each node and so misses the next one, which we take.
    """
    folder = tiny_pixart(tmp_path, letter)
    if scheduler == "ddim":
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "leading"}))
    config = GenerationConfig(steps=10, guidance=guidance, scheduler=scheduler)
    theirs = pipeline_latents(folder, SCHEDULERS[scheduler], config, clean_caption=False, use_resolution_binning=False)
    model = load(ModelConfig(str(folder)))
    assert_close(generate_latents(model, shots(PROMPTS, config), config), theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)
    other = generate_latents(model, shots(PROMPTS, config), replace(config, guidance=3.0))
    assert (other - theirs).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_initial_latents_are_those_of_a_generator_at_the_recorded_seed(model: Model, tiny_pipeline: Path) -> None:
    """A user of diffusers repeats a picture from its line in images.jsonl: generator at `seed`, no latents given."""
    shot = shots(PROMPTS, CONFIG)[1]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    generator = torch.Generator().manual_seed(shot.seed)
    theirs = pipeline(shot.prompt, generator=generator, guidance_scale=3.0, num_inference_steps=4, output_type="latent").images
    assert_close(generate_latents(model, [shot], CONFIG), theirs, atol=1e-4, rtol=0)


def test_guidance_one_costs_one_forward_and_others_one_of_twice_the_batch(model: Model) -> None:
    """The cost of guidance is stated, not assumed."""
    sizes = count_forwards(model)
    generate_latents(model, shots(PROMPTS, CONFIG), replace(CONFIG, guidance=1.0))
    assert sizes == [3] * 4
    generate_latents(model, shots(PROMPTS, CONFIG), CONFIG)
    assert sizes[4:] == [6] * 4


def test_seeds_depend_on_prompt_index_and_sample_index_alone() -> None:
    """Not on the prompt, the number of prompts or samples, the steps, or the batch; the run's seed changes them all."""
    some = {(s.prompt_index, s.sample_index): s.seed for s in shots(PROMPTS, replace(CONFIG, samples=2))}
    other = {(s.prompt_index, s.sample_index): s.seed for s in shots(["x"] * 5, replace(CONFIG, samples=3, steps=9, batch=2))}
    assert len(set(other.values())) == 15
    assert all(other[key] == seed for key, seed in some.items())
    assert not set(some.values()) & {s.seed for s in shots(PROMPTS, replace(CONFIG, seed=1))}


def test_pictures_do_not_depend_on_the_batch_size(model: Model) -> None:
    """One by one or together: the same bytes, up to the rounding of one level."""
    config = replace(CONFIG, samples=2)
    alone, together = (generate_images(model, PROMPTS, replace(config, batch=batch)) for batch in (1, 16))
    assert together.shape == (6, 16, 16, 3)
    assert_close(alone, together, atol=1, rtol=0)
    assert len({picture.numpy().tobytes() for picture in together}) == 6


def test_pictures_may_have_another_size_than_the_models(model: Model) -> None:
    """The side in pixels, as a run's sample pictures have that of its data; one that the VAE cannot make is refused."""
    assert generate_images(model, PROMPTS[:1], replace(CONFIG, resolution=24)).shape == (1, 24, 24, 3)
    with pytest.raises(InputError, match="resolution 25 is not a positive multiple"):
        generate_images(model, PROMPTS[:1], replace(CONFIG, resolution=25))


def test_generation_leaves_the_trainer_its_mode(tiny_pipeline: Path) -> None:
    """Sample grids while training: dropout is off for them, on again afterwards, and no graph is kept."""
    model = load(ModelConfig(str(tiny_pipeline)))
    model.policy.train()
    modes: list[bool] = []
    model.policy.network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    latents = generate_latents(model, shots(PROMPTS, CONFIG), CONFIG)
    assert modes == [False] * 4
    assert model.policy.training
    assert not latents.requires_grad


def test_folder_holds_a_picture_and_a_record_for_each(model: Model, tmp_path: Path) -> None:
    """Names are numbers, hashes are the files', pictures are the ones made in memory, and progress counts to the end."""
    ticks: list[tuple[int, int]] = []
    config = replace(CONFIG, samples=2, batch=4)
    records = generate(model, PROMPTS, tmp_path / "new" / "out", config, progress=lambda done, total: ticks.append((done, total)))
    folder = tmp_path / "new" / "out"
    assert [r.file for r in records] == [f"0000{i}_{j}.png" for i in range(3) for j in range(2)]
    assert [r.prompt for r in records] == [p for p in PROMPTS for _ in range(2)]
    assert all(hashlib.sha256((folder / r.file).read_bytes()).hexdigest() == r.sha256 for r in records)
    assert read_records(folder) == records
    assert sorted(contents(folder)) == sorted([*(r.file for r in records), "generation.json", "images.jsonl"])
    pictures = generate_images(model, PROMPTS, config)
    assert all(np.array_equal(np.asarray(Image.open(folder / r.file)), p) for r, p in zip(records, pictures, strict=True))
    assert ticks == [(4, 6), (6, 6)]


def test_a_repeated_call_changes_nothing_and_samples_nothing(model: Model, tmp_path: Path) -> None:
    """Idempotent: the same bytes in every file, without one forward."""
    generate(model, PROMPTS, tmp_path / "out", CONFIG)
    before, sizes = contents(tmp_path / "out"), count_forwards(model)
    generate(model, PROMPTS, tmp_path / "out", replace(CONFIG, batch=1))
    assert contents(tmp_path / "out") == before
    assert sizes == []


def damage_picture(folder: Path) -> None:
    (folder / "00001_0.png").write_bytes(b"half")


def lose_picture(folder: Path) -> None:
    (folder / "00001_0.png").unlink()


def tear_last_line(folder: Path) -> None:
    records = (folder / "images.jsonl").read_bytes()
    (folder / "images.jsonl").write_bytes(records[:-20])


def leave_unfinished_file(folder: Path) -> None:
    lose_picture(folder)
    (folder / ".00001_0.png.77.partial").write_bytes(b"half")


@pytest.mark.parametrize("fault", [damage_picture, lose_picture, tear_last_line, leave_unfinished_file])
def test_an_interrupted_call_is_completed(model: Model, tmp_path: Path, fault: Callable[[Path], None]) -> None:
    """Only what is missing or damaged is made again, and the folder ends as if nothing had happened."""
    generate(model, PROMPTS, tmp_path / "out", CONFIG)
    whole, sizes = contents(tmp_path / "out"), count_forwards(model)
    fault(tmp_path / "out")
    generate(model, PROMPTS, tmp_path / "out", CONFIG)
    assert sizes == [2] * 4
    again = contents(tmp_path / "out")
    assert again.keys() == whole.keys()
    assert [r.prompt for r in read_records(tmp_path / "out")] == PROMPTS


def test_a_call_interrupted_twice_reads_its_own_records(model: Model, tmp_path: Path) -> None:
    """New lines never continue the half line that the first interruption left."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    generate(model, PROMPTS, tmp_path / "out", CONFIG)
    tear_last_line(tmp_path / "out")
    lose_picture(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, tmp_path / "out", replace(CONFIG, batch=1), progress=interrupt)
    assert [r.prompt_index for r in read_records(tmp_path / "out")] == [0, 1]
    sizes = count_forwards(model)
    assert [r.prompt_index for r in generate(model, PROMPTS, tmp_path / "out", CONFIG)] == [0, 1, 2]
    assert sizes == [2] * 4


def test_more_prompts_and_samples_extend_a_folder(model: Model, tmp_path: Path) -> None:
    """What is there already stays; records end in order."""
    generate(model, PROMPTS[:2], tmp_path / "out", CONFIG)
    sizes = count_forwards(model)
    records = generate(model, PROMPTS, tmp_path / "out", replace(CONFIG, samples=2))
    assert sizes == [8] * 4
    assert read_records(tmp_path / "out") == records
    assert [(r.prompt_index, r.sample_index) for r in records] == [(i, j) for i in range(3) for j in range(2)]


def other_settings(model: Model, folder: Path) -> None:
    generate(model, PROMPTS, folder, replace(CONFIG, guidance=1.0))


def other_prompts(model: Model, folder: Path) -> None:
    generate(model, ["something else", *PROMPTS[1:]], folder, CONFIG)


def more_pictures(model: Model, folder: Path) -> None:
    generate(model, [*PROMPTS, "one more"], folder, CONFIG)


def other_model(model: Model, folder: Path) -> None:
    with torch.no_grad():
        model.policy.network.conv_in.bias.add_(1.0)
    generate(model, PROMPTS, folder, CONFIG)
    with torch.no_grad():
        model.policy.network.conv_in.bias.sub_(1.0)


def holiday_photos(model: Model, folder: Path) -> None:
    folder.mkdir()
    (folder / "beach.jpg").write_bytes(b"mine")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (other_settings, "guidance 1.0 → 3.0"),
        (other_prompts, "another prompt.*something else"),
        (more_pictures, "1 files that this call does not make.*00003_0.png"),
        (other_model, "other settings.*model"),
        (holiday_photos, "beach.jpg"),
    ],
)
def test_a_folder_with_other_content_is_refused_unless_forced(
    model: Model, tmp_path: Path, before: Callable[[Model, Path], None], words: str
) -> None:
    """Refused untouched; forced, our own kind of files is made anew and anything else is left alone."""
    before(model, tmp_path / "out")
    held = contents(tmp_path / "out")
    with pytest.raises(InputError, match=words):
        generate(model, PROMPTS, tmp_path / "out", CONFIG)
    assert contents(tmp_path / "out") == held
    records = generate(model, PROMPTS, tmp_path / "out", CONFIG, force=True)
    assert records == generate(model, PROMPTS, tmp_path / "clean", CONFIG)
    strangers = {"beach.jpg"} & held.keys()
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "clean").keys() | strangers


def test_faults_are_counted_and_nothing_is_dropped(model: Model, tmp_path: Path) -> None:
    """NaN latents and black pictures are written, recorded with what is wrong with them, and counted."""
    with torch.no_grad():
        model.encoder.vae.decoder.conv_out.weight.zero_()
        model.encoder.vae.decoder.conv_out.bias.fill_(-1.0)
    assert count_faults(generate(model, PROMPTS, tmp_path / "black", CONFIG)) == {"black": 3}
    with torch.no_grad():
        model.policy.network.conv_out.bias.fill_(torch.nan)
    records = generate(model, PROMPTS, tmp_path / "nan", CONFIG)
    assert count_faults(records) == {"non-finite": 3}
    assert all((tmp_path / "nan" / r.file).is_file() for r in records)
    assert count_faults(read_records(tmp_path / "nan")) == {"non-finite": 3}


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "<script>alert(1)</script>", "a\nb\u2028c\x00", "🎨" * 400, "-rf", "CON", ""])
def test_prompts_reach_no_file_name_and_come_back_whole(model: Model, tmp_path: Path, prompt: str) -> None:
    """Untrusted text is data: the record returns it, the folder's names are numbers."""
    config = GenerationConfig(steps=1, guidance=1.0)
    generate(model, [prompt], tmp_path / "out", config)
    assert {*contents(tmp_path / "out")} == {"00000_0.png", "images.jsonl", "generation.json"}
    assert [r.prompt for r in read_records(tmp_path / "out")] == [prompt]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"samples": -1}, "samples=-1 must be a whole number of at least 1"),
        ({"batch": 0}, "batch=0 must be"),
        ({"guidance": float("nan")}, "must be a finite number of at least 0"),
        ({"guidance": -1.0}, "must be a finite number of at least 0"),
        ({"scheduler": "dpm-solver++"}, "did you mean 'dpmsolver\\+\\+'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], words: str) -> None:
    """At the entrance, naming the key and the value."""
    with pytest.raises(InputError, match=words):
        GenerationConfig(**settings)


def test_hostile_prompt_lists_and_impossible_steps_are_refused(model: Model, tmp_path: Path) -> None:
    """No prompt, a number, half a character, more steps than times, a file where a folder belongs: one line each."""
    (tmp_path / "file").write_text("")
    for prompts, words in (([], "no prompts"), ([None], "prompt 0 is not text"), (["a", "\ud800"], "prompt 1 is not text")):
        with pytest.raises(InputError, match=words):
            generate(model, prompts, tmp_path / "out", CONFIG)
    for scheduler in ("ddim", "euler", "dpmsolver++"):
        with pytest.raises(InputError, match="steps=1001 does not fit"):
            generate(model, PROMPTS, tmp_path / "out", replace(CONFIG, steps=1001, scheduler=scheduler))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is a file"):
        generate(model, PROMPTS, tmp_path / "file", CONFIG)


def test_records_that_are_none_are_named_with_their_line(tmp_path: Path) -> None:
    """A foreign or edited images.jsonl is refused with file and line."""
    with pytest.raises(InputError, match=r"holds no images\.jsonl"):
        read_records(tmp_path)
    good = json.dumps({"file": "a", "prompt_index": 0, "sample_index": 0, "seed": 1, "prompt": "p", "sha256": "x", "fault": None})
    (tmp_path / "images.jsonl").write_text(f'{good}\n{{"file": 3}}\n')
    with pytest.raises(InputError, match=r"images\.jsonl, line 2"):
        read_records(tmp_path)
    (tmp_path / "images.jsonl").write_text(f"{good}\n")
    assert read_records(tmp_path) == [ImageRecord("a", 0, 0, 1, "p", "x")]


def test_png_returns_the_hash_of_what_it_wrote(tmp_path: Path) -> None:
    """And holds the picture without loss."""
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    digest = write_png(tmp_path / "x.png", picture)
    assert digest == hashlib.sha256((tmp_path / "x.png").read_bytes()).hexdigest()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
