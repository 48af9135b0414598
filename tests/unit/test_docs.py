"""What the documents promise: the example runs and is as short as they say, keys and numbers are those of the code."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import pydoc
import re
import runpy
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import inpo.methods
from inpo.comparing.spec import load_comparison
from inpo.config import METHOD_PARTS, Experiment, load_experiment
from inpo.data.fields import Fault
from inpo.data.validate import validate
from inpo.methods import METHODS
from inpo.noising import Inversion
from inpo.points import Denoising
from inpo.release import ReleaseGrid
from inpo.training.tally import COLUMNS, LABELLED
from tests.worlds import F64, gaussian, sd_schedule

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "add_a_method.py"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]}
FILES = (".md", ".py", ".safetensors", ".parquet", ".json", ".jsonl", ".csv", ".yaml")
KEY = re.compile(r"(?<![\w./])(model|lora|data|train|optimizer|output|method)\.([a-z_]+)(?:\.([a-z_]+))?(?![\w.(/])")


def blocks(page: str, language: str) -> list[str]:
    """The page's fenced code in a language; "" are the fences that name none."""
    parts = re.split(r"^```(\w*)\n", PAGES[page], flags=re.MULTILINE)
    return [code for found, code in zip(parts[1::4], parts[2::4], strict=True) if found == language]


def method_lines() -> list[str]:
    """The lines of the example that are the method: its class and its row, with what stands between them."""
    source = EXAMPLE.read_text(encoding="utf-8")
    body = ast.parse(source).body
    hinge = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == "Hinge")
    row = next(node for node in body if isinstance(node, ast.Assign) and "METHODS" in ast.unparse(node.targets[0]))
    assert row.end_lineno is not None
    return source.splitlines()[hinge.decorator_list[0].lineno - 1 : row.end_lineno]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The example's names after it was run as a program, with a table of methods of its own to write into."""
    monkeypatch.setattr(inpo.methods, "METHODS", dict(inpo.methods.METHODS))
    return runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_a_method_takes_at_most_fifteen_lines_and_the_document_shows_them() -> None:
    """Blank lines and docstrings counted. The block in docs/add-a-method.md is the example's own text."""
    lines = method_lines()
    assert len(lines) <= 15
    assert blocks("add-a-method.md", "python")[0].splitlines() == lines


def test_the_example_trains_the_method_it_adds(example: dict[str, object]) -> None:
    """Before the first step u = 0, so every loss is max(0, 1 − 0) = 1, and the policy's gradient is not zero: dL/du = −1."""
    losses, gradient = example["one_step"]("inpo-hinge")  # type: ignore[operator]
    torch.testing.assert_close(losses, torch.ones(8))
    assert float(gradient.norm()) > 0


def test_the_added_loss_by_hand(example: dict[str, object]) -> None:
    """L_w − L_l = −0.04, R_w − R_l = −0.01, β = 40: u = −20 · (−0.03) = 0.6 and the loss is 0.4; at β = 100, u = 1.5 > 1, it is 0."""

    def side(error: float, ref_error: float) -> Denoising:
        zero = torch.zeros(1, 4, 2, 2, dtype=F64)
        return Denoising(zero, zero + error**0.5, zero + ref_error**0.5)

    for beta, expected in ((40.0, 0.4), (100.0, 0.0)):
        loss = example["Hinge"](beta=beta)(side(0.10, 0.12), side(0.14, 0.13), torch.ones(1))  # type: ignore[operator]
        torch.testing.assert_close(loss, torch.full((1,), expected, dtype=F64))


@pytest.mark.usefixtures("example")
def test_an_added_method_can_be_configured_by_its_name() -> None:
    """Its own numbers are keys, and a tie that it gives no meaning is refused."""
    tree = {"model": {"path": "m"}, "data": {"path": "d"}, "method": {"name": "inpo-hinge", "objective": {"beta": 500.0}}}
    assert Experiment.from_tree(tree).method.objective.beta == 500.0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="ties"):
        Experiment.from_tree({**tree, "data": {"path": "d", "ties": "half"}})


def known_keys() -> set[str]:
    keys = set(keys_of(Experiment, ""))
    parts = [(name, getattr(each, name)) for each in METHODS.values() for name in METHOD_PARTS]
    return keys | {f"method.{name}.{field.name}" for name, part in parts if part is not None for field in dataclasses.fields(part)}


