"""A user's own folder is read as it says, and every doubt about it is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.folder import folder
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES, voc2012
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest

VALUES = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)


def _request(root: Path, split: str = "val", limit: int | None = None) -> BenchmarkRequest:
    return BenchmarkRequest(root, split, limit, ArtifactStore(root / "store"))


def _save(root: Path, image: str, values: np.ndarray | None = VALUES, below: str = "") -> None:
    (root / "images" / below).mkdir(parents=True, exist_ok=True)
    (root / "masks" / below).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(root / "images" / below / image)
    if values is not None:
        Image.fromarray(values).save(root / "masks" / below / f"{Path(image).stem}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of four images of as many formats, not divided into splits."""
    home = tmp_path / "fields"
    for image in ("d.webp", "b.jpeg", "c.PNG", "a.jpg"):
        _save(home, image)
    (home / "classes.txt").write_text("background\nwheat\noil seed\n")
    return home


def test_line_i_of_the_class_list_names_the_value_i(root: Path) -> None:
    """With background first, 0 is background; images are matched with masks by their stem."""
    benchmark = folder(_request(root))
    assert benchmark.name == "folder:fields"
    assert benchmark.class_names == ("wheat", "oil seed")
    assert benchmark.has_background
    assert benchmark.keys == ("a", "b", "c", "d")
    assert [e.truth.tolist() for e in benchmark] == [[[-1, 0, 1], [-2, 1, -1]]] * 4
    assert folder(_request(root, limit=3)).keys == ("a", "b", "c")


def test_without_background_the_value_0_is_the_first_class(root: Path) -> None:
    """Every pixel then has a class, but for 255."""
    (root / "classes.txt").write_text("soil\nwheat\noil seed\n")
    benchmark = folder(_request(root))
    assert not benchmark.has_background
    assert benchmark.load("a").truth.tolist() == [[0, 1, 2], [-2, 2, 0]]


def test_16_bit_masks_have_room_for_more_classes(root: Path) -> None:
    """65535 is void in them and 255 a class; masks of 8 and 16 bits may lie side by side."""
    (root / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(700)))
    _save(root, "a.jpg", np.array([[0, 255, 300], [65535, 699, 1]], np.uint16))
    benchmark = folder(_request(root))
    assert benchmark.load("a").truth.tolist() == [[0, 255, 300], [-2, 699, 1]]
    assert benchmark.load("b").truth.tolist() == [[0, 1, 2], [-2, 2, 0]]


def test_a_list_names_the_images_of_a_split(root: Path) -> None:
    """In its order, with or without the suffix; other images and their masks do not count."""
    (root / "val.txt").write_text("c\na.jpg\n")
    (root / "test.txt").write_text("b\n")
    (root / "masks/d.png").unlink()
    assert folder(_request(root)).keys == ("c", "a")
    assert folder(_request(root, "test")).keys == ("b",)
    with pytest.raises(DataError, match=r"no split 'train' .* It has: test, val"):
        folder(_request(root, "train"))


def test_a_subfolder_holds_the_images_of_a_split(root: Path) -> None:
    """images/test goes with masks/test."""
    _save(root, "x.jpg", below="test")
    benchmark = folder(_request(root, "test"))
    assert (benchmark.keys, benchmark.source) == (("x",), "label images in masks/test")
    assert benchmark.load("x").truth.shape == (2, 3)
    with pytest.raises(DataError, match=r"no split 'val' .* It has: test"):
        folder(_request(root))


