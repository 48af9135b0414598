"""A finished run as a pair of networks, what it trained and what that departed from: `implicit:RUN` becomes a scorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from inpo.checking import one_of, whole
from inpo.config import Experiment, load_experiment
from inpo.data.config import SizeChoice
from inpo.errors import InputError, nearest
from inpo.models.config import Lora, ModelConfig
from inpo.models.folders import unfinished
from inpo.noising import Forward, Inversion, Noising

if TYPE_CHECKING:
    from torch import Tensor

    from inpo.evaluation.rewards.implicit import ImplicitScorer, Shown
    from inpo.models.model import Model
    from inpo.types import Denoiser

PREFIX = "implicit"
Points = Literal["run", "inversion", "forward"]
Loader = Callable[[ModelConfig, Lora | None], "Model"]
"""`inpo.compose.load`."""


@dataclass(frozen=True)
class ImplicitConfig:
    """What stands behind the `?` of `implicit:RUN?times=20&noising=inversion`.

    times: points of the path at which a picture is looked at; below 10, or a multiple of 10.
    noising: how the latents that belong to a picture are found: as the run's method does, by `Inversion()`, or by `Forward()`.
    batch: how many of a picture's points go through a network together. Fewer take less memory; only rounding depends on it.
    """

    times: int = 10
    noising: Points = "run"
    batch: int = 10

    def __post_init__(self) -> None:
        whole("times", self.times, low=1)
        if self.times > 10 and self.times % 10:
            raise InputError(f"times={self.times} must be below 10 or a multiple of 10: each tenth of the path has as many")
        one_of("noising", self.noising, get_args(Points))
        whole("batch", self.batch, low=1)

    @classmethod
    def parse(cls, text: str) -> ImplicitConfig:
        """From `key=value&key=value`. Raises `InputError` naming the key."""
        values: dict[str, int | str] = {}
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        for item in filter(None, text.split("&")):
            key, _, value = item.partition("=")
            if key not in kinds:
                raise InputError(f"{key!r} is not an option of implicit:RUN{nearest(key, kinds)}; known: {', '.join(kinds)}")
            values[key] = int(value) if kinds[key] is int and value.isdecimal() else value
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks what was read


@dataclass(frozen=True)
class AlignedRun:
    """A finished run: its folder and what it was told to do. `adapters`: those that its result consists of, if it does."""

    folder: Path
    experiment: Experiment
    adapters: Lora | None

    @classmethod
    def read(cls, folder: Path) -> AlignedRun:
        """Raises `InputError` for a folder that is no run, or a run that did not finish."""
        if not (folder / "config.yaml").is_file():
            runs = sorted(str(found.parent) for found in folder.glob("*/config.yaml")) if folder.is_dir() else []
            instead = f" (did you mean {runs[0]!r}?)" if runs else ""
            raise InputError(f"{folder} is not a run: it has no config.yaml{instead}; give the --out of inpo train")
        if not (folder / "model").is_dir():
            raise unfinished(str(folder), folder)
        return cls(folder, load_experiment(str(folder / "config.yaml")), _adapters(folder / "model"))

    def networks(self, load: Loader) -> _Networks:
        """Policy and reference as training had them: one network where its result is adapters. Raises `InputError`."""
        try:
            model = load(self.experiment.model, self.adapters)
        except InputError as error:
            raise InputError(f"implicit:{self.folder}: the base that its config.yaml names cannot be used: {error}") from error
        reference, base = model.reference(), model.fingerprint()
        model.load_policy(self.folder / "model" / ("" if self.adapters else model.family.network.name))
        return _Networks(model, reference, {"policy": model.fingerprint(), "reference": base})

    def noising(self, points: Points) -> Noising:
        """How the latents that belong to a picture are found."""
        return {"run": self.experiment.method.noising, "inversion": Inversion(), "forward": Forward()}[points]


@dataclass(frozen=True)
class _Networks:
    """The policy with what is around it, its reference, and hashes of both for results files."""

    model: Model
    reference: Denoiser
    hashes: Mapping[str, str]


def implicit_scorer(name: str, load: Loader) -> ImplicitScorer:
    """The scorer that `implicit:RUN` or `implicit:RUN?times=20` names. Raises `InputError`."""
    from inpo.evaluation.rewards.implicit import ImplicitScorer
    from inpo.implicit import ImplicitReward

    folder, _, options = name.removeprefix("implicit:").partition("?")
    config, run = ImplicitConfig.parse(options), AlignedRun.read(Path(folder).expanduser())
    networks, noising, data = run.networks(load), run.noising(config.noising), run.experiment.data
    model, resolution = networks.model, data.resolution or networks.model.default_resolution
    reward = ImplicitReward(model.policy.eval(), networks.reference, noising, config.times, config.batch)
    spec = {
        "format": "implicit", "times": config.times, "noising": {"kind": type(noising).__name__, **vars(noising)},
        "resolution": resolution, "sizes": data.sizes, "dtype": run.experiment.model.dtype, **networks.hashes,
    }  # fmt: skip
    return ImplicitScorer(reward, model.encoder, _view(resolution, data.sizes), name=name, spec=spec)


def _view(resolution: int, sizes: SizeChoice) -> Callable[[Tensor], Shown]:
    """A picture as the run's held-out pairs were shown: the largest square in its centre."""
    from PIL import Image

    from inpo.data.transform import CENTER, show, sizes_of
    from inpo.evaluation.rewards.implicit import Shown

    def view(picture: Tensor) -> Shown:
        image = Image.fromarray(picture.cpu().numpy())
        told = sizes_of(image.size, CENTER, resolution) if sizes == "original" else None
        return Shown(show(image, CENTER, resolution), told)

    return view


def _adapters(result: Path) -> Lora | None:
    from inpo.models.base import ADAPTER_FILE
    from inpo.models.lora import adapter_part, adapter_settings

    file = result / ADAPTER_FILE
    return adapter_settings(file, adapter_part(file)) if file.is_file() else None
