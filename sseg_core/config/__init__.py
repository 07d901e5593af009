"""Every option of every stage: one frozen pydantic model per stage, unknown keys refused.

The description of a field is its help text. Complete, named configurations are in `recipes.py`.
"""

from sseg_core.config.base import C, Config, build_config
from sseg_core.config.data import (
    DownloadConfig,
    FetchConfig,
    HubConfig,
    PseudomaskConfig,
    ToyWorldConfig,
)
from sseg_core.config.model import BackboneConfig, DecoderConfig, ModelConfig, TextConfig
from sseg_core.config.selftrain import (
    CropConfig,
    LabelConfig,
    SelftrainConfig,
    StudentConfig,
    StudentLossConfig,
    UperNetConfig,
    build_checkpoint_config,
)
from sseg_core.config.train import (
    LoaderConfig,
    LossConfig,
    MasksConfig,
    OptimConfig,
    ProbeConfig,
    RunConfig,
    TrainConfig,
)
from sseg_core.config.use import (
    AskConfig,
    DemoConfig,
    EvalConfig,
    ExportConfig,
    LookConfig,
    PredictConfig,
)

__all__ = [
    "AskConfig",
    "BackboneConfig",
    "C",
    "Config",
    "CropConfig",
    "DecoderConfig",
    "DemoConfig",
    "DownloadConfig",
    "EvalConfig",
    "ExportConfig",
    "FetchConfig",
    "HubConfig",
    "LabelConfig",
    "LoaderConfig",
    "LookConfig",
    "LossConfig",
    "MasksConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictConfig",
    "ProbeConfig",
    "PseudomaskConfig",
    "RunConfig",
    "SelftrainConfig",
    "StudentConfig",
    "StudentLossConfig",
    "TextConfig",
    "ToyWorldConfig",
    "TrainConfig",
    "UperNetConfig",
    "build_checkpoint_config",
    "build_config",
]
