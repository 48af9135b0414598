"""The page says what the files say, is one file, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inpo.errors import InputError
from inpo.evaluation.summary import MethodSummary, read_summary, write_summary
from inpo.report import build_report
from tests.page_reader import Page, check_harmless, flat_numbers
from tests.synthetic_run import method_entry, prompts, write_demo, write_images, write_training


def page_of(run: Path) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_every_number_of_the_summary_is_in_the_page(demo: Path):
    """Under its dotted name, with the value of the file, exactly; and no number is there that the file does not hold."""
    summary = flat_numbers({"methods": json.loads((demo / "summary.json").read_text())["methods"]})
    shown = Page((demo / "report.html").read_text()).numbers()
    assert set(shown) == set(summary)
    for key, values in shown.items():
        assert {json.loads(value) for value in values} == {summary[key]}, key


def test_printed_numbers_are_those_of_their_key(demo: Path):
    """What a reader reads is the machine's value, rounded."""
    page = Page((demo / "report.html").read_text())
    shown = [e for e in page.elements if e.attributes.get("data-key") == "methods.inpo.win_rate"]
    assert len(shown) >= 3
    assert {element.text for element in shown} <= {f"{float(shown[0].attributes['data-value']):.2f}", shown[0].attributes["data-value"]}


def test_one_file_under_a_strict_policy(demo: Path):
    """The policy allows data: pictures and the page's own style by its hash, and nothing else; all in the page obeys it."""
    page = Page((demo / "report.html").read_text())
    check_harmless(page)
    policy = next(e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.all("style")[0].text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in page.all("style")[0].text
    assert "@import" not in page.all("style")[0].text


def test_accessible(demo: Path):
    """A language, a title, an alternative text for every picture and chart, headings that skip no level, scopes for headers."""
    page = Page((demo / "report.html").read_text())
    assert page.all("html")[0].attributes["lang"] == "en"
    assert "demo" in page.all("title")[0].text
    assert page.all("img")
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert all(drawing.attributes["aria-label"] for drawing in page.all("svg"))
    assert all(header.attributes.get("scope") for header in page.all("th"))
    levels = [int(e.tag[1]) for e in page.elements if e.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_tiny_pictures_stay_crisp_and_counts_are_told(demo: Path):
    """32-pixel pictures are enlarged with hard edges; how many are shown, of how many, is said."""
    page = Page((demo / "report.html").read_text())
    assert {image.attributes.get("class") for image in page.all("img")} == {"tiny"}
    assert "image-rendering: pixelated" in page.all("style")[0].text
    assert "12 of 14 pictures" in page.text
    # The first look repeats some; samples of the synthetic runs are the same bytes in several files.
    shown = re.search(r"This page shows (\d+) picture files", page.text)
    assert shown is not None
    assert len({image.attributes["src"] for image in page.all("img")}) <= int(shown[1]) <= len(page.all("img"))


def test_the_same_files_give_the_same_bytes(demo: Path, demo_copy: Path):
    """Nothing in the page comes from the clock, and an earlier page is not read."""
    assert build_report(demo_copy).read_bytes() == (demo / "report.html").read_bytes()
    assert not list(demo_copy.glob(".*.partial"))


@pytest.mark.parametrize(
    ("rate", "low", "high", "headline"),
    [
        (0.83, 0.78, 0.87, "InPO is preferred to its base 83 times in 100."),
        (0.31, 0.25, 0.38, "InPO is preferred to its base only 31 times in 100."),
        (0.52, 0.45, 0.59, "InPO and its base cannot be told apart."),
    ],
)
def test_headline_follows_the_interval(tmp_path: Path, rate: float, low: float, high: float, headline: str):
    """Better or worse only where the interval leaves ½ out."""
    methods = {"inpo": MethodSummary(win_rate=rate, low=low, high=high, n=200)}
    write_summary(tmp_path / "summary.json", kind="evaluate", baseline="base", methods=methods)
    page = page_of(tmp_path)
    assert page.all("h1")[0].text == headline
    assert "over 200 prompts" in " ".join(page.text.split())


def test_second_scorer_that_disagrees_is_said_so(tmp_path: Path):
    """A win by the optimised judge and a loss by the other one is no good news."""
    second = {"name": "clip", "win_rate": 0.4, "low": 0.3, "high": 0.45}
    entry = {"win_rate": 0.8, "low": 0.7, "high": 0.9, "second_scorer": second}
    write_summary(tmp_path / "summary.json", kind="evaluate", baseline="base", methods={"inpo": entry})
    assert "disagrees, a sign of over-optimisation" in " ".join(page_of(tmp_path).text.split())


def test_methods_are_compared_directly(demo: Path):
    """InPO and Diffusion-DPO were judged on the same pictures' prompts: their difference is not left to the reader's eye."""
    assert "Picture by picture against Diffusion-DPO it is" in " ".join(Page((demo / "report.html").read_text()).text.split())


def test_controls_are_marked_and_kept_out_of_the_pictures(demo: Path):
    """The base under other seeds says what it is for, and is not shown under "same seed"."""
    page = Page((demo / "report.html").read_text())
    assert "its interval should contain ½" in page.text
    assert not any(image.attributes["alt"].startswith("Base again") for image in page.all("img"))


def test_a_single_run_that_was_not_evaluated(tmp_path: Path):
    """Curves and samples are there; what is missing is named."""
    write_training(tmp_path, "inpo", steps=30)
    write_summary(tmp_path / "summary.json", kind="train", baseline="base", methods={"inpo": MethodSummary(steps=30, lr=2e-5)})
    page = page_of(tmp_path)
    assert page.all("h1")[0].text == "InPO was trained, and not yet judged."
    assert "Implicit accuracy" in page.text
    assert "There is no evaluation/scores.parquet" in page.text
    assert page.numbers()["methods.inpo.lr"] == {"2e-05"}
    assert "inpo demo --out runs/demo --force" in page.text


def test_a_folder_of_something_else_gets_no_page(tmp_path: Path):
    """Pictures are no run: the folder is named and left as it is."""
    (tmp_path / "00000_0.png").write_bytes(b"")
    with pytest.raises(InputError, match="holds neither a training run nor an evaluation"):
        build_report(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["00000_0.png"]


def test_an_evaluation_that_has_just_begun(tmp_path: Path):
    """Still a page."""
    (tmp_path / "evaluation").mkdir()
    page = page_of(tmp_path)
    check_harmless(page)
    assert "There is nothing here to report yet." in page.text
    for name in ("summary.json", "scores.parquet", "environment.json"):
        assert f"There is no {name}" in page.text or f"There is no evaluation/{name}" in page.text


def test_evaluation_without_training(tmp_path: Path):
    """A folder of `inpo evaluate`: two models, other names than the demo's."""
    texts = prompts(4)
    for model in ("ours", "theirs"):
        write_images(tmp_path / "evaluation" / model, model, texts)
    entry = method_entry("ours", "theirs", 4)
    write_summary(tmp_path / "summary.json", kind="evaluate", baseline="theirs", methods={"ours": entry})
    page = page_of(tmp_path)
    assert "theirs" in page.all("h1")[0].text
    assert {image.attributes["alt"].split(":")[0] for image in page.all("img")} == {"ours", "theirs"}


def test_failures_are_told(demo_copy: Path):
    """Counts of both sides stand in a table; none, and the page says none."""
    assert "No picture was missing" in page_of(demo_copy).text
    summary = json.loads((demo_copy / "summary.json").read_text())
    summary["methods"]["inpo"]["failures"]["candidate"]["black"] = 3
    (demo_copy / "summary.json").write_text(json.dumps(summary))
    page = page_of(demo_copy)
    assert "No picture was missing" not in page.text
    shown = [e for e in page.all("data") if e.attributes["data-key"] == "methods.inpo.failures.candidate.black"]
    assert {element.text for element in shown} == {"3"}
    assert "2 pairs were rejected" in " ".join(page.text.split())


def test_settings_that_differ_are_told_apart(demo: Path):
    """The learning rates of the two methods stand side by side; what they share stands once."""
    page = Page((demo / "report.html").read_text())
    rows = [row.text for row in page.all("tr")]
    assert any("optimizer.lr" in row and "2e-5" in row and "1e-5" in row for row in rows)
    assert not any("train.pairs_per_step" in row for row in rows)
    assert yaml.safe_load(next(e.text for e in page.all("code") if e.text.startswith("model:")))["train"]["pairs_per_step"] == 32


def test_page_is_bounded(tmp_path: Path):
    """More prompts, pictures and steps make the page no larger than its budget."""
    small = build_report(write_demo(tmp_path / "small", texts=prompts(12), null=False, steps=300)).stat().st_size
    large = build_report(write_demo(tmp_path / "large", texts=prompts(40), null=False, steps=700)).stat().st_size
    assert large < 1.15 * small < 1_000_000


def test_absent_folder_is_the_users_error(tmp_path: Path):
    """Nothing is written either."""
    with pytest.raises(InputError, match="no folder"):
        build_report(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_needs_no_torch_at_run_time(demo: Path, tmp_path: Path):
    """With an empty module in torch's place the page is made all the same; no heavy library is imported either."""
    copy = Path(shutil.copytree(demo, tmp_path / "demo"))
    code = (
        "import sys, types; from pathlib import Path; sys.modules['torch'] = types.ModuleType('torch')\n"
        "from inpo.report import build_report; build_report(Path(sys.argv[1]))\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'transformers', 'diffusers', 'scipy', 'accelerate'}\n"
        "print(*heavy, *(name for name in sys.modules if name.startswith('torch.')))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_summary_of_the_synthetic_demo_is_valid(demo: Path):
    """The fixture keeps the contract that the page is tested against."""
    assert list(read_summary(demo / "summary.json").methods) == ["inpo", "diffusion-dpo", "inpo-shuffled", "base-again"]


def test_what_the_held_out_pairs_said_is_in_the_page(tmp_path: Path):
    """Curves from step 0 with their band, pictures under their prompts from the base to the end, and why the run ended."""
    write_training(tmp_path, "inpo", steps=16)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    reason = "validation.loss did not get better in 3 looks <b>"
    last = json.dumps(json.loads(lines[-1]) | {"stopped": reason})
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:-1], last]) + "\n")
    write_summary(tmp_path / "summary.json", kind="train", baseline="base", methods={"inpo": MethodSummary(steps=16, result_step=12)})
    page = page_of(tmp_path)
    check_harmless(page)
    text = page.text
    for words in (f"InPO was stopped early: {reason}", "the model is that of step 12", "On held-out pairs", "step 4", "final, step 16"):
        assert words in text, words
    assert all(prompt in text for prompt in prompts(4))
    assert any("band" in (element.attributes.get("class") or "") for element in page.all("path"))


def test_pictures_without_prompts_are_named_by_their_files(tmp_path: Path):
    """A run of before, or a damaged list: no step is lost, and an unfinished run has no final column."""
    write_training(tmp_path, "inpo", steps=16)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:13]) + "\n")
    for content in ("[1", '{"prompts": 3}', '{"prompts": ["only one"]}'):
        (tmp_path / "samples" / "prompts.json").write_text(content)
        text = page_of(tmp_path).text
        assert "03" in text
        assert "final" not in text
    assert "only one" in text
