"""The public face: what `import inpo` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import inpo


@pytest.mark.parametrize("name", inpo.__all__)
def test_every_public_name_exists(name: str) -> None:
    """Lazy names resolve; a module or a thing with a docstring."""
    assert getattr(inpo, name).__doc__


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trian'"):
        inpo.trian  # noqa: B018


def test_names_are_listed() -> None:
    assert set(inpo.__all__) <= set(dir(inpo))


def modules_after(code: str) -> set[str]:
    """Top-level packages loaded by a fresh interpreter that ran `code`."""
    listing = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", f"{code}; {listing}"], capture_output=True, text=True, check=True).stdout.split())


def test_importing_costs_torch_and_no_more() -> None:
    """`import inpo` loads nothing that `import torch` does not load, but itself: counted, not timed."""
    extra = modules_after("import inpo") - modules_after("import torch")
    assert extra == {"inpo"}


def test_the_mathematics_needs_torch_only() -> None:
    """Methods, noising, objectives, schedules: no diffusers, no pyarrow, nothing."""
    extra = modules_after("import inpo.methods, inpo.world.gaussian") - modules_after("import torch")
    assert extra <= {"inpo"}


def test_the_report_needs_no_torch() -> None:
    """It reads files: neither torch nor any model library is loaded for it."""
    assert not modules_after("import inpo.report") & {"torch", "diffusers", "transformers", "accelerate"}