def keys_of(settings: type, prefix: str) -> Iterator[str]:
    """Dotted names of a dataclass's fields, and of the dataclasses in them."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        yield f"{prefix}{field.name}"
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from keys_of(part, f"{prefix}{field.name}.")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_settings_that_a_document_names_exist(page: str) -> None:
    code = re.findall(r"^```.*?^```$|`[^`\n]+`", PAGES[page], re.MULTILINE | re.DOTALL)
    named = {".".join(filter(None, match.groups())) for text in code for match in KEY.finditer(text)}
    files = {key for key in named if key.endswith(FILES)}
    assert named - files - known_keys() == set()


def names_of(tree: object, prefix: str = "") -> Iterator[str]:
    """Dotted names of a mapping's leaves."""
    if not isinstance(tree, dict):
        yield prefix
        return
    for key, value in tree.items():
        yield from names_of(value, f"{prefix}.{key}".lstrip("."))


@pytest.mark.parametrize("page", sorted(PAGES))
def test_blocks_of_data_are_what_they_say(page: str, tmp_path: Path) -> None:
    """JSON is JSON, and YAML is a comparison, or a part of an experiment's file: each of its keys is a setting."""
    for code in blocks(page, "json"):
        json.loads(code)
    for code in blocks(page, "yaml"):
        tree = yaml.safe_load(code)
        if "arms" in tree:
            (tmp_path / "comparison.yaml").write_text(code, encoding="utf-8")
            tree = load_comparison(str(tmp_path / "comparison.yaml")).settings
        assert set(names_of(tree)) <= known_keys()


def test_the_pattern_for_settings_finds_some() -> None:
    found = {match[0] for match in KEY.finditer("`data.ties=half` `method.noising.eta` (train.steps) docs/method.md")}
    assert found == {"data.ties", "method.noising.eta", "train.steps"}


