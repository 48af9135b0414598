"""Strict configuration: every wrong key, type or value is named with its nearest neighbour, and what runs is what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from inpo.config import Experiment, load_experiment, read_tree, recipe_names, recipe_text
from inpo.errors import InputError
from inpo.methods import METHODS
from inpo.noising import Forward, Inversion
from inpo.objectives import Dpo, Safeguard
from inpo.training.snapshot import flat

BASE = {"model": {"path": "m"}, "data": {"path": "d.parquet"}, "method": {"name": "inpo"}}


def changed(*overrides: str) -> Experiment:
    return load_experiment("sd15-inpo", ["data.path=pairs.parquet", *overrides])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_a_round_trip(name: str) -> None:
    """Each recipe is an experiment once data.path is given; config.yaml read back is the same experiment."""
    experiment = load_experiment(name, ["data.path=pairs.parquet"])
    assert experiment.data.path == "pairs.parquet"
    assert Experiment.from_tree(experiment.to_tree()) == experiment


@pytest.mark.parametrize("name", recipe_names())
def test_every_number_of_a_recipe_names_its_source(name: str) -> None:
    """Each setting's line has a comment, or the section above it has one: a number without a source is a rumour."""
    lines = recipe_text(name).splitlines()
    assert lines[0].startswith("#")
    numbers = [line for line in lines if line.startswith("  ") and any(c.isdigit() for c in line.split("#")[0]) and "path:" not in line]
    bare = [line.strip() for line in numbers if "#" not in line and not line.strip().startswith(("weight_decay", "clip", "seed"))]
    assert not bare, bare


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.startswith("world")])
def test_a_recipe_says_which_family_its_numbers_are_for(name: str) -> None:
    """β, sizes and memory are one family's: a folder of another one is refused rather than trained with them."""
    families = {"sdxl": "sdxl", "sd3": "sd3", "pixart": "pixart-sigma"}
    assert load_experiment(name, ["data.path=pairs.parquet"]).model.family == families.get(name.split("-")[0], "sd")


def test_the_published_numbers_of_inpo_on_sd15() -> None:
    """β 2000, effective lr 1.024e-5, 1024 pairs a step, 400 steps, 200 warm-up, N = 10 (arXiv:2503.18454 and its launcher)."""
    e = changed()
    assert e.method.objective == Dpo(beta=2000.0)
    assert e.method.noising == Inversion(inversion_steps=10)
    assert (e.optimizer.lr, e.optimizer.warmup_steps, e.train.pairs_per_step, e.train.steps) == (1.024e-5, 200, 1024, 400)


def test_the_published_numbers_of_diffusion_dpo_on_sd15() -> None:
    """β 5000, effective lr 2.048e-5, 2048 pairs a step, 2000 steps, 500 warm-up, shared noise (its launcher)."""
    e = load_experiment("sd15-dpo", ["data.path=pairs.parquet"])
    assert e.method.objective == Dpo(beta=5000.0)
    assert e.method.noising == Forward(shared_noise=True)
    assert (e.optimizer.lr, e.optimizer.warmup_steps, e.train.pairs_per_step, e.train.steps) == (2.048e-5, 500, 2048, 2000)