def test_an_undivided_folder_is_the_split_val(root: Path) -> None:
    """A text file that names no image, such as a README, does not divide it."""
    (root / "README.txt").write_text("Photos of fields.\n")
    assert len(folder(_request(root))) == 4
    with pytest.raises(DataError, match=r"no split 'test' .* It has: val"):
        folder(_request(root, "test"))
    (root / "train.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"no split 'val' .* It has: train"):
        folder(_request(root))


def test_a_line_that_is_a_path_leads_nowhere(root: Path) -> None:
    """Lines are looked up among the images there are, and never opened."""
    (root.parent / "secret.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    for line in ("../../secret", "../../secret.jpg", str(root.parent / "secret"), "x/../a"):
        (root / "val.txt").write_text(f"a\n{line}\n")
        with pytest.raises(DataError, match=r"is missing, of 2 images that val\.txt names"):
            folder(_request(root))
    with pytest.raises(DataError, match="no split"):
        folder(_request(root, "../fields"))


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    """The folder, its parts, masks, images, a list without lines: each with the layout."""
    with pytest.raises(DataError, match=r"There is no folder .*images/KEY.jpg"):
        folder(_request(tmp_path / "nowhere"))
    (root / "masks/b.png").unlink()
    (root / "masks/c.png").unlink()
    with pytest.raises(DataError, match=r"masks/b\.png and 1 more are missing, of 4 masks"):
        folder(_request(root))
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt names no image"):
        folder(_request(root))
    (root / "images/empty").mkdir()
    with pytest.raises(DataError, match=r"There is no image in .*images/empty\. Expected"):
        folder(_request(root, "empty"))
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt cannot be read: No such file.*Expected"):
        folder(_request(root))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/classes.txt").write_text("cat")
    with pytest.raises(DataError, match="images is missing"):
        folder(_request(tmp_path / "bare"))


def test_two_images_for_one_mask_are_refused(root: Path) -> None:
    """a.jpg and a.png would be scored with the same truth."""
    _save(root, "a.png", None)
    with pytest.raises(DataError, match=r"has both a\.jpg and a\.png"):
        folder(_request(root))


def test_names_that_cannot_be_shown_are_refused(root: Path) -> None:
    """A terminal would obey them, and a report could not be written."""
    _save(root, "e\x1b[31m.jpg")
    with pytest.raises(DataError, match=r"'e\?\[31m\.jpg'"):
        folder(_request(root))


def test_coloured_masks_are_refused_with_the_way_to_mend_them(root: Path) -> None:
    """If the first is RGB, so are the others, and each would only be skipped."""
    _save(root, "a.jpg", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(DataError, match=r"masks/a\.png is an RGB PNG") as caught:
        folder(_request(root))
    assert not isinstance(caught.value, ImageError)
    assert 'astype("uint8")' in caught.value.hint


def test_a_mask_that_does_not_fit_costs_one_image(root: Path) -> None:
    """Labels beyond the list, another size, a cut file: skipped and counted by the evaluator."""
    _save(root, "a.jpg", np.full((2, 3), 3, np.uint8))
    _save(root, "b.jpeg", np.zeros((3, 3), np.uint8))
    (root / "masks/c.png").write_bytes((root / "masks/d.png").read_bytes()[:50])
    benchmark = folder(_request(root))
    for key, problem in {
        "a": "the value 3",
        "b": "3 x 3 pixels, but is 3 x 2",
        "c": "PNG|trunc",
    }.items():
        with pytest.raises(ImageError, match=problem) as caught:
            benchmark.load(key)
        assert caught.value.reason == "bad truth"
    assert benchmark.load("d").truth.shape == (2, 3)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ("wheat\nbackground\n", "'background' in another line than the first"),
        ("background\n", "only a background"),
        ("wheat\nrye\nWheat\n", "'wheat' and 'Wheat' are the same"),
        ("\n".join(("background", *reversed(VOC_CLASSES))), "class 1 is 'monitor', in voc2012"),
    ],
)
def test_class_lists_that_leave_doubt_are_refused(root: Path, classes: str, problem: str) -> None:
    """Duplicates, background elsewhere, and a benchmark's classes in another order."""
    (root / "classes.txt").write_text(classes)
    with pytest.raises(DataError, match=problem):
        folder(_request(root))


def test_voc_as_a_folder_is_voc(real_data: Path, tmp_path: Path) -> None:
    """Real palette masks give the labels of the benchmark that is read in its own layout."""
    home = real_data / "voc-mini/VOC2012"
    (tmp_path / "images").symlink_to(home / "JPEGImages")
    (tmp_path / "masks").symlink_to(home / "SegmentationClass")
    (tmp_path / "val.txt").symlink_to(home / "ImageSets/Segmentation/val.txt")
    (tmp_path / "classes.txt").write_text("\n".join(("background", *VOC_CLASSES)))
    expected = voc2012(_request(home, limit=10))
    found = folder(_request(tmp_path, limit=10))
    assert (found.keys, found.class_names) == (expected.keys, expected.class_names)
    assert all(np.array_equal(a.truth, b.truth) for a, b in zip(found, expected, strict=True))
