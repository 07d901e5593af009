"""What `sseg export` writes says what the checkpoint says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import (
    BackboneConfig,
    ExportConfig,
    ModelConfig,
    TextConfig,
    TrainConfig,
    UperNetConfig,
)
from sseg_core.errors import ConfigError, SsegError
from sseg_core.export import folder as export_folder
from sseg_core.export import graphs
from sseg_core.export import precision as export_precision
from sseg_core.export.graphs import ClassGraph, write_class_graph
from sseg_core.export.parity import TOLERANCES
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.models.build import build_model
from sseg_core.models.student import build_student
from sseg_core.stages import evaluate
from sseg_core.stages import export as stage

NAMES = ("house", "tree", "sky", "grass")
SIZES = [(40, 60), (33, 97), (7, 5), (128, 64)]


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    rows, columns = np.arange(height)[:, None] * 7 // height, np.arange(width) * 9 // width
    picture: np.ndarray = small[rows, columns]
    return picture


def _checkpoint(store: ArtifactStore, model: ModelConfig, name: str) -> Artifact:
    torch.manual_seed(0)
    config = TrainConfig(model=model)
    config = config.model_copy(
        update={"loader": config.loader.model_copy(update={"crop_size": 32, "load_size": 32})}
    )
    with store.draft("checkpoint", name, config.model_dump(mode="json")) as draft:
        save_weights(build_model(config.model), draft.path / WEIGHTS)
        return draft.publish({"steps": 0})


def _model(backbone: BackboneConfig, **decoder: Any) -> ModelConfig:
    base = ModelConfig()
    sizes = {"num_queries": 6, "hidden_dim": 32, "layers": 3, "heads": 2, "feedforward_dim": 32}
    return base.model_copy(
        update={
            "backbone": backbone,
            "decoder": base.decoder.model_copy(update={**sizes, **decoder}),
            "text": TextConfig(layers=2, width=32, heads=2, context_length=12),
            "embed_dim": 16,
        }
    )


RESNET = BackboneConfig(name="resnet10t", out_indices=(1, 2, 3))
SWIN = BackboneConfig(
    name="swin_tiny_patch4_window7_224",
    options={"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 2)},
)
MODELS = {
    "pooled": _model(RESNET, mask_feature="pooled"),
    "query": _model(RESNET, mask_feature="query"),
    "masked": _model(RESNET, mask_feature="pooled", masked_attention=True),
    "swin": _model(SWIN, mask_feature="query", masked_attention=True),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[ArtifactStore, Artifact]]:
    """Exports a model of some kind in some precision, once."""
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    done: dict[str, Artifact] = {}

    def make(kind: str, precision: Any = "fp32") -> tuple[ArtifactStore, Artifact]:
        if not store.artifacts("checkpoint") or kind not in {
            a.manifest.name for a in store.artifacts("checkpoint")
        }:
            _checkpoint(store, MODELS[kind], kind)
        name = f"{kind}-{precision}"
        if name not in done:
            config = ExportConfig(model=kind, precision=precision, scenes=0)
            done[name] = stage.run(config, store, name=name)
        return store, done[name]

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_an_export_labels_as_its_checkpoint(made: Callable[..., Any], kind: str) -> None:
    """Sizes that it was not written with, windows, mirror images, one class and many."""
    store, artifact = made(kind)
    trained = Segmenter.load(kind, store=store, device="cpu")
    exported = Segmenter.load(str(artifact.path), store=store, device="cpu")
    assert (exported.image_size, exported.template) == (trained.image_size, trained.template)
    many = [f"thing {number}" for number in range(60)]
    views = [
        View(),
        View(short_side=48, window=32, blend="taper"),
        View(scales=(0.5, 1), flip=True),
    ]
    for size in SIZES:
        for names in (NAMES, NAMES[:1], many):
            for view in views:
                ours = trained.segment(_photo(*size), names, view=view)
                theirs = exported.segment(_photo(*size), names, view=view)
                np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
                assert (theirs.label_map == ours.label_map).mean() > 0.999


def test_the_folder_says_what_it_holds(made: Callable[..., Any]) -> None:
    """Description, comparison and card; the artifact has the checkpoint as its parent."""
    _, artifact = made("pooled")
    assert artifact.problems() == []
    assert artifact.manifest.parents[0].name == "pooled"
    model = json.loads(artifact.file("model.json").read_text())
    assert (model["format"], model["kind"], model["stride"]) == (1, "words", 4)
    parity = json.loads(artifact.file("parity.json").read_text())
    sizes = [(case["height"], case["width"]) for case in parity["cases"]]
    assert (448, 448) in sizes
    assert any(height % 4 and width % 4 for height, width in sizes)
    assert {case["classes"] for case in parity["cases"]} >= {1, 2, 171}
    assert max(case["probability"] for case in parity["cases"]) <= TOLERANCES["fp32"][0]
    assert parity["text_features"] < 1e-5
    card = artifact.file("MODEL_CARD.md").read_text()
    assert "pooled:v1" in card
    assert "token_ids" in card
    for name in ("image.onnx", "text.onnx"):
        onnx.checker.check_model(onnx.load(artifact.file(name)))


def test_sizes_and_classes_are_left_open(made: Callable[..., Any]) -> None:
    """Of the graph's inputs and outputs."""
    _, artifact = made("swin")
    graph = onnx.load(artifact.file("image.onnx")).graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["images"] == ["B", 3, "H", "W"]
    assert shapes["text_features"] == ["C", 16]
    assert shapes["mask_logits"][0] == "B"
    assert shapes["class_probabilities"][2] == "C"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_precisions_stay_near(made: Callable[..., Any], precision: str) -> None:
    """They are smaller, take and give float32, and label nearly the same."""
    store, whole = made("swin")
    _, small = made("swin", precision)
    for name in ("image.onnx", "text.onnx"):
        assert small.manifest.files[name].bytes < 0.9 * whole.manifest.files[name].bytes
    trained = Segmenter.load("swin", store=store, device="cpu")
    exported = Segmenter.load(small.reference, store=store, device="cpu")
    same = [
        (
            trained.segment(_photo(*size), NAMES).label_map
            == exported.segment(_photo(*size), NAMES).label_map
        ).mean()
        for size in SIZES
    ]
    assert np.mean(same) > TOLERANCES[precision][1] - 0.05  # type: ignore[index]


