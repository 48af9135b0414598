"""The templates, which escape whatever they print, and the page's own style."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from inpo.report import wording
from inpo.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def style() -> Mapping[str, object]:
    """What a page's head wants: the style, and the hash by which the page allows that one and no other."""
    from markupsafe import Markup

    text = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    return {"style": Markup(text), "style_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")}


def environment() -> Environment:
    """Undefined names are errors: a page without a number that it should have would go unnoticed."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Whatever a template prints: nothing invisible, nothing that turns the line round."""
        return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": wording.rate, "decimals": wording.decimals, "signed": wording.signed, "brief": wording.brief,
        "plain": wording.plain, "p_value": wording.p_value,
        "short": wording.short, "seed": wording.seed, "json": json.dumps, "name": wording.display_name,
    }  # fmt: skip
    environment.globals |= {
        "chart": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    }
    return environment
