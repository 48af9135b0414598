"""A pipeline's scheduler_config.json to the path from data to noise, and what the network predicts on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inpo.errors import InputError
from inpo.models.families import Family
from inpo.schedule import FLOW_TIME_SCALE, FlowSchedule, PredictionType, Schedule, vp_from_config

FLOW = "FlowMatchEulerDiscreteScheduler"
# Each moves the sampler's grid, or makes it depend on the picture's size.
_OTHER_GRIDS = (
    "use_dynamic_shifting", "shift_terminal", "invert_sigmas", "stochastic_sampling", "use_karras_sigmas", "use_exponential_sigmas",
    "use_beta_sigmas",
)  # fmt: skip


def read_schedule(config: Mapping[str, object], file: Path, family: Family, *, asserted: str | None) -> tuple[Schedule, PredictionType]:
    """The schedule of a family's pipeline and its network's prediction, from `config`, the content of `file`.

    `asserted`: what the user expects it to predict. Raises `InputError` for a scheduler of the other kind, for settings that are not
    supported, and where the user expects something else.
    """
    kind = str(config.get("_class_name", ""))
    if ("FlowMatch" in kind) != (family.noise == "flow"):
        wanted, path = (FLOW, "a rectified flow") if family.noise == "flow" else ("DDIMScheduler", "a table of noise levels")
        raise InputError(f"{file} is of a {kind or 'scheduler without _class_name'}; {family.title} follows {path}: expected a {wanted}")
    schedule, prediction_type = _flow(config, file) if family.noise == "flow" else _table(config, file)
    if asserted not in (None, prediction_type):
        raise InputError(
            f"model.prediction={asserted!r}, but {file} says prediction_type={prediction_type!r}: use a recipe for such a model, "
            "or mend that file if the network was trained otherwise (results are saved with it)"
        )
    return schedule, prediction_type


def _flow(config: Mapping[str, object], file: Path) -> tuple[Schedule, PredictionType]:
    kind = config["_class_name"]
    other = next((key for key in _OTHER_GRIDS if config.get(key)), None)
    if other or kind != FLOW:
        raise InputError(f"{file}: {other or '_class_name'}={config[other or '_class_name']!r} is not supported; expected a plain {FLOW}")
    shift, times = config.get("shift", 1.0), config.get("num_train_timesteps", FLOW_TIME_SCALE)
    if not isinstance(shift, int | float) or not shift > 0 or times != FLOW_TIME_SCALE:
        raise InputError(f"{file}: shift={shift!r} must be a number above 0, and num_train_timesteps={times!r} must be 1000")
    return FlowSchedule(float(shift)), "flow"


def _table(config: Mapping[str, object], file: Path) -> tuple[Schedule, PredictionType]:
    kind = str(config.get("_class_name", ""))
    if kind.startswith("EDM") or config.get("timestep_type") == "continuous":
        raise InputError(f"{file} is of a {kind} in continuous time: a model of EDM's kind, which is not supported")
    said = config.get("prediction_type", "epsilon")
    if said not in ("epsilon", "v_prediction"):
        raise InputError(f"{file}: prediction_type={said!r} is not supported; expected epsilon or v_prediction")
    prediction_type: PredictionType = "epsilon" if said == "epsilon" else "v_prediction"
    try:
        schedule = vp_from_config(config)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    if prediction_type == "epsilon" and not bool(schedule.alphas_cumprod.all()):
        cause = "rescale_betas_zero_snr" if config.get("rescale_betas_zero_snr") else "a beta of 1"
        raise InputError(f"{file}: {cause} needs prediction_type v_prediction: at α_T = 0 an ε says nothing about x_0")
    return schedule, prediction_type
