"""Fixtures that every part of the suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_models import tiny_pixart, tiny_sd, tiny_sd3, tiny_sdxl

# An example that takes its time on a busy machine is no wrong one.
settings.register_profile("inpo", deadline=None)
settings.load_profile("inpo")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion 1.x pipeline folder (ε). Read-only: copy it before changing it."""
    return tiny_sd(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_v_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction."""
    return tiny_sd(tmp_path_factory.mktemp("models"), "v_prediction")


@pytest.fixture(scope="session")
def tiny_zero_snr_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction and zero terminal SNR (α_T = 0)."""
    return tiny_sd(tmp_path_factory.mktemp("models"), "v_prediction", zero_terminal_snr=True)


@pytest.fixture(scope="session")
def tiny_sdxl_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion XL pipeline folder (ε). Read-only."""
    return tiny_sdxl(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_sdxl_v_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction and zero terminal SNR."""
    return tiny_sdxl(tmp_path_factory.mktemp("models"), "v_prediction", zero_terminal_snr=True)


@pytest.fixture(scope="session")
def tiny_sd3_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion 3 pipeline folder (rectified flow) with all three text encoders. Read-only."""
    return tiny_sd3(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_pixart_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random PixArt-Σ pipeline folder (ε, a transformer). Read-only."""
    return tiny_pixart(tmp_path_factory.mktemp("models"))
