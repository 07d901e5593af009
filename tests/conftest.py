"""What tests of several folders need: small checkpoints, the real data, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos, at `$SSEG_DATA` or beside the repository; skips without it."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSEG_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SSEG_DATA")
    return folder


@pytest.fixture(autouse=True)
def _cache_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the text embeddings of the user's own cache."""
    monkeypatch.setenv("SSEG_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")  # while it is open, asyncio of other tests cannot run
def browser() -> Iterator[Any]:
    """Return a headless Chromium, or skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def make_checkpoint() -> Callable[[ArtifactStore], Artifact]:
    """Publishes a checkpoint with the weights of an untrained model of 32-pixel crops."""
    import torch

    from sseg_core.checkpoint import WEIGHTS, save_weights
    from sseg_core.config import (
        BackboneConfig,
        DecoderConfig,
        LoaderConfig,
        ModelConfig,
        TextConfig,
        TrainConfig,
    )
    from sseg_core.models.build import build_model

    config = TrainConfig(
        model=ModelConfig(
            backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)),
            decoder=DecoderConfig(
                num_queries=5, hidden_dim=32, layers=1, heads=2, feedforward_dim=32,
                mask_feature="pooled",
            ),
            text=TextConfig(layers=1, width=32, heads=2, context_length=8),
            embed_dim=16,
        ),
        loader=LoaderConfig(load_size=32, crop_size=32),
    )  # fmt: skip

    def make(store: ArtifactStore) -> Artifact:
        torch.manual_seed(0)
        model = build_model(config.model)
        with store.draft("checkpoint", "random", config.model_dump(mode="json")) as draft:
            save_weights(model, draft.path / WEIGHTS)
            return draft.publish({"steps": 0})

    return make


@pytest.fixture
def make_student() -> Callable[..., Artifact]:
    """Publishes a checkpoint with the weights of an untrained student of some classes."""
    import torch

    from sseg_core.checkpoint import WEIGHTS, save_weights
    from sseg_core.config import BackboneConfig, CropConfig, StudentConfig, UperNetConfig
    from sseg_core.models.student import build_student

    def make(
        store: ArtifactStore,
        names: Sequence[str],
        *,
        background: bool,
        name: str = "plus",
        backbone: dict[str, Any] | None = None,
        stats: dict[str, Any] | None = None,
    ) -> Artifact:
        config = StudentConfig(
            model=UperNetConfig(
                backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)),
                channels=8,
                auxiliary=False,
                class_names=tuple(names),
                has_background=background,
            ),
            loader=CropConfig(short_side=64),
        )
        torch.manual_seed(0)
        student = build_student(config.model)
        start = config.model.backbone.model_copy(update=backbone or {})
        model = config.model.model_copy(update={"backbone": start})
        values = config.model_copy(update={"model": model}).model_dump(mode="json")
        with store.draft("checkpoint", name, values) as draft:
            save_weights(student, draft.path / WEIGHTS)
            return draft.publish({"steps": 0, **(stats or {})})

    return make