@pytest.mark.parametrize("background", [False, True])
def test_a_student_is_exported_the_same_way(
    tmp_path: Path, make_student: Callable[..., Artifact], background: bool
) -> None:
    """Its pools too, which ONNX has for maps of one size only."""
    store = ArtifactStore(tmp_path)
    make_student(store, NAMES, background=background, stats={"teacher": "demo:v1"})
    artifact = stage.run(ExportConfig(scenes=0), store)
    trained = Segmenter.load("plus", store=store, device="cpu")
    exported = Segmenter.load(str(artifact.path), device="cpu")
    assert exported.class_names == NAMES
    assert exported.tells_background is background
    for size in SIZES:
        ours, theirs = (s.segment(_photo(*size), NAMES[:2]) for s in (trained, exported))
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
        assert (theirs.label_map == ours.label_map).mean() > 0.999
    assert "house, tree" in artifact.file("MODEL_CARD.md").read_text()


def test_pools_of_any_map_are_those_of_torch(
    make_student: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Where parts overlap and where the map has fewer cells than the grid."""
    store = ArtifactStore(tmp_path)
    make_student(store, NAMES, background=False)
    student = Segmenter.load("plus", store=store, device="cpu")._network.student  # type: ignore[attr-defined]
    graph = ClassGraph(student)
    for height, width in ((1, 1), (2, 3), (5, 4), (7, 13), (12, 12)):
        maps = torch.rand(2, 3, height, width)
        for own, copy in zip(student.head.pools, graph.student.head.pools, strict=True):
            torch.testing.assert_close(copy[0](maps), own[0](maps))


@pytest.mark.parametrize(
    ("spoiled", "problem"),
    [
        ("image.onnx", r"differs from the network for images of \d+ x \d+ pixels"),
        ("text.onnx", "differs from the network for words"),
    ],
)
def test_a_graph_that_differs_is_refused(
    tmp_path: Path,
    make_checkpoint: Callable[[ArtifactStore], Artifact],
    monkeypatch: pytest.MonkeyPatch,
    spoiled: str,
    problem: str,
) -> None:
    """Weights that are off by a fifth are found; nothing is published."""
    store = ArtifactStore(tmp_path)
    make_checkpoint(store)

    def spoil(path: Path, _: str) -> None:
        if spoiled not in path.name:
            return
        model = onnx.load(path)
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1:
                values = numpy_helper.to_array(weight)
                noise = np.random.default_rng(0).normal(0, 0.2 * values.std(), values.shape)
                spoiled_values = (values + noise).astype(np.float32)
                weight.CopyFrom(numpy_helper.from_array(spoiled_values, weight.name))
        onnx.save(model, path)

    monkeypatch.setattr(export_folder, "convert", spoil)
    with pytest.raises(SsegError, match=problem):
        stage.run(ExportConfig(scenes=0), store)
    assert store.artifacts("export") == []


def test_what_has_no_graph_is_refused(tmp_path: Path) -> None:
    """The paper's baseline 2 clusters each photo."""
    store = ArtifactStore(tmp_path)
    base = ModelConfig(architecture="pseudomask_vit")
    config = TrainConfig(model=base)
    with store.draft("checkpoint", "vit", config.model_dump(mode="json")) as draft:
        (draft.path / WEIGHTS).write_bytes(b"")
        draft.publish({})
    with pytest.raises(ConfigError, match="pseudo-masks"):
        stage.run(ExportConfig(scenes=0), store)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(export_precision, "import_module", absent)
    with pytest.raises(SsegError, match="needs onnx, which is not installed") as caught:
        stage.run(ExportConfig(), ArtifactStore(tmp_path))
    assert "sseg[export]" in caught.value.hint


def test_the_change_of_the_score_is_measured(
    tmp_path: Path, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """On toy scenes, as `sseg eval` scores both the checkpoint and the export."""
    store = ArtifactStore(tmp_path)
    make_checkpoint(store)
    artifact = stage.run(ExportConfig(scenes=3), store)
    stats = artifact.manifest.stats
    assert stats["scenes"] == 3
    config = evaluate.EvalConfig(benchmark="toyworld", limit=3)
    for model, name in (("random", "toyworld_miou_torch"), (str(artifact.path), "toyworld_miou")):
        scores = evaluate.run(config.model_copy(update={"model": model}), store, device="cpu")
        assert scores.manifest.stats["miou"] == stats[name]
    assert "held-out toy scenes" in artifact.file("MODEL_CARD.md").read_text()


def test_text_graph_takes_any_number_of_texts(made: Callable[..., Any]) -> None:
    """One, and more than it was written with, short and long."""
    store, artifact = made("pooled")
    model = Segmenter.load("pooled", store=store, device="cpu")._network.model  # type: ignore[attr-defined]
    session = OnnxSession(artifact.file("text.onnx"), "cpu")
    for shape in ((1, 3), (5, 12), (300, 8)):
        ids = _tokens(shape)
        [found] = session({"token_ids": ids}, ["text_features"])
        with torch.inference_mode():
            expected = model.encode_texts(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def _tokens(shape: Sequence[int]) -> np.ndarray:
    ids = np.random.default_rng(0).integers(1, 49_000, shape)
    ids[:, -1] = 49_407
    return ids


@pytest.mark.parametrize("patch", [16, 14])
def test_a_student_on_a_vit(tmp_path: Path, patch: int) -> None:
    """As in the paper's recipes: its table of positions is resampled to any image."""
    backbone = BackboneConfig(
        name=f"vit_tiny_patch{patch}_224" if patch == 16 else "vit_small_patch14_dinov2",
        out_indices=(0, 1, 2, 3),
        options={"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 112},
    )
    config = UperNetConfig(
        backbone=backbone, channels=8, auxiliary=False, class_names=NAMES, has_background=True
    )
    torch.manual_seed(0)
    student = build_student(config).eval()
    path = tmp_path / "image.onnx"
    write_class_graph(student, path)
    session = OnnxSession(path, "cpu")
    for shape in ((1, 3, 64, 96), (2, 3, 33, 65), (1, 3, 1, 1), (1, 3, 225, 140)):
        images = torch.rand(shape)
        with torch.inference_mode():
            expected = student(images).logits.numpy()
        [found] = session({"images": images.numpy()}, ["logits"])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_torch_cannot_write_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not its traced graph of two thousand lines."""

    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            size = (images.shape[2] // 2, 7)
            return F.interpolate(images, size=size, mode="bicubic", antialias=True)

    with pytest.raises(SsegError, match="cannot write this network as ONNX") as caught:
        graphs._write(
            Odd(), (torch.rand(2, 3, 20, 30),), tmp_path / "odd.onnx", inputs=["images"],
            outputs=["logits"],
        )  # fmt: skip
    assert len(caught.value.message) < 400
    assert capfd.readouterr() == ("", "")
