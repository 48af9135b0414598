"""The page in headless Chromium: silent, alone, whole, readable on a telephone and on a wide screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inpo.methods import METHODS
from inpo.report import build_report
from tests.end_to_end.browsing import check_page, opened
from tests.faults.test_report_hostile_text import HOSTILE
from tests.page_reader import flat_numbers
from tests.synthetic_comparison import write_comparison
from tests.synthetic_run import prompts, write_demo

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo with its page."""
    root = write_demo(tmp_path_factory.mktemp("runs") / "demo", texts=prompts(14), steps=30)
    build_report(root)
    return root


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo whose prompts attack the page."""
    root = write_demo(tmp_path_factory.mktemp("runs") / "hostile", texts=HOSTILE, null=False, steps=8)
    build_report(root)
    return root


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_silent_alone_and_whole(browser: Any, run: Path, width: int, scheme: str):
    """At both widths and in both schemes; nothing sticks out at the side, and text is legible against its ground."""
    page, said, asked = opened(browser, run, width=width, scheme=scheme)
    check_page(page, said, asked, run)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert contrast(ink, paper) >= 7
    for selector in (".intro", "h1 em", ".range", ".facts", ".score", ".chart text"):
        ink = page.evaluate(f"(e => getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color'])(document.querySelector('{selector}'))")
        assert contrast(ink, paper) >= 4.5, selector


@pytest.mark.parametrize("width", [400, 1400])
def test_a_comparison_with_every_method(browser: Any, tmp_path: Path, width: int):
    """Silent, alone, whole, and nothing sticks out at the side, with as many columns as there are methods."""
    write_comparison(tmp_path / "run", list(METHODS), left=1)
    build_report(tmp_path / "run")
    page, said, asked = opened(browser, tmp_path / "run", width=width)
    check_page(page, said, asked, tmp_path / "run")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two "rgb(…)" colours."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_numbers_in_the_page_are_the_files(browser: Any, run: Path):
    """As the browser sees them, each under its dotted name."""
    page, _, _ = opened(browser, run)
    shown = page.evaluate("[...document.querySelectorAll('[data-key]')].map(e => [e.dataset.key, JSON.parse(e.dataset.value)])")
    expected = flat_numbers({"methods": json.loads((run / "summary.json").read_text())["methods"]})
    assert {key for key, _ in shown} == set(expected)
    assert all(expected[key] == pytest.approx(value, rel=1e-12) for key, value in shown)


def test_charts_are_drawn_and_axes_are_legible(browser: Any, run: Path):
    """Curves have length, tick labels at least 10 pixels on a telephone and lie inside their chart."""
    page, _, _ = opened(browser, run, width=400)
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert min(page.evaluate("[...document.querySelectorAll('.chart .curve')].map(p => p.getTotalLength())")) > 50
    heights = page.evaluate("[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height)")
    assert min(heights) >= 10
    inside = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].every(s => { const b = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].every(t => { const r = t.getBoundingClientRect();"
        " return r.left >= b.left - 1 && r.right <= b.right + 1 && r.top >= b.top - 1 && r.bottom <= b.bottom + 1 }) })"
    )
    assert inside


def test_the_policy_lets_no_script_run(browser: Any, run: Path):
    """Even one that got into the document by some other way."""
    page, said, _ = opened(browser, run)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title = 1\">')")
    page.wait_for_timeout(200)
    assert page.title() != "1"
    assert any("Content Security Policy" in message for message in said)


@pytest.mark.parametrize("width", [400, 1400])
def test_hostile_prompts_stay_text(browser: Any, hostile_run: Path, width: int):
    """In the parsed document: no script, no frame, no handler, no foreign style; the page stays in its width."""
    page, said, asked = opened(browser, hostile_run, width=width)
    check_page(page, said, asked, hostile_run)
    assert page.evaluate("document.querySelectorAll('script, iframe, object, embed, form, base, body style, a').length") == 0
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert page.evaluate(handlers) == []
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.title() == "hostile · inpo report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
