"""Labels made by several processes, and by commands that are interrupted.

Run as a script, this file is one process: `STORE PHOTOS PAUSE`, or of a group: also `RANK FILE`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import LabelConfig
from sseg_core.data.label_shards import read_label_index
from sseg_core.errors import DataError
from sseg_core.labelling import labeller
from sseg_core.labelling.labeller import shards_of
from sseg_core.labelling.teacher import Labels, Teacher
from sseg_core.stages.label import run

IMAGES, SHARDS, WORLD = 14, 5, 2
TIMEOUT_S = 240

PLUGIN = """
import os, time
import numpy as np
from sseg_core.evaluation.rivals.rival import Prediction

def build():
    def segment(images, class_names):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        greys = [image.astype(np.float32).mean(axis=2) / 256 for image in images]
        return [Prediction((grey * 3).astype(int), grey) for grey in greys]
    return segment
"""


class Told:
    """Keeps what a stage tells."""

    def __init__(self) -> None:
        self.done = 0
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **_: str) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


def _config(photos: Path, **options: Any) -> LabelConfig:
    values = {
        "images": str(photos),
        "classes": ("dark", "grey", "light"),
        "model": f"{photos.parent / 'plugin.py'}:build",
        "shard_size": 3,
        "batch_size": 2,
        "sheet": 2,
        **options,
    }
    return LabelConfig(**values)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Fourteen photos, one of them damaged, with the teacher beside their folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "plugin.py").write_text(PLUGIN)
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def alone(tmp_path: Path, photos: Path) -> Artifact:
    """The labels that one process makes without any interruption."""
    return run(_config(photos), ArtifactStore(tmp_path / "alone"), device="cpu")


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all images that were labelled."""
    original = Teacher.label
    keys: list[str] = []

    def counting(self: Teacher, batch: Any, images: Any) -> list[Labels]:
        keys.extend(batch)
        return original(self, batch, images)

    monkeypatch.setattr(Teacher, "label", counting)
    monkeypatch.setattr(labeller, "_POLL_S", 0.02)
    return keys


