"""Trained checkpoints behind the door that all rivals go through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import (
    BackboneConfig,
    DecoderConfig,
    LoaderConfig,
    MasksConfig,
    ModelConfig,
    PseudomaskConfig,
    TextConfig,
    TrainConfig,
)
from sseg_core.errors import ArtifactError
from sseg_core.evaluation.rivals.checkpoint import CheckpointRival, open_checkpoint
from sseg_core.evaluation.rivals.rival import Rival
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.word_network import WordNetwork
from sseg_core.models.build import build_model

CPU = torch.device("cpu")
MakeCheckpoint = Callable[[ArtifactStore], Artifact]

B2 = TrainConfig(
    recipe="pseudomask_vit",
    masks=MasksConfig(generator=PseudomaskConfig(features="lab", masks=4, image_size=48, grid=16)),
    model=ModelConfig(
        architecture="pseudomask_vit",
        backbone=BackboneConfig(
            name="vit_tiny_patch16_224",
            out_indices=(-1,),
            options={"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
        ),
        decoder=DecoderConfig(num_queries=4),
        text=TextConfig(layers=1, width=32, heads=2, context_length=8),
        embed_dim=16,
    ),
    loader=LoaderConfig(load_size=32, crop_size=32),
)
"""Baseline 2 at the size of a test."""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _publish_b2(store: ArtifactStore) -> None:
    torch.manual_seed(0)
    with store.draft("checkpoint", "b2", B2.model_dump(mode="json")) as draft:
        save_weights(build_model(B2.model), draft.path / WEIGHTS)
        draft.publish({"steps": 0})


def _again(store: ArtifactStore, like: Artifact, name: str, changes: dict[str, Any]) -> None:
    """Publish the same weights with another configuration."""
    config = TrainConfig.model_validate(like.manifest.config).model_copy(update=changes)
    with store.draft("checkpoint", name, config.model_dump(mode="json")) as draft:
        (draft.path / WEIGHTS).write_bytes(like.file(WEIGHTS).read_bytes())
        draft.publish({"steps": 0})


def _image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["sseg", "b2"])
def test_predictions_are_those_of_the_segmenter(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint, kind: str
) -> None:
    """S-Seg and baseline 2: classes before any threshold, and the probability as confidence."""
    if kind == "sseg":
        make_checkpoint(store)
    else:
        _publish_b2(store)
    rival: Rival = open_checkpoint(None, View(), store, CPU)
    images = [_image(), _image()[:30]]
    predictions = rival.segment(images, Vocabulary.of(["cat", "dog", "sky"]))
    segmenter = Segmenter.load(store=store, device="cpu")
    for image, prediction in zip(images, predictions, strict=True):
        expected = segmenter.segment(image, ["cat", "dog", "sky"])
        assert prediction.label_map.shape == image.shape[:2]
        assert prediction.label_map.dtype == np.int16
        assert prediction.label_map.min() >= 0
        assert np.array_equal(prediction.label_map, expected.label_map)
        assert prediction.confidence is not None
        assert np.array_equal(prediction.confidence, expected.probabilities)


def test_the_view_is_completed_and_followed(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """The model fills in its own size, template and temperature; the protocol's part is kept."""
    artifact = make_checkpoint(store)
    rival = open_checkpoint("random", View(window=48, stride=24, refine="pamr"), store, CPU)
    assert rival.reference == "random:v1"
    assert rival.parents == (artifact,)
    assert rival.view == View(
        64,
        48,
        24,
        ("{}",),
        logit_scale=rival.view.logit_scale,
        refine="pamr",
        scales=(1.0,),
        flip=False,
    )
    assert rival.view.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    vocabulary = Vocabulary.of(["cat", "dog"])
    [windows] = rival.segment([_image()], vocabulary)
    [whole] = open_checkpoint("random", View(), store, CPU).segment([_image()], vocabulary)
    assert windows.confidence is not None
    assert whole.confidence is not None
    assert np.abs(windows.confidence - whole.confidence).max() > 1e-6


def test_synonyms_and_background_words_are_asked_for(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """Labels are classes of the vocabulary; words for background are -1."""
    make_checkpoint(store)
    rival = open_checkpoint(None, View(), store, CPU)
    words = ["cat", "dog", "sky", "grass"]
    [plain] = rival.segment([_image()], Vocabulary.of(words))
    background = Vocabulary(tuple(words), (1, 0, 1, -1), ("a", "b"))
    [mapped] = rival.segment([_image()], background)
    assert np.array_equal(mapped.label_map, np.array([1, 0, 1, -1])[plain.label_map])


def test_notes_say_what_a_model_learned_from(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """The network and its recipe; a start or pseudo-masks that bring annotation in."""
    artifact = make_checkpoint(store)
    assert open_checkpoint("random", View(), store, CPU).notes == ("S-Seg",)
    config = TrainConfig.model_validate(artifact.manifest.config)
    backbone = config.model.backbone.model_copy(
        update={"name": "resnet10t.c3_in1k", "weights": "/gone/resnet.safetensors"}
    )
    model = config.model.model_copy(update={"backbone": backbone})
    masks = MasksConfig(generator=PseudomaskConfig(features="imagenet_vits16"))
    _again(store, artifact, "warm", {"recipe": "small", "model": model, "masks": masks})
    what, start, features = open_checkpoint("warm", View(), store, CPU).notes
    assert what == "S-Seg, trained from the recipe small"
    assert "resnet.safetensors learned from labels" in start
    assert "imagenet_vits16, learned from labels" in features
    dino = MasksConfig(generator=PseudomaskConfig(features="dino_vits8"))
    _again(store, artifact, "dino", {"masks": dino})
    assert open_checkpoint("dino", View(), store, CPU).notes == ("S-Seg",)
    _publish_b2(store)
    [what] = open_checkpoint("b2", View(), store, CPU).notes
    assert "baseline 2" in what
    assert "recipe pseudomask_vit" in what


def test_notes_of_a_student_name_its_teacher_and_what_its_backbone_brings(
    store: ArtifactStore, make_student: Callable[..., Artifact]
) -> None:
    """And the licence of what training started from, which need not be there any more."""
    make_student(store, ["cat"], background=True)
    rival = open_checkpoint("plus", View(), store, CPU)
    assert rival.notes == ("S-Seg+ (UperNet on resnet10t), a student",)
    assert (rival.takes_words, rival.tells_background) == (False, True)
    stats = {"teacher": "demo:v3", "licence": "apache-2.0"}
    start = {"pretrained": True}
    make_student(store, ["cat"], background=True, backbone=start, stats=stats)
    first, origin, licence = open_checkpoint("plus", View(), store, CPU).notes
    assert first == "S-Seg+ (UperNet on resnet10t), a student of demo:v3"
    assert origin.startswith("The weights of resnet10t.c3_in1k learned from labels")
    assert licence == "The weights that its backbone started from are under apache-2.0."


def test_a_model_in_training_has_no_artifact() -> None:
    """A segmenter built from parts is a rival, too, without parents and notes."""
    torch.manual_seed(0)
    network = WordNetwork(
        build_model(B2.model), lambda texts: np.full((len(texts), 4), 49407), image_size=32
    )
    rival = CheckpointRival(Segmenter(network), View())
    assert (rival.reference, rival.parents, rival.notes) == ("model", (), ())
    assert rival.view.short_side == 32


def test_a_missing_checkpoint_is_an_error(store: ArtifactStore) -> None:
    """There is none in an empty store."""
    with pytest.raises(ArtifactError, match="no checkpoint"):
        open_checkpoint(None, View(), store, CPU)
