"""A whole build in seconds: the stages fit together and write what others load. How good a real one is, its log says."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from inpo import world
from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from inpo.evaluation.rewards.pickscore import PickScore
from inpo.world import shapes
from inpo.world.build import BuildSettings, build
from inpo.world.oracle import correct
from inpo.world.pack import BASE, RENDERER, Packing
from inpo.world.pairs import WorldPairs
from inpo.world.scorer import ScorerTraining, contrast
from inpo.world.shapes import everything
from inpo.world.tokenizer import MAX_TOKENS, make_tokenizer
from inpo.world.unet import UnetTraining, load_denoising, make_unet, sample
from inpo.world.vae import VaeTraining, cosine, draw_pictures, to_pictures, to_tensor

QUICK = BuildSettings(
    vae=VaeTraining(steps=3, batch=4),
    unet=UnetTraining(steps=3, horizon=6, batch=4, pool=16, save_every=2),
    scorer=ScorerTraining(steps=2, batch=4),
    packing=Packing(sampled=3, rendered=3, steps=2, batch=2),
    judged=4,
    judged_steps=2,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    build(out, QUICK)
    return out


def test_a_build_writes_every_asset_and_its_hash(built: Path) -> None:
    """hashes.json lists the files of the build, no scratch, with their sha256; the log names seeds, times and floors."""
    hashes = json.loads((built / "hashes.json").read_text())
    assert {name.split("/")[0] for name in hashes} == {"pipeline", "scorer", "pairs.parquet", "build.log"}
    assert all(hashlib.sha256((built / name).read_bytes()).hexdigest() == value for name, value in hashes.items())
    log = (built / "build.log").read_text()
    assert all(text in log for text in ("seed", "stage unet took", "floor: two items", "measured: vae mse"))


def test_diffusers_loads_the_pipeline_in_fp32(built: Path) -> None:
    """`from_pretrained` without any option gives an fp32 pipeline that makes 32×32 pictures, from safetensors alone."""
    pipeline = StableDiffusionPipeline.from_pretrained(built / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert {next(part.parameters()).dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    assert pipeline.safety_checker is None
    assert pipeline(everything()[0].caption, num_inference_steps=2).images[0].size == (32, 32)
    assert not list((built / "pipeline").rglob("*.bin"))


def test_the_scorer_folder_is_in_pickscores_format(built: Path) -> None:
    """The general loader reads it, and it tells pictures from one another."""
    pictures, captions = draw_pictures(np.random.default_rng(0), 4)
    scores = PickScore(built / "scorer").score([torch.from_numpy(picture) for picture in pictures], captions)
    assert scores.shape == (4,)
    assert len(set(scores.tolist())) == 4


def test_the_packaged_pairs_are_valid_and_of_both_kinds(built: Path) -> None:
    """The general reader finds nothing wrong with them; base and renderer both contribute; the endless source continues them."""
    pairs = ParquetPairs.open(DataConfig(str(built / "pairs.parquet"), ties="half"))
    assert pairs.size == 6
    endless = WorldPairs(packaged=built / "pairs.parquet")
    assert endless[0].id in {pairs[i].id for i in range(6)}
    import pyarrow.parquet as pq

    assert set(pq.read_table(built / "pairs.parquet").column("model_0").to_pylist()) == {BASE, RENDERER}


def test_the_packaged_assets_are_the_ones_of_their_build() -> None:
    """The files in the package have the hashes that their build wrote, and its log says that the floors were reached."""
    hashes = json.loads((world.assets() / "hashes.json").read_text())
    assert {hashlib.sha256((world.assets() / name).read_bytes()).hexdigest() == value for name, value in hashes.items()} == {True}
    floors = re.findall(r"floor: .* right ([\d.]+), to reach ([\d.]+)", (world.assets() / "build.log").read_text())
    assert len(floors) == 2
    assert all(float(reached) >= float(floor) for reached, floor in floors)


def test_the_packaged_base_follows_its_prompts() -> None:
    """Most of its samples are right in every attribute, which a broken or swapped file would not leave true."""
    model, vae = load_denoising(world.pipeline_path())
    prompts = list(shapes.prompts("validation")[:24])
    pictures = sample(model, vae, prompts, steps=10, seed=1)
    assert np.mean([correct(*pair) for pair in zip(pictures, prompts, strict=True)]) >= 0.7


def test_a_finished_build_is_not_overwritten(built: Path) -> None:
    """A folder that holds a build is refused."""
    with pytest.raises(InputError, match="finished build"):
        build(built, QUICK)


def test_stages_that_are_there_are_not_made_again(built: Path, tmp_path: Path) -> None:
    """With the VAE, the pipeline and the scorer of an earlier build in place, none is trained."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "vae").symlink_to(built / "scratch" / "vae")
    (tmp_path / "pipeline").symlink_to(built / "pipeline")
    (tmp_path / "scorer").symlink_to(built / "scorer")
    endless = 10**9
    never = replace(QUICK, vae=VaeTraining(steps=endless), unet=UnetTraining(steps=endless), scorer=ScorerTraining(steps=endless))
    assert build(tmp_path, never)["vae mse"] > 0


