"""Truth kept in the store: what goes in comes out, and is made once."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import ArtifactError
from sseg_core.evaluation.benchmarks import prepared
from sseg_core.evaluation.benchmarks.prepared import PreparedTruth, Truths
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, VOID, LabelMap

KEYS = tuple(f"{number:03d}" for number in range(7))


class Told:
    """Remembers what a progress is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.done = 0

    def start(self, task: str, total: int | None, unit: str) -> None:
        self.started = (task, total, unit)

    def advance(self, count: int = 1, **fields: str) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


def label_map(key: str, num_classes: int = 3) -> LabelMap:
    """A map that holds the first and last class, void and background, and the key's number."""
    labels = [0, num_classes - 1, BACKGROUND, VOID, int(key) % num_classes, 0]
    return np.array(labels, np.int16).reshape(2, 3)


def truths(
    load: Callable[[str], LabelMap] = label_map, names: tuple[str, ...] = ("a", "b", "c")
) -> Truths:
    return Truths(
        names, {key: (f"{key}.jpg", f"images/{key}.jpg") for key in KEYS}, len(KEYS), load
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "instances.json"
    path.write_text("{}")
    return path


@pytest.fixture
def place(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PreparedTruth]:
    monkeypatch.setattr(prepared, "SHARD_IMAGES", 2)

    def make(
        limit: int | None = None, split: str = "val", rule: str = "r1", told: Told | None = None
    ) -> PreparedTruth:
        store = ArtifactStore(tmp_path / "store")
        request = BenchmarkRequest(tmp_path, split, limit, store, told or Told())
        return PreparedTruth(request, "things", source, rule)

    return make


@pytest.mark.parametrize("num_classes", [1, 2, 253, 254, 255, 1203])
def test_label_maps_come_back_as_they_were(
    place: Callable[..., PreparedTruth], num_classes: int
) -> None:
    """Every class, background and void survive the 8 and 16 bits of a PNG."""
    names = tuple(map(str, range(num_classes)))
    made = place().prepare(truths(lambda key: label_map(key, num_classes), names))
    assert made.class_names == names
    for key in KEYS:
        loaded = made.load(key)
        assert loaded.dtype == np.int16
        assert loaded.tolist() == label_map(key, num_classes).tolist()


def test_prepared_truth_is_found_again(place: Callable[..., PreparedTruth]) -> None:
    """The next command finds class names, places and label maps without the published file."""
    assert place().find() is None
    place().prepare(truths())
    found = place().find()
    assert found is not None
    assert (found.class_names, found.listed) == (("a", "b", "c"), 7)
    assert found.images == truths().images
    assert list(found.images) == list(KEYS)
    assert found.load("004").tolist() == label_map("004").tolist()


def test_another_file_split_or_rule_is_another_truth(
    place: Callable[..., PreparedTruth], source: Path
) -> None:
    """What was made of other content, of another split or by another rule is not taken."""
    place().prepare(truths())
    assert place(split="train").find() is None
    assert place(rule="r2").find() is None
    source.write_text("{ }")
    assert place().find() is None
    source.write_text("{}")
    assert place().find() is not None


def test_a_limit_prepares_no_more_than_it_needs(place: Callable[..., PreparedTruth]) -> None:
    """Three images are three label maps; they serve a limit of two, not one of four or none."""
    asked: list[str] = []

    def load(key: str) -> LabelMap:
        asked.append(key)
        return label_map(key)

    told = Told()
    made = place(limit=3, told=told).prepare(truths(load))
    assert asked == list(made.images) == list(KEYS[:3])
    assert (told.started, told.done) == (("prepare things-val", 3, "images"), 3)
    fewer = place(limit=2).find()
    assert fewer is not None
    assert (list(fewer.images), fewer.listed) == (list(KEYS[:2]), 7)
    assert place(limit=4).find() is None
    assert place().find() is None


def test_truth_that_was_cut_before_is_not_taken_for_all(
    place: Callable[..., PreparedTruth],
) -> None:
    """A reader may keep the first images only; the artifact still serves no larger limit."""
    place(limit=3).prepare(truths().first(3))
    assert place().find() is None


@pytest.mark.parametrize("limit", [7, 8])
def test_a_limit_beyond_all_images_is_all(place: Callable[..., PreparedTruth], limit: int) -> None:
    """Nothing is made twice because the limit was larger than the split."""
    place(limit=limit).prepare(truths())
    assert place().find() is not None


def test_damaged_truth_is_told_when_it_is_loaded(place: Callable[..., PreparedTruth]) -> None:
    """One damaged image stops nothing: it is an error of its own, each time the same."""

    def load(key: str) -> LabelMap:
        if key == "003":
            raise ImageError("bad truth", "has a damaged instance", f"The truth of {key}")
        return label_map(key)

    made = place().prepare(truths(load))
    for either in (made, place().find()):
        assert either is not None
        with pytest.raises(ImageError, match=r"^The truth of 003 has a damaged instance\.") as info:
            either.load("003")
        assert info.value.reason == "bad truth"
        assert either.load("002").tolist() == label_map("002").tolist()


def test_a_full_disk_keeps_what_is_done(
    place: Callable[..., PreparedTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the disk comes through, and the next run makes only the missing shards."""
    write = zipfile.ZipFile.writestr

    def full(self: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        if info.filename == "004.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, info, data)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="No space left"):
            place().prepare(truths())
    asked: list[str] = []

    def load(key: str) -> LabelMap:
        asked.append(key)
        return label_map(key)

    place().prepare(truths(load))
    assert asked == ["004", "005", "006"]


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sseg_core.artifacts import ArtifactStore
from sseg_core.evaluation.benchmarks import prepared
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest

root, source = Path(sys.argv[1]), Path(sys.argv[2])
prepared.SHARD_IMAGES = 2

def load(key):
    if key == "005":
        os.kill(os.getpid(), signal.SIGKILL)
    labels = [0, 2, -1, -2, int(key) % 3, 0]
    return np.array(labels, np.int16).reshape(2, 3)

keys = [f"{number:03d}" for number in range(7)]
images = {key: (f"{key}.jpg", f"images/{key}.jpg") for key in keys}
request = BenchmarkRequest(root, "val", None, ArtifactStore(root / "store"))
truth = prepared.Truths(("a", "b", "c"), images, 7, load)
prepared.PreparedTruth(request, "things", source, "r1").prepare(truth)
"""


def test_a_killed_run_is_taken_up(
    place: Callable[..., PreparedTruth], tmp_path: Path, source: Path
) -> None:
    """After kill -9 nothing is found, and the next run makes the shards that are missing."""
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(source)]
    assert subprocess.run(command, check=False).returncode == -9
    assert place().find() is None
    asked: list[str] = []

    def load(key: str) -> LabelMap:
        asked.append(key)
        return label_map(key)

    made = place().prepare(truths(load))
    assert asked == ["004", "005", "006"]
    for key in KEYS:
        assert made.load(key).tolist() == label_map(key).tolist()


def test_commands_that_run_at_once_share_the_work(place: Callable[..., PreparedTruth]) -> None:
    """Each label map is made by one of them, and all read the one artifact."""
    asked: Counter[str] = Counter()
    made: list[Truths] = []

    def load(key: str) -> LabelMap:
        asked[key] += 1
        time.sleep(0.02)
        return label_map(key)

    threads = [
        threading.Thread(target=lambda: made.append(place().prepare(truths(load))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == dict.fromkeys(KEYS, 1)
    assert [truth.load("006").tolist() for truth in made] == [label_map("006").tolist()] * 3


def test_an_artifact_without_a_file_is_made_again(
    place: Callable[..., PreparedTruth], tmp_path: Path
) -> None:
    """A shard that has gone is told of, and the truth counts as not prepared."""
    place().prepare(truths())
    (tmp_path / "store/benchmark/things-val/v1/truth/00001.zip").unlink()
    told = Told()
    assert place(told=told).find() is None
    assert told.messages == [
        "truth/00001.zip of things-val:v1 is missing or was changed. It is made again."
    ]


@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_a_damaged_shard_is_an_error_that_says_what_to_remove(
    place: Callable[..., PreparedTruth], tmp_path: Path, at: str
) -> None:
    """Other bytes of the same number are found when the label map is read."""
    place().prepare(truths())
    path = tmp_path / "store/benchmark/things-val/v1/truth/00000.zip"
    data = bytearray(path.read_bytes())
    # The middle of the first of the two equally long entries, not the names between them.
    begin = {"start": 0, "middle": data.index(b"IDAT"), "end": len(data) - 22}[at]
    data[begin : begin + 20] = bytes(20)
    path.write_bytes(data)
    found = place().find()
    assert found is not None
    with pytest.raises(ArtifactError, match=r"00000\.zip is damaged") as info:
        found.load("000")
    assert "Remove" in info.value.hint


def test_a_store_that_cannot_be_written_says_so(
    place: Callable[..., PreparedTruth], tmp_path: Path
) -> None:
    """The error is that of every other stage."""
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be written"):
        place().prepare(truths())
