"""Benchmarks from a stand-in of their publishers: archives of the real formats, with few images."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from pycocotools import mask as coco_mask

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.sources import BENCHMARKS, BenchmarkSource, Part
from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.benchmarks.class_lists import bundled_lines
from sseg_core.evaluation.benchmarks.coco import COCO_CLASSES
from sseg_core.stages.download_benchmark import RECORD, FetchedBenchmark, plan, run

SIZE = (6, 4)
Files = dict[str, bytes]


def _photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", SIZE, (90, 120, 30)).save(stream, "JPEG")
    return stream.getvalue()


def _labels(value: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    pixels = np.full(SIZE[::-1], value, np.uint8)
    if mode == "RGB":
        pixels = np.stack([pixels, pixels * 0, pixels * 0], axis=2)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P")
        image.putdata([value] * (SIZE[0] * SIZE[1]))
    image.save(stream, "PNG")
    return stream.getvalue()


def _instances(names: dict[int, str], images: list[dict[str, Any]]) -> bytes:
    annotation = {
        "id": 1, "image_id": 1, "category_id": min(names), "iscrowd": 0, "area": 4,
        "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]],
    }  # fmt: skip
    categories = [{"id": number, "name": name, "frequency": "f"} for number, name in names.items()]
    return json.dumps(
        {"images": images, "categories": categories, "annotations": [annotation]}
    ).encode()


def _coco_images() -> list[dict[str, Any]]:
    return [
        {"id": n, "file_name": f"{n:012d}.jpg", "height": SIZE[1], "width": SIZE[0],
         "coco_url": f"http://images.cocodataset.org/val2017/{n:012d}.jpg"}
        for n in (1, 2)
    ]  # fmt: skip


def _lvis(classes: int) -> Files:
    images = _coco_images()
    if classes == 1203:
        for image in images:
            del image["file_name"]
        images[1]["coco_url"] = "http://images.cocodataset.org/train2017/000000000009.jpg"
    names = {number: f"thing_{number}" for number in range(1, classes + 1)}
    version = "v1" if classes == 1203 else "v0.5"
    return {f"lvis_{version}_val.json": _instances(names, images)}


def _detail() -> bytes:
    everything = np.asfortranarray(np.ones(SIZE[::-1], np.uint8))
    rle = coco_mask.encode(everything)
    segment = {
        "image_id": 1, "category_id": 2, "id": 1, "area": 24, "bbox": [0, 0, 6, 4], "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }  # fmt: skip
    images = [
        {"image_id": n, "phase": "val", "file_name": f"2008_00000{n}.jpg", "height": SIZE[1],
         "width": SIZE[0], "date_captured": "", "license": 1}
        for n in (1, 2)
    ]  # fmt: skip
    return json.dumps(
        {"images": images, "annos_segmentation": [segment, {**segment, "image_id": 2}]}
    ).encode()


def _voc() -> Files:
    files = {"VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": b"2007_000033\n2007_000042\n"}
    for key in ("2007_000033", "2007_000042"):
        files[f"VOCdevkit/VOC2012/JPEGImages/{key}.jpg"] = _photo()
        files[f"VOCdevkit/VOC2012/SegmentationClass/{key}.png"] = _labels(12, "P")
    return files


def _ade20k() -> Files:
    files = {"ADEChallengeData2016/objectInfo150.txt": b"Idx\tName\n"}
    for n in (1, 2):
        files[f"ADEChallengeData2016/images/validation/ADE_val_{n:08d}.jpg"] = _photo()
        files[f"ADEChallengeData2016/annotations/validation/ADE_val_{n:08d}.png"] = _labels(3)
    return files


def _imagenet_s(classes: int) -> Files:
    wnids = [
        line.split(" ", 2)[0]
        for line in bundled_lines("imagenet_s")
        if int(line.split(" ", 2)[1]) <= classes
    ]
    key = f"{wnids[-1]}/ILSVRC2012_val_0000000{1 + classes % 3}"
    home = f"ImageNetS{classes}"
    return {
        f"{home}/validation-segmentation/{wnids[0]}/ILSVRC2012_val_00000009.png": _labels(1, "RGB"),
        f"{home}/validation-segmentation/{key}.png": _labels(2, "RGB"),
        f"{home}/train-semi-segmentation/{wnids[0]}/{wnids[0]}_7.png": _labels(1, "RGB"),
    }


def _photos_of(split: str, *numbers: int) -> Files:
    return {f"{split}/{n:012d}.jpg": _photo() for n in numbers}


CONTENTS: dict[str, Callable[[], Files | bytes]] = {
    "VOCtrainval_11-May-2012.tar": _voc,
    "VOCtrainval_03-May-2010.tar": lambda: {
        f"VOCdevkit/VOC2010/JPEGImages/2008_00000{n}.jpg": _photo() for n in (1, 2)
    },
    "trainval_merged.json": _detail,
    "val2017.zip": lambda: _photos_of("val2017", 1, 2),
    "train2017.zip": lambda: _photos_of("train2017", 9),
    "annotations_trainval2017.zip": lambda: {
        f"annotations/{name}_{split}2017.json": _instances(
            dict(enumerate(COCO_CLASSES, start=1)), _coco_images()
        )
        for name in ("instances", "captions")
        for split in ("val", "train")
    },
    "stuffthingmaps_trainval2017.zip": lambda: {
        "train2017/000000000009.png": _labels(1),
        "val2017/000000000001.png": _labels(1),
        "val2017/000000000002.png": _labels(255),
    },
    "lvis_v1_val.json.zip": lambda: _lvis(1203),
    "lvis_v0.5_val.json.zip": lambda: _lvis(1230),
    "ADEChallengeData2016.zip": _ade20k,
    **{
        f"ImageNetS{classes}": (lambda classes=classes: _imagenet_s(classes))
        for classes in (50, 300, 919)
    },
}


def _packed(name: str, files: Files) -> bytes:
    stream = io.BytesIO()
    if name.endswith(".tar"):
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    else:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    return stream.getvalue()


def _served(source: BenchmarkSource, server: Any) -> BenchmarkSource:
    """Return a source of the table whose files are small, and served on this machine."""

    def local(part: Part) -> Part:
        name = part.file.name
        made = CONTENTS[next(key for key in CONTENTS if name.startswith(key))]()
        body = made if isinstance(made, bytes) else _packed(name, made)
        url = server.add(f"/{name}", body)
        file = replace(
            part.file, url=url, mirrors=(), bytes=len(body), sha256=None, sha1=None, md5=None
        )
        return replace(part, file=file)

    images = tuple((name, 2) for name, _ in source.evaluates)
    return replace(source, parts=tuple(map(local, source.parts)), evaluates=images)


def _source(name: str) -> BenchmarkSource:
    return next(source for source in BENCHMARKS if source.name == name)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    folder = tmp_path / "ILSVRC/val"
    for number in (1, 2, 3, 9):
        path = folder / f"n0000000{number}" / f"ILSVRC2012_val_0000000{number}.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(_photo())
    return folder


class Told:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        self.messages.append(task)

    def advance(self, count: int = 1, **fields: str) -> None:
        pass

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("name", [source.name for source in BENCHMARKS])
def test_every_benchmark_is_fetched_and_read(
    file_server: Any, tmp_path: Path, store: ArtifactStore, imagenet: Path, name: str
) -> None:
    """Into the layout that sseg eval reads, with its terms; a second run fetches nothing."""
    source = _served(_source(name), file_server)
    root, told = tmp_path / "data", Told()
    photos = imagenet if source.needs else None
    if name == "coco-stuff":
        assert plan(source, root).disk_bytes
    fetched = run(source, root, store=store, imagenet=photos, progress=told)
    assert fetched == FetchedBenchmark(
        name, root, dict(source.evaluates), tuple(part.file.name for part in source.parts)
    )
    assert any(source.licence in message for message in told.messages)
    record = json.loads((root / RECORD).read_text())
    assert set(record) == {part.file.name for part in source.parts}
    assert {entry["licence"] for entry in record.values()} == {source.licence}
    assert {entry["terms"] for entry in record.values()} == {source.terms}
    assert not list(root.rglob("*.zip")) + list(root.rglob("*.tar")) + list(root.rglob("*.partial"))
    file_server.asked.clear()
    again = run(source, root, store=store)
    assert (again.images, again.fetched) == (fetched.images, ())
    assert file_server.asked == []
    assert "is there" in plan(source, root).notes[0]
    assert plan(source, root).download_bytes is None


def test_benchmarks_with_the_same_photos_share_them(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """COCO, COCO-Stuff and LVIS lie in one folder; only what is missing is fetched."""
    names = ("coco", "coco-stuff", "lvis")
    assert {_source(name).folder for name in names} == {"coco"}
    fetched = [
        run(_served(_source(name), file_server), tmp_path / "coco", store=store).fetched
        for name in names
    ]
    assert fetched == [
        ("annotations_trainval2017.zip", "val2017.zip"),
        ("stuffthingmaps_trainval2017.zip",),
        ("lvis_v1_val.json.zip", "lvis_v0.5_val.json.zip", "train2017.zip"),
    ]
    record = json.loads((tmp_path / "coco" / RECORD).read_text())
    assert len(record) == 6
    assert not (tmp_path / "coco/annotations/captions_val2017.json").exists()


def test_an_incomplete_benchmark_is_an_error(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """Too few images, a file that is not there, an archive of something else."""
    source = _served(_source("voc2012"), file_server)
    more = replace(source, evaluates=(("voc2012", 1449),))
    with pytest.raises(DataError, match=r"voc2012 in .* has 2 images instead of 1,449") as caught:
        run(more, tmp_path / "a", store=store)
    assert "Remove what is not whole (VOCdevkit/VOC2012)" in caught.value.hint
    (tmp_path / "a/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg").unlink()
    with pytest.raises(DataError, match=r"2007_000042.jpg is missing, of 2 images") as caught:
        run(source, tmp_path / "a", store=store)
    assert "Remove what is not whole (VOCdevkit/VOC2012)" in caught.value.hint
    shutil.rmtree(tmp_path / "a/VOCdevkit/VOC2012")
    assert run(source, tmp_path / "a", store=store).images == {"voc2012": 2}
    (part,) = source.parts
    strange = replace(source, parts=(replace(part, makes=("VOCdevkit/VOC2013",)),))
    with pytest.raises(DataError, match="does not hold VOCdevkit/VOC2013"):
        run(strange, tmp_path / "b", store=store)
    file_server.files.clear()
    with pytest.raises(DataError, match="the server answers 404"):
        run(source, tmp_path / "c", store=store)


def test_the_plan_counts_what_has_come(file_server: Any, tmp_path: Path) -> None:
    """A run that goes on needs no room for what is there; archive and contents lie side by side."""
    source = _served(_source("voc2012"), file_server)
    (part,) = source.parts
    size, root = part.file.bytes, tmp_path / "data"
    assert size is not None
    assert part.unpacked is not None
    fresh = plan(source, root)
    assert (fresh.download_bytes, fresh.disk_bytes) == (size, size + part.unpacked)
    (root / ".downloads").mkdir(parents=True)
    (root / ".downloads" / f"{part.file.name}.partial").write_bytes(bytes(1000))
    later = plan(source, root)
    assert (later.download_bytes, later.disk_bytes) == (size - 1000, size - 1000 + part.unpacked)
    assert "1.0 kB of it are there" in later.notes[0]


def test_what_a_kill_left_behind_is_removed(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """An archive whose files are in their place, between the last move and its removal."""
    source = _served(_source("voc2012"), file_server)
    root = tmp_path / "data"
    run(source, root, store=store)
    left = root / ".downloads/VOCtrainval_11-May-2012.tar"
    left.write_bytes(b"archive")
    assert run(source, root, store=store).fetched == ()
    assert not left.exists()


def test_one_process_at_a_time_works_in_a_folder(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """The other one waits, says so, and finds the photos there then."""
    root, told = tmp_path / "coco", Told()
    sources = [_served(_source(name), file_server) for name in ("coco", "coco-stuff")]
    (root / ".downloads").mkdir(parents=True)
    results: list[FetchedBenchmark] = []

    def both() -> None:
        results.extend(run(s, root, store=store, progress=told) for s in sources)

    thread = threading.Thread(target=both)
    with FileLock(root / ".downloads/lock"):
        thread.start()
        deadline = time.monotonic() + 20
        while not any("waiting for another" in m for m in told.messages):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert file_server.asked == []
    thread.join(60)
    assert [result.fetched for result in results][1] == ("stuffthingmaps_trainval2017.zip",)


def test_a_folder_that_cannot_be_written(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """One sentence that names it, before anything is fetched."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"Cannot read or write .*: not a directory"):
        run(_served(_source("voc2012"), file_server), tmp_path / "file/data", store=store)
    assert file_server.asked == []


