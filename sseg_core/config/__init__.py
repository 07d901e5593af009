"""Every option of every stage: one frozen pydantic model per stage, unknown keys refused.

The description of a field is its help text. Complete, named configurations are in `recipes.py`.
"""

from sseg_core.config.base import MAX_PIXELS, C, Config, build_config
from sseg_core.config.data import DownloadConfig, PseudomaskConfig, ToyWorldConfig
from sseg_core.config.model import BackboneConfig, DecoderConfig, ModelConfig, TextConfig
from sseg_core.config.train import (
    LoaderConfig,
    LossConfig,
    MasksConfig,
    OptimConfig,
    ProbeConfig,
    TrainConfig,
)
from sseg_core.config.use import DemoConfig, EvalConfig, PredictConfig

__all__ = [
    "MAX_PIXELS",
    "BackboneConfig",
    "C",
    "Config",
    "DecoderConfig",
    "DemoConfig",
    "DownloadConfig",
    "EvalConfig",
    "LoaderConfig",
    "LossConfig",
    "MasksConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictConfig",
    "ProbeConfig",
    "PseudomaskConfig",
    "TextConfig",
    "ToyWorldConfig",
    "TrainConfig",
    "build_config",
]