PUBLISHED = {
    "sd15-kto": ("diffusion-kto", 1000.0, 1e-7, 8, 20000, 200),
    "sdxl-mapo": ("mapo", 0.1, 1e-5, 128, 2000, 0),
    "sd15-smpo": ("smpo", 2000.0, 1.024e-5, 1024, 200, 100),
    "sdxl-smpo": ("smpo", 5000.0, 1.024e-5, 1024, 200, 100),
    "sd15-dspo": ("dspo", 0.001, 2.048e-5, 2048, 1000, 500),
    "sd15-dmpo": ("dmpo", 2000.0, 2.048e-5, 2048, 2000, 500),
    "sdxl-dmpo": ("dmpo", 6000.0, 2.048e-6, 2048, 2000, 500),
    "sd15-sdpo": ("diffusion-sdpo", 5000.0, 2.048e-5, 2048, 2000, 500),
    "sdxl-sdpo": ("diffusion-sdpo", 5000.0, 2.048e-6, 2048, 2000, 500),
    "sdxl-inversion-dpo": ("inversion-dpo", 2000.0, 2.048e-5, 2048, 2000, 1000),
}
"""Method, β, effective learning rate, pairs (or pictures) a step, steps and warm-up steps, as papers and launchers have them; but for the
rate and the pairs of Inversion-DPO, which are Diffusion-DPO's."""
OWN_NUMBERS = {
    "sd15-kto": {"data.positive_ratio": 0.8},
    "sdxl-mapo": {"method.objective.snr": 0.5},
    "sd15-smpo": {"method.objective.gamma": 10.0, "method.noising.inversion_steps": 5},
    "sdxl-smpo": {"method.objective.gamma": 10.0, "method.noising.inversion_steps": 10},
    "sd15-dspo": {},
    "sd15-dmpo": {"method.objective.alpha": 0.01},
    "sdxl-dmpo": {"method.objective.alpha": 0.01},
    "sd15-sdpo": {"method.safeguard.mu": 0.9},
    "sdxl-sdpo": {"method.safeguard.mu": 0.6},
    "sdxl-inversion-dpo": {"method.noising.inversion_steps": 80},
}
"""What each has besides."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_of_the_other_methods(name: str) -> None:
    found = flat(load_experiment(name, ["data.path=pairs.parquet"]).to_tree())
    keys = ("method.name", "method.objective.beta", "optimizer.lr", "train.pairs_per_step", "train.steps", "optimizer.warmup_steps")
    assert tuple(found[key] for key in keys) == PUBLISHED[name]
    assert {key: found[key] for key in OWN_NUMBERS[name]} == OWN_NUMBERS[name]
    assert ("method.safeguard.mu" in found) is name.endswith("-sdpo")


def test_overrides_reach_every_section_and_keep_the_rest() -> None:
    e = changed("method.objective.beta=500", "method.noising.eta=0.3", "optimizer.lr=1e-6", "train.steps=300", "report_to=[]")
    assert e.method.objective == Dpo(beta=500.0)
    assert e.method.noising == Inversion(inversion_steps=10, eta=0.3)
    assert (e.optimizer.lr, e.train.steps, e.report_to, e.optimizer.warmup_steps) == (1e-6, 300, (), 200)


def test_another_method_brings_its_own_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe's β was chosen for its own method; said on the terminal, where the rest of the recipe stays and overrides hold."""
    e = changed("method.name=diffusion-dpo", "method.noising.shared_noise=false")
    assert (e.method.objective, e.method.noising) == (Dpo(beta=5000.0), Forward(shared_noise=False))
    assert e.train.pairs_per_step == 1024
    assert len(capsys.readouterr().err.splitlines()) == 1
    e = changed("method.name=inpo", "method.noising.eta=0.5")
    assert (e.method.objective, e.method.noising) == (Dpo(beta=2000.0), Inversion(inversion_steps=10, eta=0.5))
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_a_method_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="is not a method"):
        changed("method.name=inop")
    assert capsys.readouterr().err == ""