def _untimed(artifact: Artifact) -> tuple[Any, ...]:
    manifest = artifact.manifest
    stats = {name: v for name, v in manifest.stats.items() if name != "images_per_second"}
    return manifest.files, manifest.config, manifest.parents, stats


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _start(store: ArtifactStore, photos: Path, *more: str, pause: float = 0) -> Any:
    return subprocess.Popen(
        [sys.executable, __file__, str(store.root), str(photos), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PAUSE": str(pause)},
    )


def test_commands_on_one_store_share_the_work(
    store: ArtifactStore, photos: Path, alone: Artifact, labelled: list[str]
) -> None:
    """Three at once: every image is labelled once, and all return the one artifact."""
    labelled.clear()
    found: list[Artifact] = []
    begin = threading.Barrier(3)

    def command() -> None:
        begin.wait()
        found.append(run(_config(photos), store, device="cpu"))

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    first = store.find("plugin.py-build-photos:v1", "labels")
    assert _untimed(first) == _untimed(alone)
    assert first.problems() == []
    # A command that began after the others had published everything makes a version of its own.
    versions = {artifact.reference for artifact in found}
    keys = [f"{number:02d}.png" for number in range(IMAGES) if number != 7]
    assert sorted(labelled) == sorted(len(versions) * keys)


def test_an_interrupted_command_goes_on(
    store: ArtifactStore,
    photos: Path,
    alone: Artifact,
    labelled: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash in the third shard keeps the first two; the rest is that of one command."""
    counting = Teacher.label

    def crashing(self: Teacher, keys: Any, images: Any) -> list[Labels]:
        if "08.png" in keys:
            raise KeyboardInterrupt
        return counting(self, keys, images)

    monkeypatch.setattr(Teacher, "label", crashing)
    with pytest.raises(KeyboardInterrupt):
        run(_config(photos), store, device="cpu")
    assert store.artifacts("labels") == []
    monkeypatch.setattr(Teacher, "label", counting)
    labelled.clear()
    told = Told()
    resumed = run(_config(photos, sheet=2), store, device="cpu", progress=told)
    assert sorted(labelled) == [f"{number:02d}.png" for number in (6, *range(8, IMAGES))]
    assert told.done == IMAGES
    assert _untimed(resumed) == _untimed(alone)


def test_a_killed_process_leaves_its_shard_to_the_next(
    store: ArtifactStore, photos: Path, alone: Artifact, labelled: list[str]
) -> None:
    """kill -9 in the middle of a shard: finished ones are kept, and all files are as ever."""
    process = _start(store, photos, pause=0.4)
    _wait_for(lambda: bool(list(store.root.glob("labels/*/.work-*/done/*.tar.json"))))
    time.sleep(0.2)  # into the next shard
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    labelled.clear()
    resumed = run(_config(photos), store, device="cpu")
    assert 0 < len(labelled) < IMAGES - 1
    assert _untimed(resumed) == _untimed(alone)
    assert resumed.problems() == []


def test_what_another_process_holds_is_waited_for(
    store: ArtifactStore, photos: Path, labelled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is made meanwhile; when the other gives up its shard, it is taken over."""
    drafts: list[Any] = []
    opened = ArtifactStore.shared_draft

    def keeping(self: ArtifactStore, *args: Any, **options: Any) -> Any:
        drafts.append(opened(self, *args, **options))
        if len(drafts) == 1:
            drafts.append(drafts[0].claim("labels-00001.tar"))
        return drafts[0]

    monkeypatch.setattr(ArtifactStore, "shared_draft", keeping)
    told, found = Told(), []
    thread = threading.Thread(
        target=lambda: found.append(run(_config(photos), store, device="cpu", progress=told))
    )
    thread.start()
    waits = "waiting for shards that other processes make: labels-00001.tar"
    _wait_for(lambda: waits in told.messages)
    assert not {"03.png", "04.png", "05.png"} & set(labelled)
    drafts[1].release()
    thread.join()
    assert found[0].manifest.stats["images"] == IMAGES - 1
    assert told.done == IMAGES


@pytest.mark.parametrize("change", ["photo", "plugin", "words"])
def test_changed_input_is_another_command(
    store: ArtifactStore, photos: Path, labelled: list[str], change: str
) -> None:
    """What was labelled before a photo was added, or the teacher changed, is not taken up."""
    words = photos.parent / "words.txt"
    words.write_text("dark: night\n")
    config = _config(photos, class_words=str(words), max_share=0.1)
    with pytest.raises(DataError, match="of all pixels"):
        run(config, store, device="cpu")
    labelled.clear()
    with pytest.raises(DataError, match="of all pixels"):
        run(config, store, device="cpu")
    assert labelled == []
    expected = IMAGES - 1
    if change == "photo":
        shutil.copy(photos / "00.png", photos / "000.png")
        expected += 1
    elif change == "plugin":
        (photos.parent / "plugin.py").write_text(PLUGIN.replace("* 3", "* 2"))
    else:
        words.write_text("dark: shadow\n")
    allowed = run(_config(photos, class_words=str(words), max_share=1), store, device="cpu")
    assert len(labelled) == allowed.manifest.stats["images"] == expected


def test_ranks_of_a_group_make_one_artifact(
    store: ArtifactStore, photos: Path, alone: Artifact, tmp_path: Path
) -> None:
    """Both return it; its files are those of one process."""
    meeting = str(tmp_path / "meeting")
    processes = [_start(store, photos, str(number), meeting, pause=0.1) for number in range(WORLD)]
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * WORLD, outputs
    answers = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert {answer["reference"] for answer in answers} == {"plugin.py-build-photos:v1"}
    assert _untimed(store.find(None, "labels")) == _untimed(alone)
    assert all(answer["labelled"] for answer in answers)  # both took part
    assert sum(answer["labelled"] for answer in answers) == IMAGES - 1
    assert len(store.artifacts("labels")) == 1
    assert not list(store.root.glob("labels/*/.work-*"))


@pytest.mark.slow
def test_an_error_reaches_all_ranks(store: ArtifactStore, photos: Path, tmp_path: Path) -> None:
    """No rank waits for another that has failed; the sentence is the same on each."""
    (photos.parent / "plugin.py").write_text(PLUGIN.replace("* 3", "* 300"))
    meeting = str(tmp_path / "meeting")
    processes = [_start(store, photos, str(number), meeting) for number in range(WORLD)]
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert all(process.returncode == 1 for process in processes), outputs
    assert all("with labels from" in output for output in outputs), outputs
    assert store.artifacts("labels") == []


def test_shards_hold_consecutive_images() -> None:
    """The last one holds what is left."""
    assert shards_of(tuple("abcde"), 2) == {
        "labels-00000.tar": ("a", "b"),
        "labels-00001.tar": ("c", "d"),
        "labels-00002.tar": ("e",),
    }


def test_entries_are_in_the_order_of_the_images(alone: Artifact) -> None:
    """However the shards were shared out."""
    assert len(alone.files(".tar")) == SHARDS
    keys = [entry.key for entry in read_label_index(alone.files(".jsonl"))]
    assert keys == [f"{number:02d}.png" for number in range(IMAGES) if number != 7]


def _process(root: str, photos: str, number: str | None = None, meeting: str = "") -> None:
    """Label as one process, or as one of a group; write what it did as one line."""
    torch.set_num_threads(1)
    if number is not None:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=int(number), world_size=WORLD
        )
    original = Teacher.label
    keys: list[str] = []

    def counting(self: Teacher, batch: Any, images: Any) -> list[Labels]:
        keys.extend(batch)
        return original(self, batch, images)

    Teacher.label = counting  # type: ignore[method-assign]
    try:
        made = run(_config(Path(photos)), ArtifactStore(Path(root)), device="cpu")
    finally:
        # Left to the interpreter, the threads of the group abort the process now and then.
        if number is not None:
            torch.distributed.destroy_process_group()
    sys.stdout.write(json.dumps({"reference": made.reference, "labelled": len(keys)}) + "\n")


if __name__ == "__main__":
    _process(*sys.argv[1:])
