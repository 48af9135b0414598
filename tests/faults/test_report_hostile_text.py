"""Prompts, names and settings are untrusted text: whatever they hold stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from inpo.report import build_report
from tests.page_reader import Page, check_harmless
from tests.synthetic_run import write_demo

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'><svg onload=alert(1)>",
    "</title><h1>owned</h1>",
    "</style><style>body{display:none}</style>",
    "--><!-- </textarea><iframe src='https://example.org'>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "\u202egnp.exe \u2066 mirrored \u200b",
    "nul \x00 escape \x1b[31m bell \x07",
    "x" * 10_000,
    "&lt;script&gt; &amp;amp; &#x202e;",
    "javascript:alert(1) data:text/html,<b>",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A demo in which everything that can be named is hostile."""
    root = write_demo(tmp_path_factory.mktemp("runs") / "<b onclick=x>demo", texts=HOSTILE, null=False, steps=8)
    evil = HOSTILE[1]
    config = yaml.safe_dump({"method": {"name": evil, evil: evil}, "data": {"path": "</code></pre><script>x</script>"}})
    (root / "inpo" / "config.yaml").write_text(config)
    (root / "inpo" / "environment.json").write_text(json.dumps({evil: evil, "command": ["inpo", "train", evil]}))
    (root / "inpo" / "rejected.jsonl").write_text(json.dumps({"file": evil, "row": evil, "field": evil, "reason": evil}))
    summary = json.loads((root / "summary.json").read_text())
    inpo = summary["methods"]["inpo"]
    inpo["parts"][evil] = inpo["parts"]["shape"]
    inpo["second_scorer"]["name"] = inpo["scorer"] = evil
    summary["methods"][evil] = inpo
    (root / "summary.json").write_text(json.dumps(summary))
    return Page(build_report(root).read_text(encoding="utf-8"))


def test_nothing_but_text_comes_of_it(page: Page):
    """Only the elements that the templates write, no handler, no address, one title, one style."""
    check_harmless(page)
    assert len(page.all("title")) == len(page.all("style")) == len(page.all("h1")) == 1
    assert not any("alert" in value for element in page.elements for name, value in element.attributes.items() if name not in LABELS)


LABELS = ("alt", "aria-label", "data-key")


def test_the_reader_sees_what_was_written(page: Page):
    """Escaped once and not twice; templates are not evaluated."""
    assert "<script>document.title='owned'</script>" in page.text
    assert "{{ 7 * 7 }} {% raw %} ${7*7}" in page.text
    assert "&lt;script&gt; &amp;amp; &#x202e;" in page.text


def test_what_would_act_unseen_is_spelt(page: Page):
    """No control or override reaches the page, in text or attributes."""
    assert "⟨U+202E⟩gnp.exe ⟨U+2066⟩ mirrored ⟨U+200B⟩" in page.text
    assert "nul ⟨U+0000⟩ escape ⟨U+001B⟩[31m bell ⟨U+0007⟩" in page.text
    assert not set(page.html) & set("\x00\x07\x1b\u202e\u2066\u200b")


def test_long_prompts_are_cut(page: Page):
    """The 10,000 letters appear neither in the text nor in an alternative text."""
    assert "x" * 300 not in page.html
    assert "(10,000 characters)" in page.text


@pytest.mark.parametrize("name", ["</script>.png", "a&b.png"])
def test_sample_names_are_text(tmp_path: Path, name: str):
    """A sample's file name is shown beside its row."""
    root = write_demo(tmp_path / "demo", texts=HOSTILE[:2], null=False, steps=4)
    folder = root / "inpo" / "samples" / "step-000000"
    sample = next(folder.iterdir())
    (folder / name.replace("/", "∕")).write_bytes(sample.read_bytes())
    check_harmless(Page(build_report(root).read_text(encoding="utf-8")))
