"""Numbers and untrusted text as a reader should see them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

PROMPT_LETTERS = 240
"""Longer prompts are cut, and the page says how long they are."""

HALF = 0.5

SEED_DIGITS = 6
"""Of longer seeds the last ones are shown."""

_NAMES = {
    "base": "Base",
    "inpo": "InPO",
    "diffusion-dpo": "Diffusion-DPO",
    "sft": "SFT",
    "diffusion-kto": "Diffusion-KTO",
    "mapo": "MaPO",
    "smpo": "SmPO",
    "dspo": "DSPO",
    "dmpo": "DMPO",
    "diffusion-ipo": "IPO",
    "diffusion-cdpo": "DPO, smoothed labels",
    "diffusion-sdpo": "Diffusion-SDPO",
    "inpo-sdpo": "InPO, safeguarded",
    "inversion-dpo": "Inversion-DPO",
    "base-again": "Base again",
    "inpo-shuffled": "InPO, shuffled labels",
    "inpo-drawn-start": "InPO, drawn start",
    "inpo-2-steps": "InPO, 2 inversion steps",
    "diffusion-dpo-2000": "Diffusion-DPO, 2000 steps",
}

_CONTROLS = {
    "base-again": "the base against itself under other seeds: its interval should contain ½",
    "inpo-shuffled": "trained on labels drawn by a coin: what drift alone gains",
}


def display_name(method: str) -> str:
    """The name of a method or model in running text."""
    return _NAMES.get(method, method)


def control_note(method: str) -> str | None:
    """What a control shows, or None for a method in its own right."""
    return _CONTROLS.get(method)


def visible(text: str) -> str:
    """The text with what would be invisible, or would turn its neighbours round, spelt out: `⟨U+202E⟩`. Line breaks and tabs stay."""
    return re.sub(r"[^\n\t -~]", lambda match: _spelt(match[0]), text)


def _spelt(letter: str) -> str:
    # Cc: NUL and escapes; Cf: direction overrides, zero-width letters; Cs: halves of surrogate pairs, which cannot be written.
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs") or letter in "\u2028\u2029"
    return f"⟨U+{ord(letter):04X}⟩" if hidden else letter


def short(prompt: str) -> str:
    """A prompt of bearable length on one line."""
    line = " ".join(prompt.split())
    if len(line) <= PROMPT_LETTERS:
        return line
    return f"{line[:PROMPT_LETTERS]}… ({len(prompt):,} characters)"


def seed(value: int) -> str:
    """A seed to recognise; the page has the whole of it where one points."""
    digits = str(value)
    return digits if len(digits) <= SEED_DIGITS else f"…{digits[-SEED_DIGITS:]}"


def rate(value: float) -> str:
    """A win rate: 0.83."""
    return f"{value:.2f}"


def decimals(value: float, digits: int) -> str:
    """A score with a true minus."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A gain with its sign and a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def brief(value: float) -> str:
    """A difference of any size: its sign, two digits, a true minus."""
    return f"{value:+.2g}".replace("-", "−")


def gain_digits(gains: Iterable[float]) -> int:
    """Decimals that show all of these gains: three, and more where even the largest is small (a cosine's, say)."""
    largest = max((abs(gain) for gain in gains), default=0.0)
    return 3 if largest == 0 else max(3, 1 - math.floor(math.log10(largest)))


def plain(value: object) -> str:
    """A setting or a measured number, without noise digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", f"{value:.4g}")
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return str(value)


def p_value(value: float) -> str:
    """p as readers expect it."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def verdict(low: float, high: float) -> str:
    """What a win rate's interval says: "better", "worse" or "even"."""
    if low > HALF:
        return "better"
    return "worse" if high < HALF else "even"