def test_imagenet_s_needs_imagenet(
    file_server: Any, tmp_path: Path, store: ArtifactStore, imagenet: Path
) -> None:
    """Its images are the user's; a folder without them is told by the first that is missing."""
    source = _served(_source("imagenet-s"), file_server)
    with pytest.raises(DataError, match="which you have to bring") as caught:
        run(source, tmp_path / "data", store=store)
    assert caught.value.hint == "Give their folder: sseg download imagenet-s:DIR"
    assert file_server.asked == []
    next(imagenet.glob("*9/*.JPEG")).unlink()
    with pytest.raises(DataError, match=r"lacks 3 of 6 images, .*ILSVRC2012_val_00000009.JPEG"):
        run(source, tmp_path / "data", store=store, imagenet=imagenet)
    with pytest.raises(DataError, match="which you have to bring"):  # the label images are there
        run(source, tmp_path / "data", store=store)
    with pytest.raises(DataError, match="There is no folder"):
        run(source, tmp_path / "other", store=store, imagenet=tmp_path / "nowhere")
    voc = _served(_source("voc2012"), file_server)
    with pytest.raises(ConfigError, match=r"voc2012 needs no folder .*ILSVRC/val of yours"):
        run(voc, tmp_path / "other", store=store, imagenet=imagenet)
    assert not (tmp_path / "other").exists()


_CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
import sseg_core.data.fetch.archives as archives
from sseg_core.artifacts import ArtifactStore
from sseg_core.data.sources import BenchmarkSource, Part, RemoteFile
from sseg_core.stages.download_benchmark import run

original = Path.replace
moved = 0

def slow(self, target):
    global moved
    moved += 1
    if moved == 5:
        print("half", flush=True)
        time.sleep(60)
    return original(self, target)

Path.replace = slow
file = RemoteFile({url!r})
part = Part(file, ".", ("VOCdevkit/VOC2012",))
source = BenchmarkSource("voc2012", "", "l", "t", (part,), (("voc2012", 2),), "voc2012")
run(source, Path({root!r}), store=ArtifactStore(Path({root!r}) / "store"))
"""


@pytest.mark.slow
def test_a_kill_while_unpacking_is_mended_by_the_next_run(
    file_server: Any, tmp_path: Path, store: ArtifactStore
) -> None:
    """Half of the files are in their place then; they do not pass for the whole."""
    source = _served(_source("voc2012"), file_server)
    root = tmp_path / "data"
    code = _CHILD.format(
        folder=str(Path(__file__).parents[2]), url=source.parts[0].file.url, root=str(root)
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (root / "VOCdevkit/VOC2012").exists()
    begin = time.monotonic()
    file_server.asked.clear()
    assert run(source, root, store=store).images == {"voc2012": 2}
    assert file_server.asked == []  # the archive was there
    assert time.monotonic() - begin < 60
