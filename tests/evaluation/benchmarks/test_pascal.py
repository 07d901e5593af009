"""Pascal VOC and Pascal Context are read as published, and what is missing is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import gaussian_filter

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks import pascal
from sseg_core.evaluation.benchmarks.pascal import (
    CONTEXT_CLASSES,
    VOC_CLASSES,
    VOC_OWN_CLASSES,
    context,
    voc2012,
)
from sseg_core.evaluation.benchmarks.pascal_detail import decode_runs
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.evaluator import scored_labels

TRUTH = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
LABELS = [[-1, 0, 19], [-2, 14, -1]]


def _request(root: Path, split: str = "val", limit: int | None = None) -> BenchmarkRequest:
    home = root.parent if root.name.startswith("VOC") else root
    return BenchmarkRequest(root, split, limit, ArtifactStore(home / "store"))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOCdevkit with two images of 2 x 3 pixels."""
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    (home / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n2007_000002\r\n")
    for key in ("2007_000001", "2007_000002"):
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(home / f"JPEGImages/{key}.jpg")
        _save_truth(home, key, TRUTH)
    return home


def _save_truth(home: Path, key: str, truth: np.ndarray) -> None:
    picture = Image.fromarray(truth).convert("P")
    picture.putdata(truth.ravel().tolist())
    picture.putpalette([value % 256 for value in range(768)])
    picture.save(home / f"SegmentationClass/{key}.png")


def test_voc_is_found_from_any_of_its_folders(voc: Path) -> None:
    """VOC2012, VOCdevkit and its parent name the same benchmark."""
    for root in (voc, voc.parent, voc.parents[1]):
        benchmark = voc2012(_request(root))
        assert benchmark.keys == ("2007_000001", "2007_000002")
        assert len(benchmark) == 2


def test_voc_examples_have_palette_labels(voc: Path) -> None:
    """Palette index 0 is background, which is no class, i + 1 the class i, and 255 void."""
    benchmark = voc2012(_request(voc))
    assert benchmark.has_background
    assert len(benchmark.class_names) == 20
    assert (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == ("aeroplane", "person", "monitor")
    assert (VOC_OWN_CLASSES[10], VOC_OWN_CLASSES[15:]) == (
        "diningtable", ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
    )  # fmt: skip
    for example in benchmark:
        assert example.image.shape == (2, 3, 3)
        assert (example.truth.dtype, example.truth.tolist()) == (np.int16, LABELS)
    assert benchmark.source == "label images in SegmentationClass, 2 of the 1,449 images"


def test_a_limit_takes_the_first_images(voc: Path) -> None:
    """`limit` cuts the list."""
    assert voc2012(_request(voc, limit=1)).keys == ("2007_000001",)


def test_a_missing_voc_says_what_is_expected_where(tmp_path: Path) -> None:
    """The hint shows the layout."""
    with pytest.raises(DataError, match="There is no VOC 2012") as caught:
        voc2012(_request(tmp_path))
    assert "SegmentationClass/KEY.png" in caught.value.hint


@pytest.mark.parametrize("split", ["train", "test", "../../secret"])
def test_a_missing_split_names_those_there_are(voc: Path, split: str) -> None:
    """A split without its list, an unknown one and a path are all refused."""
    with pytest.raises(DataError, match="no split") as caught:
        voc2012(_request(voc, split))
    assert "val" in caught.value.hint


def test_a_missing_file_is_named(voc: Path) -> None:
    """A listed image without its truth is an error before anything is computed."""
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(DataError, match=r"2007_000002\.png is missing"):
        voc2012(_request(voc))


def test_a_key_that_is_a_path_is_refused(voc: Path) -> None:
    """Keys come from a file of a stranger; they never leave the folder."""
    (voc / "ImageSets/Segmentation/val.txt").write_text("../../../etc/passwd")
    with pytest.raises(DataError, match="names no image"):
        voc2012(_request(voc))


def test_damaged_truth_is_an_image_error(voc: Path) -> None:
    """Wrong size, wrong labels, RGB and rubbish have the reason `bad truth`, naming the file."""
    path = voc / "SegmentationClass/2007_000001.png"
    benchmark = voc2012(_request(voc))
    _save_truth(voc, "2007_000001", np.zeros((3, 3), np.uint8))
    _expect_bad_truth(benchmark.load, path)
    _save_truth(voc, "2007_000001", np.full((2, 3), 21, np.uint8))
    _expect_bad_truth(benchmark.load, path)
    Image.new("RGB", (3, 2)).save(path)
    _expect_bad_truth(benchmark.load, path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    _expect_bad_truth(benchmark.load, path)


def _expect_bad_truth(load: object, path: Path) -> None:
    assert callable(load)
    with pytest.raises(ImageError, match=path.stem) as caught:
        load("2007_000001")
    assert caught.value.reason == "bad truth"


@pytest.mark.parametrize(("split", "count"), [("val", 100), ("train", 200)])
def test_the_real_voc_photos_are_read(real_data: Path, split: str, count: int) -> None:
    """All photos of voc-mini and their truth equal a plain reading with Pillow and NumPy."""
    home = real_data / "voc-mini/VOC2012"
    benchmark = voc2012(_request(home, split))
    listed = (home / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    assert (len(benchmark), list(benchmark.keys)) == (count, listed)
    assert f", {count} of the 1,4" in benchmark.source
    seen = np.zeros(256, bool)
    for key in listed[:: count // 50]:
        example = benchmark.load(key)
        with Image.open(home / f"JPEGImages/{key}.jpg") as photo:
            assert np.abs(np.asarray(photo).astype(int) - example.image).max() <= 2
        with Image.open(home / f"SegmentationClass/{key}.png") as truth:
            values = np.asarray(truth).astype(int)
        assert np.array_equal(example.truth, np.where(values == 255, -2, values - 1))
        seen[values] = True
    assert seen[[0, 15, 255]].all()


CONTEXT_TRUTH = np.array([[0, 1, 59], [59, 255, 27]], np.uint8)
CONTEXT_LABELS = [[-1, 0, 58], [58, -2, 26]]
DETAIL_TRUTH = np.array([[0, 1, 59], [59, 0, 27]], np.uint8)  # nothing is void there
DETAIL_LABELS = [[-1, 0, 58], [58, -1, 26]]
DETAIL_CATEGORIES = {1: 2, 59: 458, 27: 159}  # airplane, wood, flower


@pytest.fixture
def voc2010(tmp_path: Path) -> Path:
    """A VOC2010 with the photos of two keys and no annotation."""
    home = tmp_path / "VOCdevkit" / "VOC2010"
    (home / "JPEGImages").mkdir(parents=True)
    for key in ("2008_000002", "2008_000003"):
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(home / f"JPEGImages/{key}.jpg")
    return home


@pytest.fixture
def context_png(voc2010: Path) -> Path:
    """The same in the layout of PNG label maps."""
    (voc2010 / "SegmentationClassContext").mkdir()
    lists = voc2010 / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2008_000002\n2008_000003\n")
    (lists / "train.txt").write_text("2008_000002\n")
    for key in ("2008_000002", "2008_000003"):
        picture = Image.fromarray(CONTEXT_TRUTH)
        picture.save(voc2010 / f"SegmentationClassContext/{key}.png")
    return voc2010


def _segment(image: int, category: int, mask: np.ndarray) -> dict[str, object]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    code = {"size": code["size"], "counts": code["counts"].decode("ascii")}
    return {"image_id": image, "category_id": category, "segmentation": code}


@pytest.fixture
def context_detail(voc2010: Path) -> Path:
    """The same in the layout of Pascal in Detail."""
    segments = []
    for image in (2, 3):
        # Category 1 is none of the 59; what comes later lies on top.
        segments.append(_segment(image, 1, DETAIL_TRUTH == 0))
        segments.append(_segment(image, DETAIL_CATEGORIES[1], DETAIL_TRUTH > 0))
        for label in (59, 27):
            segments.append(_segment(image, DETAIL_CATEGORIES[label], label == DETAIL_TRUTH))
    images = [
        {"image_id": 2, "file_name": "2008_000002.jpg", "phase": "val", "height": 2, "width": 3},
        {"image_id": 3, "file_name": "2008_000003.jpg", "phase": "val", "height": 2, "width": 3},
        {"image_id": 9, "file_name": "2008_000009.jpg", "phase": "train", "height": 2, "width": 3},
    ]
    data = {"images": images, "annos_segmentation": segments}
    (voc2010 / "trainval_merged.json").write_text(json.dumps(data))
    return voc2010


def test_the_context_classes_are_those_of_the_benchmark() -> None:
    """59 of them in alphabetical order, in the words of GroupViT, as label values 1 to 59."""
    assert len(CONTEXT_CLASSES) == len(set(CONTEXT_CLASSES)) == 59
    places = {1: "airplane", 9: "book", 27: "flower", 37: "person", 55: "monitor", 59: "wood"}
    assert {label: CONTEXT_CLASSES[label - 1] for label in places} == places


def test_context_is_read_from_label_maps(context_png: Path) -> None:
    """0 is background, 1 the first class, 255 void, from any of the folders."""
    for root in (context_png, context_png.parent, context_png.parents[1]):
        benchmark = context(_request(root))
        assert benchmark.keys == ("2008_000002", "2008_000003")
        assert benchmark.has_background
        assert benchmark.class_names == CONTEXT_CLASSES
        assert all(example.truth.tolist() == CONTEXT_LABELS for example in benchmark)
        assert benchmark.source == "label images in SegmentationClassContext, 2 of the 5,105 images"
    assert context(_request(context_png, "train")).keys == ("2008_000002",)


def test_context_is_read_from_pascal_in_detail(context_detail: Path) -> None:
    """Categories of the 59 become their labels, all others background; only the split is read."""
    benchmark = context(_request(context_detail))
    assert benchmark.keys == ("2008_000002", "2008_000003")
    assert benchmark.source == ("trainval_merged.json of Pascal in Detail, 2 of the 5,105 images")
    assert all(example.truth.tolist() == DETAIL_LABELS for example in benchmark)
    assert context(_request(context_detail, limit=1)).keys == ("2008_000002",)
    with pytest.raises(DataError, match=r"2008_000009\.jpg is missing"):
        context(_request(context_detail, "train"))
    with pytest.raises(DataError, match="no split 'test'") as caught:
        context(_request(context_detail, "test"))
    assert "train, val" in caught.value.hint


def test_label_maps_are_preferred_to_pascal_in_detail(
    context_png: Path, context_detail: Path
) -> None:
    """Where both are, the void of the label maps is there."""
    assert context_png == context_detail
    assert next(iter(context(_request(context_png)))).truth[1, 1] == -2


def test_pascal_in_detail_is_read_once(
    context_detail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next benchmark takes the label maps from the store; another file is read again."""
    before = [example.truth.tolist() for example in context(_request(context_detail))]

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(pascal, "read_segments", refuse)
    assert before == [example.truth.tolist() for example in context(_request(context_detail))]
    path = context_detail / "trainval_merged.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(AssertionError, match="read again"):
        context(_request(context_detail))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"images": []}',
        b'{"images": [{"phase": "val"}], "annos_segmentation": []}',
        b'{"images": [{"phase": "val", "image_id": 2, "file_name": "a.jpg", "height": -2}]}',
    ],
)
def test_a_file_that_is_not_pascal_in_detail_is_refused(voc2010: Path, content: bytes) -> None:
    """Truncated JSON and JSON of something else is one sentence."""
    (voc2010 / "trainval_merged.json").write_bytes(content)
    with pytest.raises(DataError, match="not a readable annotation file"):
        context(_request(voc2010))


def test_a_name_that_is_no_key_is_refused(context_detail: Path) -> None:
    """Names of images come from a stranger's file; only plain words become paths."""
    path = context_detail / "trainval_merged.json"
    for name in ("../..", "a b.jpg", "\u00e9.jpg"):
        text = path.read_text()
        path.write_text(text.replace("2008_000003.jpg", name))
        with pytest.raises(DataError, match=r"merged\.json holds .*, which names no image"):
            context(_request(context_detail))
        path.write_text(text)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [5, 5], "counts": "0i0"},
        {"size": [2, 3], "counts": ""},
        {"size": [2, 3], "counts": "000000"},  # pycocotools fills this with whatever was there
        {"size": [2, 3], "counts": "zzzz"},
        {"size": [2, 3], "counts": "12Oo"},
        {"size": [2, 3], "counts": "\u20ac"},
    ],
)
def test_a_damaged_segment_is_bad_truth(
    context_detail: Path, segmentation: dict[str, object]
) -> None:
    """Codes of another size, cut short, too long or of other characters damage one image only."""
    path = context_detail / "trainval_merged.json"
    data = json.loads(path.read_text())
    data["annos_segmentation"][1]["segmentation"] = segmentation
    path.write_text(json.dumps(data))
    benchmark = context(_request(context_detail))
    with pytest.raises(ImageError, match="2008_000002") as caught:
        benchmark.load("2008_000002")
    assert caught.value.reason == "bad truth"
    assert benchmark.load("2008_000003").truth.tolist() == DETAIL_LABELS


@pytest.mark.parametrize("seed", range(20))
def test_run_length_codes_are_those_of_coco(seed: int) -> None:
    """What pycocotools encodes is decoded, for masks of many and of very long runs."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 400, 2).tolist())
    field = gaussian_filter(rng.normal(size=size), rng.uniform(0, 20))
    mask = np.asfortranarray(field > np.quantile(field, rng.uniform(0, 1)))
    assert np.array_equal(decode_runs(coco_mask.encode(mask.view(np.uint8))["counts"], size), mask)


def test_a_missing_context_says_what_is_expected_where(tmp_path: Path, context_png: Path) -> None:
    """The hint shows both layouts; a listed key without its label map is named."""
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match="no Pascal Context") as caught:
        context(_request(tmp_path / "elsewhere"))
    assert "SegmentationClassContext/KEY.png" in caught.value.hint
    assert "trainval_merged.json" in caught.value.hint
    (context_png / "SegmentationClassContext/2008_000003.png").unlink()
    with pytest.raises(
        DataError, match=r"3\.png is missing, of 2 label images that val\.txt names"
    ):
        context(_request(context_png))


def test_context_labels_beyond_59_are_bad_truth(context_png: Path) -> None:
    """60 is no label; a label map of the 459 classes is not taken for one of the 59."""
    Image.fromarray(np.full((2, 3), 60, np.uint8)).save(
        context_png / "SegmentationClassContext/2008_000002.png"
    )
    with pytest.raises(ImageError, match="the value 60"):
        context(_request(context_png)).load("2008_000002")


def test_real_photos_with_label_maps_of_context_are_read(
    voc2010: Path, real_data: Path, tmp_path: Path
) -> None:
    """60 labels with background and 59 without; no pixel is shifted or turned."""
    photos = sorted((real_data / "voc-mini/VOC2012/JPEGImages").glob("*.jpg"))[:3]
    home = tmp_path / "real" / "VOC2010"
    for folder in ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"):
        (home / folder).mkdir(parents=True)
    keys = [photo.stem for photo in photos]
    (home / "ImageSets/SegmentationContext/val.txt").write_text("\n".join(keys))
    for number, photo in enumerate(photos):
        shutil.copy(photo, home / "JPEGImages")
        with Image.open(photo) as opened:
            width, height = opened.size
        truth = (np.arange(height)[:, None] // 60 * 9 + np.arange(width) // 60 + number) % 60
        Image.fromarray(truth.astype(np.uint8)).save(
            home / f"SegmentationClassContext/{photo.stem}.png"
        )
    benchmark = context(_request(tmp_path / "real"))
    assert len(scored_labels(benchmark, exclude_background=False)) == 60
    assert len(scored_labels(benchmark, exclude_background=True)) == 59
    for number, (example, photo) in enumerate(zip(benchmark, photos, strict=True)):
        height, width = example.image.shape[:2]
        truth = (np.arange(height)[:, None] // 60 * 9 + np.arange(width) // 60 + number) % 60
        assert (example.key, np.array_equal(example.truth, truth - 1)) == (photo.stem, True)