def test_a_later_override_wins() -> None:
    assert changed("train.steps=300", "train.steps=350").train.steps == 350


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.step=3", ["train.step", "did you mean 'train.steps'"]),
        ("steps=3", ["steps is not", "did you mean 'train.steps'"]),
        ("optimizer.steps=3", ["optimizer.steps", "did you mean 'train.steps'"]),
        ("method.beta=3", ["method.beta", "did you mean 'method.objective.beta'"]),
        ("eta=0.5", ["eta is not", "did you mean 'method.noising.eta'"]),
        ("method.objective.bta=3", ["method.objective.bta", "did you mean 'method.objective.beta'"]),
        ("method.noising.inversion_step=3", ["method.noising.inversion_step", "'method.noising.inversion_steps'"]),
        ("optimiser.lr=1", ["optimiser", "'optimizer'"]),
        ("train.steps=ten", ["train.steps='ten' must be a whole number"]),
        ("train.steps=10.5", ["train.steps=10.5 must be a whole number"]),
        ("train.steps=true", ["train.steps=True"]),
        ("data.flip=yes please", ["data.flip", "true or false"]),
        ("data.path=3", ["data.path=3 must be text"]),
        ("data.score_columns=[a]", ["data.score_columns=['a'] must be a list of 2 values, as in [a, b]"]),
        ("data.score_columns=[a, b, c]", ["data.score_columns=['a', 'b', 'c'] must be a list of 2 values, as in [a, b]"]),
        ("data.score_columns=a,b", ["data.score_columns='a,b' must be a list of 2 values, as in [a, b]"]),
        ("data.where=nsfw < 0.1", ["data.where='nsfw < 0.1' must be a list, as in [a, b]"]),
        ("method.noising.t_range=[0.1]", ["method.noising.t_range=[0.1] must be a list of 2 values, as in [0, 1]"]),
        ("optimizer.lr=fast", ["optimizer.lr='fast' must be a number"]),
        ("train.steps=10:30", ["train.steps='10:30' must be a whole number"]),
        ("optimizer.lr=1:30.5", ["optimizer.lr='1:30.5' must be a number"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1"]),
        ("optimizer.lr=.inf", ["optimizer.lr=inf"]),
        ("method.objective.beta=0", ["method.objective.beta=0", "(0, ∞)"]),
        ("method.noising.eta=2", ["method.noising.eta=2.0", "[0, 1]"]),
        ("method.noising.compat=smpo", ["method.noising.compat='smpo'", "inpo-release"]),
        ("method.name=inop", ["method.name='inop'", "did you mean 'inpo'"]),
        ("method.name=5", ["method.name=5"]),
        ("method.name=kto", ["method.name='kto'", "did you mean 'diffusion-kto'"]),
        ("method.name=dpo", ["method.name='dpo'", "did you mean 'diffusion-dpo'"]),
        ("train=5", ["train=5", "settings"]),
        ("report_to=[tensorbord]", ["tensorbord", "did you mean 'tensorboard'"]),
        ("output.format=ckpt", ["output.format='ckpt'"]),
        ("learning_rate=1e-5", ["learning_rate is not", "did you mean 'optimizer.lr'"]),
        ("train.batch_size=4", ["train.batch_size is not", "did you mean 'train.pairs_per_step'"]),
        ("train.steps", ["key=value without spaces"]),
        ("train.steps=[", ["train.steps", "not a value"]),
        ("optimizer.warmup_steps=9999", ["optimizer.warmup_steps=9999", "train.steps=400"]),
        ("model.dtype=fp8", ["model.dtype='fp8'"]),
        ("method.safeguard.mu=1.5", ["method.safeguard.mu=1.5", "[0, 1)"]),
        ("method.safeguard.mus=0.5", ["method.safeguard.mus is not", "did you mean 'method.safeguard.mu'"]),
        ("method.safeguard=0.9", ["method.safeguard=0.9", "method.safeguard.…=value"]),
        ("method.objective.gama=3", ["method.objective.gama is not", "did you mean 'method.objective.gamma'"]),
    ],
)
def test_wrong_overrides_are_named(override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        changed(override)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_required_value_is_named() -> None:
    """sd15 recipes leave the data to the user."""
    with pytest.raises(InputError, match=r"data\.path is not set"):
        load_experiment("sd15-inpo")


def test_a_safeguard_is_put_on_changed_and_taken_off() -> None:
    """`method.safeguard.mu` puts one on any pairwise method; the table's own is changed or, by null, taken off; settings survive YAML."""
    assert load_experiment("world-inpo").method.safeguard is None
    assert load_experiment("world-inpo", ["method.safeguard.mu=0.7"]).method.safeguard == Safeguard(0.7)
    assert load_experiment("world-inpo", ["method.name=diffusion-sdpo"]).method.safeguard == Safeguard(0.9)
    bare = load_experiment("world-inpo", ["method.name=diffusion-sdpo", "method.safeguard=null"])
    assert bare.method.safeguard is None
    for made in (bare, load_experiment("world-inpo", ["method.safeguard.mu=0.7"])):
        assert Experiment.from_tree(yaml.safe_load(made.to_yaml())) == made


def test_a_safeguard_without_losers_is_refused() -> None:
    with pytest.raises(InputError, match=r"method\.safeguard\.mu=0\.5 guards winners against losers, and sft compares none"):
        load_experiment("world-sft", ["method.safeguard.mu=0.5"])


READ_TIES = {"inpo", "diffusion-dpo", "diffusion-ipo", "diffusion-cdpo", "diffusion-sdpo", "inpo-sdpo", "inversion-dpo"}
"""The others know no pair without a winner, or get how sure it is from scores."""


@pytest.mark.parametrize("name", METHODS)
def test_ties_as_halves_need_a_loss_that_reads_the_label(name: str) -> None:
    settings = ["data.path=p.parquet", "data.ties=half", f"method.name={name}"]
    if name == "smpo":
        settings.append("data.score_columns=[a, b]")
    if name in READ_TIES:
        assert load_experiment("sd15-sft", settings).data.ties == "half"
    else:
        with pytest.raises(InputError, match=rf"data\.ties='half' means nothing to method\.name='{name}'"):
            load_experiment("sd15-sft", settings)


def test_files_are_read_strictly(tmp_path: Path) -> None:
    """A missing file, a recipe misspelt, a key given twice, a list at the top, bytes that are no text: each its own sentence."""
    cases = {
        "twice.yaml": b"train:\n  steps: 1\n  steps: 2\n",
        "list.yaml": b"- 1\n",
        "bytes.yaml": b"\xff\xfe\x00",
        "broken.yaml": b"a: [1\n",
    }
    words = {"twice.yaml": "given twice: steps", "list.yaml": "found list", "bytes.yaml": "not readable", "broken.yaml": "not readable"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words[name]):
            read_tree(str(tmp_path / name))
    with pytest.raises(InputError, match="no such file"):
        read_tree(str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match="did you mean 'sd15-inpo'"):
        read_tree("sd15-inp")
    with pytest.raises(InputError, match="is not a recipe"):
        recipe_text("../config")


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    """No code from data: a python tag is refused and not run."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {canary}']\n")
    with pytest.raises(InputError):
        read_tree(str(tmp_path / "evil.yaml"))
    assert not canary.exists()


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {path: m}\ndata: {path: d.parquet}\nmethod: {name: diffusion-dpo}\n")
    assert load_experiment(str(tmp_path / "mine.yaml")).method.objective == Dpo(beta=5000.0)
    assert Experiment.from_tree(BASE).method.name == "inpo"


@pytest.mark.parametrize(
    "override", ["data.score_columns=[]", "data.where=x", "train.steps=ten", "data.path=3", "lora.targets=5", "train.keep=null"]
)
def test_no_words_of_a_library_and_nothing_twice(override: str) -> None:
    """One sentence a key, in the words of this package."""
    with pytest.raises(InputError) as refused:
        changed(override)
    sentences = str(refused.value).split("; ")
    assert len(set(sentences)) == len(sentences)
    assert not any(word in str(refused.value) for word in ("valid", "Field", "Input", "parse", "tuple", "integer"))


def test_a_colon_in_a_file_is_text_too(tmp_path: Path) -> None:
    """YAML 1.1 reads 10:30 in base sixty; other numbers are read as ever."""
    (tmp_path / "a.yaml").write_text("a: 10:30\nb: 1_000\nc: -1.5\nd: 0x10\ne: 1:20:30.5\n", encoding="utf-8")
    assert read_tree(str(tmp_path / "a.yaml")) == {"a": "10:30", "b": 1000, "c": -1.5, "d": 16, "e": "1:20:30.5"}
