"""`implicit:RUN`: a finished run of any form becomes a judge whose numbers are those of its two networks, asked one by one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from inpo import compose
from inpo.aligned import AlignedRun, ImplicitConfig
from inpo.config import load_experiment
from inpo.data.transform import CENTER, show
from inpo.errors import InputError
from inpo.models.adapted import AdaptedModel
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.noising import Forward, Inversion
from inpo.points import Denoising
from inpo.randomness import PairNoise, seed_for
from inpo.types import Condition, PairBatch
from inpo.verbs import alignment
from tests.end_to_end.conftest import small
from tests.unit.data import making

LORA = ("lora.rank=2", "lora.alpha=3")
Trained = Callable[..., Path]
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", [making.row(i) for i in range(12)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path, pairs: Path) -> Trained:
    """A run of two large steps with these settings, made once."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*settings: str, model: Path = tiny_pipeline, recipe: str = "sd15-inpo", method: str = "inpo") -> Path:
        key = (str(model), recipe, method, *settings)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            changes = small(model, pairs, method, "optimizer.lr=0.01", *settings)
            alignment.train(load_experiment(recipe, changes), made[key])
        return made[key]

    return train


def picture(seed: int, width: int = 16, height: int = 16) -> Tensor:
    return torch.from_numpy(making.noise_picture(seed, width, height))


VP = tuple(50.0 + 100 * i for i in range(10))


def by_hand(base: Path, run: Path, image: Tensor, told: dict[str, Tensor] | None = None, *, times: Sequence[float] = VP) -> Tensor:
    """R − L at each time: base and result loaded as two models, each time inverted by the result alone."""
    reference, policy = load(ModelConfig(str(base))), load(ModelConfig(str(run)))
    x_0 = policy.encoder.encode_images(show(Image.fromarray(image.numpy()), CENTER, 16)[None]).mean
    condition = Condition({**policy.encoder.encode_prompts([PROMPT]).tensors, **(told or {})})
    gains = []
    with torch.no_grad():
        for i, time in enumerate(times):
            single, t = PairBatch(x_0, None, condition, torch.ones(1), ("",)), torch.tensor([time if times is not VP else int(time)])
            noise = PairNoise(seed_for("implicit reward"), 0, (i,))
            point = Inversion()(policy.policy, single, t, noise, lose=False, batch_pairs=1).win
            asked = [model.policy(point.x_t, t, condition) for model in (policy, reference)]
            gains.append(Denoising(point.target, *asked).gain)
    return torch.cat(gains)


@pytest.mark.parametrize(
    "settings",
    [(), (*LORA, "output.format=pipeline"), (*LORA, "output.format=lora"), (*LORA, "output.format=lora", "lora.dora=true")],
)
def test_the_reward_is_that_of_base_and_result(settings: tuple[str, ...], trained: Trained, tiny_pipeline: Path) -> None:
    """Whatever form the result has: a pipeline, merged adapters, or adapters alone, whose scale is then counted once."""
    run, images = trained(*settings), [picture(0), picture(1, 20, 16)]
    judge = compose.scorer(f"implicit:{run}")
    found = judge.by_time(images, [PROMPT] * 2)
    expected = torch.stack([by_hand(tiny_pipeline, run, image) for image in images])
    assert expected.abs().min() > 1e-6
    assert torch.allclose(found.float(), expected, rtol=0, atol=3e-6 * float(expected.abs().max()) + 2e-7)
    assert torch.equal(judge.score(images, [PROMPT] * 2), found.mean(1).float())


@pytest.mark.parametrize("settings", [(), (*LORA, "output.format=lora")])
def test_networks_that_are_no_unet_and_flows_are_judges_too(settings: tuple[str, ...], trained: Trained, tiny_sd3_pipeline: Path) -> None:
    """SD3: a transformer, rectified flow, times in (0, 1]."""
    run, image = trained(*settings, model=tiny_sd3_pipeline, recipe="sd3-inpo"), picture(0)
    judge = compose.scorer(f"implicit:{run}")
    found, expected = judge.by_time([image], [PROMPT])[0], by_hand(tiny_sd3_pipeline, run, image, times=judge.t)
    assert judge.t == pytest.approx([0.05 + 0.1 * i for i in range(10)])
    assert expected.abs().max() > 1e-6
    assert torch.allclose(found.float(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()) + 1e-6)


def test_a_run_that_saved_its_unet_alone_will_do(trained: Trained) -> None:
    """The rest of the pipeline is the base's, so the numbers are those of the whole pipeline's run."""
    whole, unet = (compose.scorer(f"implicit:{trained(f'output.format={form}')}") for form in ("pipeline", "unet"))
    assert torch.equal(whole.by_time([picture(0)], [PROMPT]), unet.by_time([picture(0)], [PROMPT]))
    assert whole.spec == unet.spec


def test_adapters_need_no_second_network(trained: Trained) -> None:
    """The reference is the policy's own module with its adapters off."""
    run = AlignedRun.read(trained(*LORA, "output.format=lora"))
    networks = run.networks(compose.load)
    assert isinstance(networks.model, AdaptedModel)
    assert networks.reference._policy is networks.model.policy


