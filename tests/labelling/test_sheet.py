"""The sheet of labelled images shows what was labelled, from all parts of the set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.data.label_shards import LabelShardWriter
from sseg_core.labelling.sheet import label_sheet

NAMES = ("cat", "dog")
PHOTO = np.full((24, 24, 3), 90, np.uint8)


def _shards(folder: Path, *, confidence: float | None, per_shard: int = 5) -> list[Path]:
    paths = []
    for shard in range(2):
        path = folder / f"labels-{shard:05d}.tar"
        with LabelShardWriter(path) as writer:
            for number in range(per_shard):
                sure = None if confidence is None else np.full((24, 24), confidence, np.float32)
                writer.write(f"{shard}/{number}", np.ones((24, 24), np.int16), sure)
        paths.append(path.with_suffix(".jsonl"))
    return paths


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["1/0"]), (2, ["0/2", "1/2"]), (10, [f"{s}/{n}" for s in range(2) for n in range(5)])],
)
def test_images_are_spread_over_the_whole_set(
    tmp_path: Path, count: int, expected: list[str]
) -> None:
    """As many as there are, at most; the middle of equal parts, in order."""
    asked: list[str] = []

    def image(key: str) -> RGBImage:
        asked.append(key)
        return PHOTO

    indices = _shards(tmp_path, confidence=0.5)
    assert label_sheet(indices, image, NAMES, count) is not None
    assert asked == expected
    asked.clear()
    label_sheet(indices, image, NAMES, 100)
    assert len(asked) == 10


def test_photo_labels_and_confidence_stand_side_by_side(tmp_path: Path) -> None:
    """Low confidence is dark, full confidence light; without any there is no such picture."""
    means = []
    for confidence in (0.0, 1.0):
        sheet = label_sheet(_shards(tmp_path, confidence=confidence), lambda _: PHOTO, NAMES, 1)
        assert sheet is not None
        assert sheet.width == 3 * 240 + 2 * 6 + 2 * 18
        means.append(np.array(sheet)[60:280, 18 + 2 * 246 + 10 : 18 + 2 * 246 + 230].mean())
    assert means[0] < 40
    assert means[1] > 170
    plain = label_sheet(_shards(tmp_path, confidence=None), lambda _: PHOTO, NAMES, 1)
    assert plain is not None
    assert plain.width == 2 * 240 + 6 + 2 * 18


def test_images_that_have_gone_are_left_out(tmp_path: Path) -> None:
    """The others are drawn; without any there is no sheet."""

    def image(key: str) -> RGBImage:
        if key < "1":
            raise ImageError("unreadable", "has gone", key)
        return PHOTO

    indices = _shards(tmp_path, confidence=0.5)
    some, half = (label_sheet(indices, image, NAMES, count) for count in (10, 5))
    assert some is not None
    assert half is not None
    assert some.height > half.height

    def gone(key: str) -> RGBImage:
        raise ImageError("unreadable", "has gone", key)

    assert label_sheet(indices, gone, NAMES, 3) is None
