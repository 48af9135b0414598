"""The trainer: one step (`step`), the loop around it (`trainer`), and what a run leaves behind (`run`, `checkpoint`, `metrics`).

It meets models and data by protocol and imports neither. Only `trainer` and its helpers need accelerate, so the settings
that a configuration composes cost nothing to import.
"""

from inpo.training.settings import OptimizerConfig, Settings, TrainConfig

__all__ = ["OptimizerConfig", "Settings", "TrainConfig"]
