"""Which rival a reference opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.rivals.names import KINDS, names_checkpoint
from sseg_core.evaluation.rivals.registry import open_rival
from sseg_core.evaluation.rivals.rival import Rival
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary

WORDS = Vocabulary.of(("cat", "dog"), synonyms={"dog": ("dog", "puppy")}, background=("sky",))


@pytest.fixture
def open_(tmp_path: Path) -> Callable[..., Rival]:
    """Opens a rival on the CPU, with a store in the folder of the test."""

    def call(reference: str | None, view: View | None = None, **options: Any) -> Rival:
        store = ArtifactStore(tmp_path / "store")
        view, device = view or View(), torch.device("cpu")
        return open_rival(reference, view, store=store, device=device, **options)

    return call


@pytest.mark.parametrize("kind", ["clip", "maskclip", "clip-output", "pseudomask-clip"])
def test_every_clip_rival_segments_by_its_name(
    kind: str,
    open_: Callable[..., Rival],
    clip_config: dict[str, Any],
    clip_file: Path,
    photo: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With local weights; the label maps are int16 in the image's size and in its classes."""
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(clip_config))
    rival = open_(
        f"{kind}:ViT-B-16",
        View(short_side=48, window=32, stride=16, min_share=0.05),
        weights=str(clip_file),
        generator=PseudomaskConfig(features="rgb", masks=4, image_size=64, grid=16),
    )
    assert rival.reference == f"{kind}:ViT-B-16"
    assert rival.parents == ()
    assert any("open_clip_model.safetensors" in note for note in rival.notes)
    for image, prediction in zip(
        images := [photo(40, 60), photo(50, 20)], rival.segment(images, WORDS), strict=True
    ):
        assert prediction.label_map.dtype == np.int16
        assert prediction.label_map.shape == image.shape[:2]
        assert set(np.unique(prediction.label_map)) <= {-1, 0, 1}


def test_a_checkpoint_is_what_is_no_kind(
    open_: Callable[..., Rival],
    make_checkpoint: Callable[[ArtifactStore], Artifact],
    tmp_path: Path,
) -> None:
    """By name, by version, by path, or the newest."""
    artifact = make_checkpoint(ArtifactStore(tmp_path / "store"))
    for reference in ("random", "random:v1", str(artifact.path), None):
        assert open_(reference).parents == (artifact,)
    with pytest.raises(ArtifactError, match="no checkpoint artifact 'rondom'"):
        open_("rondom")
    assert names_checkpoint("random:v1")
    assert names_checkpoint(None)
    with pytest.raises(ConfigError, match="random has its own weights"):
        open_("random", weights="file.pt")


def test_a_python_file_is_a_plug_in(open_: Callable[..., Rival], tmp_path: Path) -> None:
    """Whatever its name looks like."""
    file = tmp_path / "clip.py"
    file.write_text(
        "import numpy as np\n"
        "def build():\n"
        "    return lambda images, names: [np.zeros(i.shape[:2], int) for i in images]\n"
    )
    rival = open_(f"{file}:build")
    assert rival.reference == "clip.py:build"
    image = np.zeros((2, 3, 3), np.uint8)
    assert rival.segment([image], WORDS)[0].label_map.tolist() == [[0] * 3] * 2
    with pytest.raises(ConfigError, match="has its own weights"):
        open_(f"{file}:build", weights="file.pt")


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("maskclp:ViT-B-16", "no kind of model 'maskclp'", "'maskclip'"),
        ("sam:ViT-B-16", "no kind of model 'sam'", "Choose one of: clip, clip-output, groupvit"),
        ("maskclip:ViT-B16", "'ViT-B16' is no CLIP", "'ViT-B-16'"),
        ("maskclip", "'' is no CLIP of open_clip", "ViT-B-16"),
        ("my_model.py", "does not say which function", "my_model.py:build"),
    ],
)
def test_what_nothing_is_called_gets_a_hint(
    reference: str, message: str, hint: str, open_: Callable[..., Rival]
) -> None:
    """The kind, the architecture or the function."""
    with pytest.raises(ConfigError, match=message) as error:
        open_(reference)
    assert hint in error.value.hint
    if "no kind" in message:
        with pytest.raises(ConfigError, match=message):
            names_checkpoint(reference)


def test_the_list_of_kinds_opens(open_: Callable[..., Rival]) -> None:
    """Each of them is known, which shows in what is missing: a connection, never the kind."""
    for kind in KINDS:
        reference = kind.partition("[")[0].replace("ARCH", "ViT-S-16").replace("FILE", "none")
        with pytest.raises((ArtifactError, ConfigError)) as error:
            open_(reference, weights="/nowhere")
        assert "no kind" not in error.value.message
        assert not names_checkpoint(reference)
