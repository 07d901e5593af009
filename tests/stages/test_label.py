"""A teacher labels images: shards of labels, what the manifest tells of them, what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig, LabelConfig, build_config
from sseg_core.data.label_shards import LabelEntry, read_label_index
from sseg_core.data.toyworld import CLASSES
from sseg_core.errors import ArtifactError, DataError
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.contestants import contestant
from sseg_core.evaluation.examples import Example
from sseg_core.labelling.images import open_images
from sseg_core.stages.label import run

MakeCheckpoint = Callable[[ArtifactStore], Artifact]

# Bright, middle and dark pixels are the first, second and third class, the brighter the surer.
PLUGIN = """
import numpy as np
from sseg_core.evaluation.rivals.rival import Prediction

def grey(image):
    return image.astype(np.float32).mean(axis=2)

def build():
    def segment(images, class_names):
        return [
            Prediction(2 - (grey(i) // 86).astype(int), (grey(i) / 255).astype(np.float32))
            for i in images
        ]
    return segment

def unsure():
    return lambda images, class_names: [2 - (grey(i) // 86).astype(int) for i in images]

def constant():
    return lambda images, class_names: [np.zeros(i.shape[:2], int) for i in images]

def last():
    return lambda images, class_names: [
        np.where(grey(i) > 99, len(class_names) - 1, -1) for i in images
    ]

def rare():
    def segment(images, class_names):
        if any(i.shape[1] == 14 for i in images):
            raise ValueError("not this one")
        return build()(images, class_names)
    return segment
"""


class Told:
    """Keeps what a stage tells."""

    def __init__(self) -> None:
        self.done = 0
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        self.total = total

    def advance(self, count: int = 1, **_: str) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos in two folders, 10 to 16 pixels wide."""
    folder = tmp_path / "photos"
    for number in range(7):
        path = folder / f"{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 10 + number, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def label(store: ArtifactStore, photos: Path, tmp_path: Path) -> Callable[..., Artifact]:
    """Labels the photos by a function of the plug-in, in shards of three."""
    (tmp_path / "plugin.py").write_text(PLUGIN)

    def run_it(
        function: str = "build", *, progress: Told | None = None, **options: Any
    ) -> Artifact:
        values = {
            "images": str(photos),
            "classes": ("light", "grey", "dark"),
            "model": f"{tmp_path / 'plugin.py'}:{function}",
            "shard_size": 3,
            "batch_size": 2,
            **options,
        }
        return run(LabelConfig(**values), store, device="cpu", progress=progress or Told())

    return run_it


def _entries(artifact: Artifact) -> list[LabelEntry]:
    return read_label_index(artifact.files(".jsonl"))


def test_every_image_gets_its_labels(label: Callable[..., Artifact], photos: Path) -> None:
    """In the order of the keys, in shards, as the teacher says; and every file is listed."""
    told = Told()
    artifact = label(progress=told)
    assert (artifact.manifest.kind, artifact.reference) == ("labels", "plugin.py-build-photos:v1")
    assert set(artifact.manifest.files) == {
        *(f"labels-0000{shard}.{end}" for shard in range(3) for end in ("tar", "jsonl")),
        "sheet.jpg",
    }
    assert artifact.problems() == []
    assert (told.done, told.total) == (7, 7)
    entries = _entries(artifact)
    assert [entry.key for entry in entries] == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png")
    )
    for entry in entries:
        grey = np.array(Image.open(photos / entry.key)).astype(np.float32).mean(axis=2)
        assert np.array_equal(entry.read(0.0), 2 - grey.astype(int) // 86)
        confidence = entry.read_confidence()
        assert confidence is not None
        assert np.abs(confidence - grey / 255).max() <= 0.5 / 255 + 1e-6
    with Image.open(artifact.file("sheet.jpg")) as sheet:
        assert (sheet.format, sheet.width > 3 * 240) == ("JPEG", True)


def test_the_manifest_tells_what_the_labels_are(
    label: Callable[..., Artifact], photos: Path
) -> None:
    """Shares and confidence in percent of all pixels, recomputed from the photos."""
    manifest = label(threshold=0.2).manifest
    stats = dict(manifest.stats)
    grey = np.concatenate(
        [
            np.array(Image.open(p)).astype(np.float32).mean(axis=2).ravel()
            for p in photos.rglob("*.png")
        ]
    )
    labels = np.where(grey / 255 < 0.2, -1, 2 - grey.astype(int) // 86)
    sure = np.round(255 * np.where(labels < 0, 1 - grey / 255, grey / 255)) / 255
    expected = {
        name: pytest.approx(100 * (labels == index).mean(), abs=0.01)
        for name, index in {"background": -1, "light": 0, "grey": 1, "dark": 2}.items()
    }
    assert stats["shares"] == expected
    assert stats["kept_at"]["0.8"] == pytest.approx(100 * (sure >= 0.8).mean(), abs=0.2)
    assert stats["mean_confidence"] == pytest.approx(sure.mean(), abs=1e-3)
    assert (stats["images"], stats["skipped"], stats["never"]) == (7, {}, [])
    assert (stats["class_names"], stats["has_background"]) == (["light", "grey", "dark"], True)
    assert stats["teacher"] == "plugin.py:build"
    assert any("SHA-256 of plugin.py" in note for note in stats["notes"])
    assert (stats["protocol"]["name"], stats["protocol"]["threshold"]) == ("sseg", 0.2)
    assert stats["images_per_second"] > 0
    assert stats["source"]["images"] == str(photos)
    assert manifest.parents == ()
    config = build_config(LabelConfig, manifest.config)
    assert config.model is not None
    assert config.model.endswith("plugin.py:build")


def test_a_checkpoint_labels_the_toy_world(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """It is the parent, named with its version; the labels are what `sseg eval` would score."""
    checkpoint = make_checkpoint(store)
    config = LabelConfig(limit=5, shard_size=2, batch_size=2, max_share=1)
    artifact = run(config, store, device="cpu")
    assert artifact.reference == "random-v1-toyworld:v1"
    assert artifact.manifest.parents == (checkpoint.as_parent(),)
    assert artifact.manifest.config["model"] == "random:v1"
    assert artifact.manifest.stats["class_names"] == list(CLASSES)
    assert not artifact.manifest.stats["has_background"]
    scored = EvalConfig(split="train", limit=5)
    benchmark = open_benchmark(scored, store)
    asked = contestant(scored, benchmark, store, "cpu")
    for entry in _entries(artifact):
        [prediction] = asked.predict([benchmark.load(entry.key)])
        # Another size of batch may round a tie to the other side.
        assert (entry.read(0.0) == prediction.label_map).mean() > 0.999


@pytest.mark.parametrize("background", [True, False])
def test_a_student_teaches_the_next_round(
    store: ArtifactStore, photos: Path, make_student: Callable[..., Artifact], background: bool
) -> None:
    """Its own background is as sure as its channel says; without one, the threshold decides."""
    make_student(store, ("light", "grey"), background=background)
    config = LabelConfig(
        images=str(photos), classes=("light", "grey"), threshold=0.6, max_share=1, sheet=0
    )
    artifact = run(config, store, device="cpu")
    stats = artifact.manifest.stats
    assert stats["has_background"]
    assert stats["protocol"]["background"] == ("class" if background else "threshold")
    assert stats["protocol"]["threshold"] == (0 if background else 0.6)
    images = open_images(config, store)
    asked = contestant(
        EvalConfig(threshold=None if background else 0.6), images.benchmark, store, "cpu"
    )
    for entry in _entries(artifact):
        image = images.image(entry.key)
        nothing = np.full(image.shape[:2], -2, np.int16)
        [prediction] = asked.predict([Example(entry.key, image, nothing)])
        sure, labels = prediction.confidence, prediction.label_map
        assert sure is not None
        if not background:
            labels, sure = np.where(sure < 0.6, -1, labels), np.where(sure < 0.6, 1 - sure, sure)
        assert np.array_equal(entry.read(0.0), labels)
        kept = entry.read_confidence()
        assert kept is not None
        assert np.abs(kept - sure).max() <= 0.5 / 255 + 1e-5


def test_a_student_finds_the_images_again(
    label: Callable[..., Artifact],
    store: ArtifactStore,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the manifest alone, also where the command was given relative paths."""
    monkeypatch.chdir(photos.parent)
    artifact = label(images="photos", model="plugin.py:build")
    monkeypatch.chdir("/")
    images = open_images(build_config(LabelConfig, artifact.manifest.config), store)
    for entry in _entries(artifact):
        assert images.image(entry.key).shape[:2] == entry.read(0.0).shape


def test_images_of_all_modes_and_sizes(label: Callable[..., Artifact], photos: Path) -> None:
    """CMYK, grey, alpha, 16 bits, a palette, turned by EXIF, one pixel; labels in their sizes."""
    for path in photos.rglob("*.png"):
        path.unlink()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.convert("CMYK").save(photos / "cmyk.jpg")
    colour.convert("L").save(photos / "grey.png")
    colour.convert("RGBA").save(photos / "alpha.png")
    colour.convert("P").save(photos / "palette.gif")
    colour.save(photos / "turned.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (9, 14)).astype(np.uint16)).save(photos / "16.png")
    Image.new("RGB", (1, 1), "white").save(photos / "pixel.bmp")
    (photos / "cut.jpg").write_bytes((photos / "turned.jpg").read_bytes()[:200])
    (photos / "none.png").write_bytes(b"no image")
    told = Told()
    artifact = label(progress=told)
    shapes = {entry.key: entry.read(0.0).shape for entry in _entries(artifact)}
    assert shapes == {
        "16.png": (9, 14), "alpha.png": (9, 14), "cmyk.jpg": (9, 14), "grey.png": (9, 14),
        "palette.gif": (9, 14), "pixel.bmp": (1, 1), "turned.jpg": (14, 9),
    }  # fmt: skip
    assert artifact.manifest.stats["images"] == 7
    assert sum(artifact.manifest.stats["skipped"].values()) == 2
    assert told.done == 9
    assert [text for text in told.messages if "none.png" in text]


def test_without_a_readable_image_there_are_no_labels(
    label: Callable[..., Artifact], store: ArtifactStore, photos: Path
) -> None:
    """The reasons are in the sentence."""
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 7 images of photos can be read: empty \(7\)"):
        label()
    assert store.artifacts("labels") == []


def test_one_label_for_all_is_refused_and_may_be_allowed(
    label: Callable[..., Artifact], store: ArtifactStore
) -> None:
    """With the shares in the sentence; what was labelled serves the command that allows it."""
    with pytest.raises(
        DataError, match=r"plugin.py:constant labels 100\.00 % of all pixels 'light'"
    ):
        label("constant")
    assert store.artifacts("labels") == []
    told = Told()
    allowed = label("constant", max_share=1.0, sheet=1, progress=told)
    assert told.done == 7
    assert allowed.manifest.stats["images_per_second"] == 0  # nothing was left to do
    with pytest.raises(DataError, match=r"labels \d\d\.\d\d % .* 'grey', and \d\d\.\d\d % 'dark'"):
        label(max_share=0.3)


def test_a_teacher_without_confidence(label: Callable[..., Artifact]) -> None:
    """Labels alone; nothing is said of confidence, and the sheet shows none."""
    artifact = label("unsure")
    stats = artifact.manifest.stats
    assert (stats["mean_confidence"], stats["kept_at"]) == (None, {})
    assert all(entry.read_confidence() is None for entry in _entries(artifact))
    assert np.array_equal(_entries(artifact)[0].read(0.99), _entries(artifact)[0].read(0.0))


def test_classes_that_are_never_labelled_are_named(label: Callable[..., Artifact]) -> None:
    """In the manifest, and in one warning, shortened where they are many."""
    told = Told()
    names = ("light", "grey", "dark", *(f"class {number}" for number in range(9)))
    artifact = label(classes=names, progress=told)
    assert artifact.manifest.stats["never"] == list(names[3:])
    [warning] = [text for text in told.messages if text.startswith("warning")]
    assert "'class 4' and 4 more, of 12 classes" in warning
    assert artifact.manifest.stats["shares"]["class 0"] == 0


@pytest.mark.parametrize("count", [253, 254, 255, 1203])
def test_many_classes(label: Callable[..., Artifact], count: int) -> None:
    """The last of them and background come back as they were."""
    names = tuple(f"class {number}" for number in range(count))
    artifact = label("last", classes=names, threshold=0.5, sheet=3)
    found = np.unique(np.concatenate([entry.read(0.0).ravel() for entry in _entries(artifact)]))
    assert found.tolist() == [-1, count - 1]


@pytest.mark.parametrize("background", ["threshold", "exclude"])
def test_real_photos_are_labelled(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint, real_data: Path, background: str
) -> None:
    """Background is a label, or there is none."""
    make_checkpoint(store)
    config = LabelConfig.model_validate(
        {
            "benchmark": "voc2012",
            "root": str(real_data / "voc-mini"),
            "limit": 4,
            "background": background,
            "max_share": 1,
            "sheet": 2,
        }
    )
    artifact = run(config, store, device="cpu")
    stats = artifact.manifest.stats
    assert stats["has_background"] == (background == "threshold")
    assert stats["class_names"] == list(VOC_CLASSES)
    assert ("background" in stats["shares"]) == stats["has_background"]
    found = np.unique(np.concatenate([entry.read(0.0).ravel() for entry in _entries(artifact)]))
    assert (found.min() == -1) == (background == "threshold")


def test_without_a_checkpoint_the_way_to_one_is_named(store: ArtifactStore) -> None:
    """Nothing is left in the store."""
    with pytest.raises(ArtifactError, match="sseg demo"):
        run(LabelConfig(limit=1), store)
    assert not list(store.root.rglob("labels"))


def test_hostile_names_reach_no_path(
    label: Callable[..., Artifact], photos: Path, store: ArtifactStore
) -> None:
    """Line breaks and escapes in a file name are part of a key, and shown harmlessly."""
    (photos / "a\n\x1b[31m.png").write_bytes(b"no image")
    Image.new("RGB", (4, 4), "white").save(photos / "b\n\x1b[31m.png")
    told = Told()
    artifact = label(progress=told)
    assert "b\n\x1b[31m.png" in {entry.key for entry in _entries(artifact)}
    assert not any("\x1b" in text or "\n" in text for text in told.messages)
    members = [path.name for path in artifact.path.rglob("*") if path.is_file()]
    assert all(name.isprintable() for name in members)
    assert json.loads(artifact.files(".jsonl")[0].read_text().splitlines()[0])["key"]