def test_sdxl_is_told_each_pictures_own_size_where_the_run_was(trained: Trained, tiny_sdxl_pipeline: Path) -> None:
    """data.sizes=original: height and width before the crop, the crop's edges in the resized picture; else one constant."""
    image, how = picture(3, 40, 20), {"model": tiny_sdxl_pipeline, "recipe": "sdxl-inpo"}
    adamw = "optimizer.name=adamw"
    run = trained(adamw, "data.sizes=original", **how)
    told = {"time_ids": torch.tensor([[20.0, 40.0, 0.0, 8.0, 16.0, 16.0]])}
    found = compose.scorer(f"implicit:{run}").by_time([image], [PROMPT])[0]
    expected = by_hand(tiny_sdxl_pipeline, run, image, told)
    assert torch.allclose(found.float(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    constant = compose.scorer(f"implicit:{trained(adamw, **how)}").by_time([image], [PROMPT])[0]
    assert torch.allclose(constant.float(), by_hand(tiny_sdxl_pipeline, trained(adamw, **how), image), rtol=0, atol=1e-5)


def test_a_score_is_of_its_picture_alone(trained: Trained) -> None:
    """Bit for bit the same by itself, among others, and in another order; another prompt is another score."""
    judge = compose.scorer(f"implicit:{trained()}")
    images, prompts = [picture(i, 16 + 4 * i) for i in range(4)], ["a red circle", "a blue square", "a red circle", "a photo"]
    together = judge.by_time(images, prompts)
    alone = torch.cat([judge.by_time([image], [prompt]) for image, prompt in zip(images, prompts, strict=True)])
    assert torch.equal(together, alone)
    assert torch.equal(judge.by_time(images[::-1], prompts[::-1]).flip(0), together)
    assert not torch.equal(judge.by_time(images[:1], ["a photo"]), together[:1])
    assert judge.by_time([], []).shape == (0, 10)


def test_parts_are_tenths_of_the_path(trained: Trained) -> None:
    """20 times in ten parts of two; three times in three. The parts' mean is the score."""
    run, images = trained(), [picture(0), picture(1)]
    for times, parts in ((20, 10), (3, 3)):
        judge = compose.scorer(f"implicit:{run}?times={times}")
        score, by_part = judge.score_with_parts(images, [PROMPT] * 2)
        assert list(by_part) == [f"k={k}" for k in range(1, parts + 1)]
        table = judge.by_time(images, [PROMPT] * 2)
        assert torch.allclose(by_part["k=1"], table[:, : times // parts].mean(1).float())
        assert torch.allclose(torch.stack(list(by_part.values())).mean(0), score, rtol=1e-5, atol=1e-9)
        assert torch.equal(score, judge.score(images, [PROMPT] * 2))


def test_the_runs_own_noising_is_the_default_and_another_may_be_asked_for(trained: Trained) -> None:
    """Forward noise for Diffusion-DPO, the run's inversion for InPO, `Inversion()` or `Forward()` where the option says so."""
    dpo, inpo = AlignedRun.read(trained(method="diffusion-dpo")), AlignedRun.read(trained("method.noising.inversion_steps=4"))
    assert [run.noising("run") for run in (dpo, inpo)] == [Forward(), Inversion(inversion_steps=4)]
    assert [dpo.noising("inversion"), inpo.noising("forward")] == [Inversion(), Forward()]
    own, other = (compose.scorer(f"implicit:{inpo.folder}{options}") for options in ("", "?noising=forward&batch=3"))
    assert own.spec["noising"] == {"kind": "Inversion", **Inversion(inversion_steps=4).__dict__}
    assert other.spec["noising"] == {"kind": "Forward", **Forward().__dict__}
    assert not torch.equal(own.score([picture(0)], [PROMPT]), other.score([picture(0)], [PROMPT]))


def test_the_spec_says_what_the_numbers_depend_on(trained: Trained) -> None:
    """Hashes of both networks, so that a run may move; the batch changes no number and is not in it."""
    run = trained()
    spec = compose.scorer(f"implicit:{run}").spec
    assert spec == compose.scorer(f"implicit:{run}?batch=2").spec
    assert spec["policy"] != spec["reference"]
    assert (spec["times"], spec["resolution"], spec["dtype"]) == (10, 16, "fp32")
    assert compose.scorer(f"implicit:{run}?times=4").spec != spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("time=20", r"'time' is not an option of implicit:RUN \(did you mean 'times'\?\); known: times, noising, batch"),
        ("times=many", "times='many' must be a whole number of at least 1"),
        ("times=0", "times=0 must be a whole number of at least 1"),
        ("times=15", "times=15 must be below 10 or a multiple of 10"),
        ("noising=invert", r"noising='invert' is not known \(did you mean 'inversion'\?\)"),
        ("batch=0", "batch=0 must be a whole number of at least 1"),
    ],
)
def test_options_are_checked(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImplicitConfig.parse(options)


def test_what_is_no_finished_run_is_refused(trained: Trained, tmp_path: Path) -> None:
    """No folder, a folder of runs, a run without a result, a base that has gone: one line each, which says where to look."""
    with pytest.raises(InputError, match=r"^nowhere is not a run: it has no config\.yaml; give the --out of inpo train"):
        compose.scorer("implicit:nowhere")
    with pytest.raises(InputError, match="'implicit:' is not a scorer"):
        compose.scorer("implicit:")
    run = Path(shutil.copytree(trained(), tmp_path / "runs" / "mine"))
    with pytest.raises(InputError, match=r"did you mean '.*runs/mine'\?"):
        compose.scorer(f"implicit:{tmp_path / 'runs'}")
    base = load_experiment(str(run / "config.yaml")).model.path
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(base, "gone/base"))
    with pytest.raises(InputError, match=r"mine: the base that its config.yaml names cannot be used: model.path='gone/base'"):
        compose.scorer(f"implicit:{run}")
    shutil.rmtree(run / "model")
    with pytest.raises(InputError, match="is a run that has no model/ yet: it did not finish; train it to its end with --resume latest"):
        compose.scorer(f"implicit:{run}")