def test_a_stage_that_died_while_saving_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed save left behind is no stage: the next build makes that stage anew, and leaves nothing partial."""

    def dies(folder: Path, _model: object) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("inpo.world.build.save_scorer", dies)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, QUICK)
    assert not (tmp_path / "scorer").exists()
    build(tmp_path, QUICK)
    assert not list(tmp_path.rglob("*.partial"))


def test_every_word_of_the_world_is_one_token() -> None:
    """Captions fit with their start and end, and other text splits into pieces that are known."""
    tokenizer = make_tokenizer()
    for scene in everything()[::11]:
        tokens = tokenizer.tokenize(scene.caption)
        assert len(tokens) == len(scene.caption.split())
        assert len(tokens) + 2 <= MAX_TOKENS
    assert tokenizer.unk_token_id not in tokenizer("a zebra über Ω", add_special_tokens=False).input_ids


def test_the_unet_keeps_to_its_budget() -> None:
    """At most 2.5 M parameters, so that it trains on a laptop."""
    assert sum(parameter.numel() for parameter in make_unet().parameters()) <= 2_500_000


def test_pictures_survive_the_trip_through_tensors() -> None:
    """uint8 to [−1, 1] and back is the identity."""
    pictures, captions = draw_pictures(np.random.default_rng(0), 6)
    assert all((a == b).all() for a, b in zip(pictures, to_pictures(to_tensor(pictures)), strict=True))
    assert len(captions) == 6


def test_the_learning_rate_rises_and_falls() -> None:
    """Warm-up is linear and the end nearly 0."""
    factor = cosine(1000, 100)
    assert [factor(0), factor(49)] == [0.01, 0.5]
    assert factor(1000) < 0.002 < factor(500) < factor(100)


def test_a_caption_that_happens_to_be_right_is_no_negative() -> None:
    """Two pictures of one caption do not push each other away: with it masked, a perfect similarity has no loss."""
    similarity = torch.tensor([[50.0, 50.0, 0.0, 0.0], [50.0, 50.0, 0.0, 0.0]])
    assert contrast(similarity, ["same", "same"], ["other", "else"]).item() == pytest.approx(0, abs=1e-6)
    assert contrast(similarity, ["one", "two"], ["other", "else"]).item() == pytest.approx(np.log(2), abs=1e-3)


def test_the_worlds_paths_are_in_its_package() -> None:
    """Assets are found beside the code, wherever it is installed."""
    assert {path.parent for path in (world.pipeline_path(), world.scorer_path(), world.pairs_path())} == {world.assets()}
    assert world.assets().parent == Path(world.__file__).parent