def test_published_settings_are_the_recipes() -> None:
    """The table of docs/method.md §5, row by row, against the recipes it names."""
    section = PAGES["method.md"].split("## 5. ")[1].split("## 6. ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    table = {name: cells for name, *cells in lines}
    for column, name in enumerate(text.strip("`") for text in table["recipe"]):
        run = load_experiment(name, ["data.path=pairs.parquet"])
        assert table["β"][column] == (f"{beta:g}" if (beta := getattr(run.method.objective, "beta", None)) else "–")
        assert float(table["effective learning rate"][column]) == run.optimizer.lr
        assert int(table["pairs per optimiser step"][column]) == run.train.pairs_per_step
        assert int(table["steps"][column]) == run.train.steps
        assert int(table["warm-up steps, then constant"][column]) == run.optimizer.warmup_steps
        assert table["resolution, prompt dropout"][column] == f"{run.data.resolution}², {run.data.prompt_dropout}"


def test_every_metric_of_a_pair_is_explained() -> None:
    names = set(re.findall(r"`(\w+)`", PAGES["reading-the-curves.md"]))
    assert set(COLUMNS) - {LABELLED} <= names


def test_the_releases_levels_are_as_stated() -> None:
    """σ where the walk ends over σ_t: mean 1.14, 1.49 at t = 50, 6.5 at t = 2; the walk of t > 901 falls short."""
    schedule = sd_schedule()
    grid, t = ReleaseGrid.of(schedule, 10), torch.arange(1000)
    ends = (100 * grid.bucket(t) - 99).clamp(min=0)
    ratio = schedule.at(ends).sigma / schedule.at(t).sigma
    assert [round(float(ratio[i]), 2) for i in (50, 2)] == [1.49, 6.46]
    assert round(float(ratio.mean()), 2) == 1.14
    assert (t[ends < t] > 901).all()
    assert [name in PAGES["method.md"] for name in ("1.14 times", "1.49 times", "6.5 times")] == [True] * 3


def test_tau_of_a_unit_gaussian_is_as_stated() -> None:
    """For data N(0, I), τ = x_0 (√(1 + ς²) − 1)/ς on the exact trajectory: rms 0.17 at ς = 0.35 and 0.41 at ς = 1."""
    schedule = sd_schedule()
    unit = dataclasses.replace(gaussian(schedule), means=torch.zeros(1, 1, 1, 2, dtype=F64), stds=torch.ones(1, 1, 1, 2, dtype=F64))
    spread = schedule.at(torch.arange(1000)).sigma / schedule.at(torch.arange(1000)).alpha
    for wanted, stated in ((0.35, 0.17), (1.0, 0.41)):
        level = schedule.at((spread - wanted).abs().argmin().view(1))
        ratio = float(level.sigma / level.alpha)
        one = torch.ones(1, 1, 1, 2, dtype=F64)
        tau = (unit.trajectory(one, level) - float(level.alpha) * one) / float(level.sigma)
        assert float(tau.mean()) == pytest.approx((math.sqrt(1 + ratio**2) - 1) / ratio, abs=1e-9)
        assert round(float(tau.mean()), 2) == stated


def test_costs_are_as_stated() -> None:
    """Twice the mean evaluations for two pictures, and 2 + 2 for training and reference: 15 and 16.8."""
    means = [2 * Inversion(compat=compat).mean_evaluations(sd_schedule()) + 4 for compat in (None, "inpo-release")]  # type: ignore[arg-type]
    assert [round(mean, 1) for mean in means] == [15.0, 16.8]


def test_symbols_of_the_family_page_exist() -> None:
    """Each `inpo.…` of docs/add-a-family.md, down to methods."""
    names = set(re.findall(r"`(inpo(?:\.\w+)+)`", PAGES["add-a-family.md"]))
    assert len(names) > 10
    for name in names:
        assert pydoc.locate(name) is not None, name


def test_the_pairs_file_of_the_document_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet of docs/data.md, run as it stands beside two pictures, writes a file with nothing wrong."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        data = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(data, "PNG")
        Path(name).write_bytes(data.getvalue())
    exec(compile(blocks("data.md", "python")[0], "docs/data.md", "exec"), {})
    report = validate("pairs.parquet")
    assert report.ok, list(report.lines())
    assert report.tally.pairs == 1


def test_the_rejected_line_of_the_document_has_the_files_fields() -> None:
    line = json.loads(next(block for block in blocks("data.md", "") if block.startswith("{")))
    assert list(line) == ["file", "row", *(field.name for field in dataclasses.fields(Fault))]


def estimate(page: str) -> tuple[float, list[tuple[float, list[float]]]]:
    """TFLOP of one pair by the rows of a page's first table of operations, and its cards: peak, and hours at 30 and 40 %."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGES[page].splitlines() if line.startswith("|")]
    start = next(i for i, row in enumerate(rows) if row[0] == "for one pair")
    end = next(i for i, row in enumerate(rows) if row[0] == "sum")
    parts = [float(row[-1]) for row in rows[start + 2 : end]]
    stated = float(rows[end][-1])
    assert stated == pytest.approx(sum(parts), abs=0.11)
    cards = [row for row in rows[end:] if len(row) == 4 and row[1].endswith("TFLOP/s")]
    return stated, [(float(row[1].split()[0]), [float(cell.split()[0]) for cell in row[2:]]) for row in cards]


ESTIMATES = [("sdxl-8-gpus.md", "sdxl-inpo", 8), ("sdxl-lora-one-card.md", "sdxl-inpo-lora-24gb", 1)]


@pytest.mark.parametrize(("page", "recipe", "cards"), ESTIMATES)
def test_estimates_of_time_are_their_arithmetic(page: str, recipe: str, cards: int) -> None:
    """Pairs of the recipe × operations of a pair / (cards × share × peak), to a twentieth of an hour."""
    train = load_experiment(recipe, ["data.path=pairs.parquet"]).train
    one, table = estimate(page)
    assert len(table) == 2
    for peak, stated in table:
        hours = [train.steps * train.pairs_per_step * one / (cards * share * peak) / 3600 for share in (0.3, 0.4)]
        assert hours == pytest.approx(stated, abs=0.06)


def test_counted_operations_are_the_output_on_record() -> None:
    """What both pages multiply: 6.76 forward, 25.44 with backward and checkpointing, 4.88 for the VAE."""
    counted = (ROOT / "docs" / "benchmarks" / "flops.txt").read_text(encoding="utf-8")
    assert "forward 6.76, with backward 20.23, checkpointed 25.44 TFLOP" in counted
    assert "at 1024: 4.88 TFLOP" in counted


def test_memory_of_adapters_is_the_output_on_record() -> None:
    """docs/lora.md's activations and measured peaks are those that the two programs printed."""
    page = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
    counted, measured = ((ROOT / "docs" / "benchmarks" / f"{name}.txt").read_text("utf-8") for name in ("activations", "step-memory"))
    for model, title in (("sd15", "SD1.5, 512 × 512"), ("sdxl", "SDXL, 1024 × 1024")):
        plain, checkpointed = (float(number) for number in re.search(rf"^{model} +(\S+) +(\S+)$", counted, re.M).groups())
        assert f"| {title} | {plain:.1f} GiB | {checkpointed:.1f} GiB |" in page
        peak = re.search(rf"^{model}-lora +\S+ +(\S+)", measured, re.M)[1]
        assert f"at {peak} GiB, of which its UNet" in page
