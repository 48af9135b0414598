"""A page in headless Chromium, with what it says and what it asks for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def opened(browser: Any, run: Path, *, width: int = 1400, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """The page, what its console said, and what it asked for."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").as_uri())
    return page, said, [url for url in asked if not url.startswith("data:")]


def check_page(page: Any, said: list[str], asked: list[str], run: Path) -> None:
    """No word in the console, no request but the file's own, every picture loaded."""
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert said == []
    assert asked == [(run / "report.html").as_uri()]
    pictures = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert pictures
    assert all(pictures)
