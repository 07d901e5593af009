"""`sseg pseudomask` on several processes, machines and kinds of storage, and what goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import MasksConfig, PseudomaskConfig, TrainConfig
from sseg_core.data.images import encode_jpeg
from sseg_core.data.shards import (
    Sample,
    pack_sample,
    read_masks,
    read_shard_with_masks,
    write_tar,
)
from sseg_core.data.urls import open_shard
from sseg_core.errors import ArtifactError, ConfigError, DataError
from sseg_core.pseudomask import workers
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.pseudomask.plan import plan
from sseg_core.stages import train
from sseg_core.stages.pseudomask import run, worker_devices

CONFIG = PseudomaskConfig(features="lab", grid=8, image_size=32, masks=3, batch_size=4)
SLOW = CONFIG.model_copy(update={"grid": 64, "image_size": 224, "batch_size": 1})


def jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return encode_jpeg(coarse.repeat(10, axis=0).repeat(10, axis=1), 95)


def write_pairs(path: Path, shard: int, images: Sequence[bytes]) -> None:
    items = [Sample(f"s{shard}-{i}", image, ("a cat",)) for i, image in enumerate(images)]
    write_tar(path, [member for item in items for member in pack_sample(item, "jpg")])


def make_pairs(store: ArtifactStore, shards: int = 5, images: int = 7) -> Artifact:
    with store.draft("pairs", "photos", {"source": "test"}) as draft:
        for shard in range(shards):
            name = f"{shard:06d}.tar"
            write_pairs(draft.partial(name), shard, [jpeg(10 * shard + i) for i in range(images)])
            draft.commit(name)
        return draft.publish({"images": shards * images})


def held_shard(store: ArtifactStore, config: PseudomaskConfig, name: str) -> FileLock:
    """Claim a shard as another machine would: no command ends before it is released."""
    the_plan = plan(config, store)
    other = store.shared_draft("masks", the_plan.name, the_plan.identity, the_plan.parents)
    claim = other.claim(name)
    assert claim is not None
    return claim


class Told:
    """Keeps what a stage tells; `wait_for` lets a test act in the middle of it."""

    def __init__(self) -> None:
        self.done = 0
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **_: str) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def untimed(artifact: Artifact) -> tuple[Any, ...]:
    manifest = artifact.manifest
    timing = {"images_per_second", "processes"}
    stats = {name: value for name, value in manifest.stats.items() if name not in timing}
    return manifest.files, manifest.config, manifest.parents, stats


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def clustered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all images that were clustered, about in order: threads share a batch."""
    original = PseudoMaskGenerator.__call__
    keys: list[str] = []

    def counting(self: PseudoMaskGenerator, images: Any, batch: list[str]) -> Any:
        keys.extend(batch)
        return original(self, images, batch)

    monkeypatch.setattr(PseudoMaskGenerator, "__call__", counting)
    monkeypatch.setattr(workers, "_POLL_S", 0.02)
    return keys


def test_commands_on_one_store_share_the_work(
    store: ArtifactStore, tmp_path: Path, clustered: list[str]
) -> None:
    """Three at once: every image is clustered once, and all return the one artifact."""
    pairs = make_pairs(store, shards=9)
    alone = ArtifactStore(tmp_path / "alone")
    (alone.root / "pairs/photos").mkdir(parents=True)
    (alone.root / "pairs/photos/v1").symlink_to(pairs.path)
    expected = run(CONFIG, alone, device="cpu")
    clustered.clear()
    found: list[Artifact] = []
    begin = threading.Barrier(3)

    def command() -> None:
        begin.wait()
        found.append(run(CONFIG, store, device="cpu"))

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    versions = {artifact.reference for artifact in found}
    first = store.find("photos:v1", "masks")
    assert untimed(first) == untimed(expected)
    assert first.problems() == []
    # A command that began after the others had published everything makes a version of its own.
    keys = [f"s{shard}-{image}" for shard in range(9) for image in range(7)]
    assert sorted(clustered) == sorted(len(versions) * keys)


def test_what_another_process_holds_is_waited_for(
    store: ArtifactStore, clustered: list[str]
) -> None:
    """The rest is made meanwhile; when the other gives up its shard, it is taken over."""
    make_pairs(store, shards=3)
    claim = held_shard(store, CONFIG, "000001.tar")
    told = Told()
    found: list[Artifact] = []
    thread = threading.Thread(
        target=lambda: found.append(run(CONFIG, store, device="cpu", progress=told))
    )
    thread.start()
    waits = "waiting for shards that other processes make: 000001.tar"
    wait_for(lambda: waits in told.messages)
    assert sorted({key[:2] for key in clustered}) == ["s0", "s2"]
    claim.release()
    thread.join()
    assert found[0].manifest.stats["images"] == 21
    assert len(clustered) == 21


@pytest.mark.slow
def test_two_processes_on_one_store_print_one_artifact(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Two commands as on two machines, a third process holding a shard until both wait for it."""
    pairs = make_pairs(store, shards=6)
    claim = held_shard(store, CONFIG, "000003.tar")
    fields = ("grid", "image_size", "masks", "batch_size")
    command = [
        sys.executable, "-m", "sseg_cli", "--store", str(store.root), "pseudomask", "--json",
        "--features", "lab", "--device", "cpu",
        *(part for name in fields for part in ("--set", f"{name}={getattr(CONFIG, name)}")),
    ]  # fmt: skip
    shown = [tmp_path / "shown0", tmp_path / "shown1"]
    processes = []
    for path in shown:
        with path.open("w") as stream:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
        processes.append(process)
    wait_for(lambda: all("waiting for shards" in path.read_text() for path in shown))
    claim.release()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [answer["artifact"] for answer in answers] == [str(store.root / "masks/photos/v1")] * 2
    alone = ArtifactStore(tmp_path / "alone")
    (alone.root / "pairs/photos").mkdir(parents=True)
    (alone.root / "pairs/photos/v1").symlink_to(pairs.path)
    assert untimed(store.find("photos", "masks")) == untimed(run(CONFIG, alone, device="cpu"))


@pytest.mark.slow
def test_a_killed_worker_is_told_of_and_its_shard_is_made_again(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """kill -9 in the middle of a shard: the other worker ends the job, all files as ever."""
    pairs = make_pairs(store, shards=6, images=12)
    claim = held_shard(store, SLOW, "000005.tar")
    told = Told()
    found: list[Artifact] = []
    thread = threading.Thread(
        target=lambda: found.append(run(SLOW, store, device="cpu", processes=2, progress=told))
    )
    thread.start()
    wait_for(lambda: told.done >= 6)
    victim = multiprocessing.active_children()[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    claim.release()
    thread.join()
    assert [text for text in told.messages if "SIGKILL" in text] == [
        "a worker on cpu was ended by SIGKILL; the others make its shard again"
    ]
    assert multiprocessing.active_children() == []
    assert found[0].manifest.stats["processes"] == 2
    alone = ArtifactStore(tmp_path / "alone")
    (alone.root / "pairs/photos").mkdir(parents=True)
    (alone.root / "pairs/photos/v1").symlink_to(pairs.path)
    assert untimed(found[0]) == untimed(run(SLOW, alone, device="cpu"))


@pytest.mark.slow
def test_the_death_of_all_workers_is_one_sentence(store: ArtifactStore) -> None:
    """What they finished is kept for the same command."""
    make_pairs(store, shards=6, images=12)
    claim = held_shard(store, SLOW, "000005.tar")
    errors: list[BaseException] = []

    def command() -> None:
        try:
            run(SLOW, store, device="cpu", processes=2)
        except DataError as error:
            errors.append(error)

    thread = threading.Thread(target=command)
    thread.start()
    wait_for(lambda: bool(list(store.root.glob("masks/*/.work-*/done/*.json"))))
    for child in multiprocessing.active_children():
        child.kill()
    thread.join()
    claim.release()
    assert "worker processes were killed" in str(errors[0])
    assert "Run the same command again" in str(errors[0])
    assert 0 < plan(SLOW, store).facts(1)["shards_to_do"] < 6


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised_once(store: ArtifactStore, tmp_path: Path) -> None:
    """The sentence and hint of the first, and no process left."""
    make_pairs(store)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"no weights")
    config = CONFIG.model_copy(update={"features": "dino_vits8", "weights": str(weights)})
    with pytest.raises(ArtifactError, match=r"w\.safetensors is not a readable") as error:
        run(config, store, device="cpu", processes=2)
    assert error.value.hint
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_behind(store: ArtifactStore, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group: exit code 130, no traceback, no orphan, work kept."""
    make_pairs(store, shards=6, images=20)
    config = PseudomaskConfig(features="lab", batch_size=1)
    claim = held_shard(store, config, "000005.tar")
    # Where the tests run in the background of a script, SIGINT would be ignored from the start.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from sseg_cli.__main__ import main; main()"
    )
    command = [
        sys.executable, "-c", program, "--store", str(store.root), "pseudomask", "--procs", "2",
        "--features", "lab", "--set", "batch_size=1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: bool(list(store.root.glob("masks/*/.work-*/done/*.json"))))
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in shown

    def is_gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(is_gone, seconds=10)
    assert not list(store.root.glob("masks/*/v*"))
    claim.release()


def test_more_processes_than_devices_are_refused() -> None:
    """N processes share the cores; GPUs are taken one each, and must be there."""
    assert worker_devices("cpu", 3) == ("cpu", "cpu", "cpu")
    assert worker_devices("auto", 1) == ("auto",)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' is not available"):
            worker_devices("cuda", 2)


def test_shards_by_pattern_and_by_url_give_the_same_masks(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pairs artifact: files, a URL, and masks stored at another URL."""
    pairs = make_pairs(store, shards=3)
    expected = run(CONFIG, store, device="cpu")
    pattern = f"{pairs.path}/{{000000..000002}}.tar"
    monkeypatch.chdir(pairs.path)
    here = CONFIG.model_copy(update={"pairs": "{000000..000002}.tar"})
    local = run(here, store, name="a", device="cpu")
    assert local.manifest.files == expected.manifest.files
    assert local.manifest.parents == ()
    assert local.manifest.config["pairs"] == pattern
    update = {"pairs": f"file://{pattern}", "out": "memory://bucket/masks"}
    remote = run(CONFIG.model_copy(update=update), store, device="cpu")
    assert remote.manifest.name == "v1"
    assert remote.manifest.files == {}
    for name, entry in expected.manifest.files.items():
        place = f"memory://bucket/masks/{name}"
        stored = {"url": place, "sha256": entry.sha256, "bytes": entry.bytes}
        assert remote.manifest.stats["urls"][name] == stored
        with open_shard(place) as stream:
            assert stream.read() == expected.file(name).read_bytes()
    for name in ("a", "v1"):
        config = TrainConfig(masks=MasksConfig(stored=name), batch_size=4)
        ((*shards,),) = (found.shards for found in train.plan(config, store).inputs.sets)
        assert [len(list(read_shard_with_masks(*both))) for both in shards] == [7, 7, 7]


def test_a_missing_shard_stops_behind_the_last_whole_one(
    store: ArtifactStore, tmp_path: Path, clustered: list[str]
) -> None:
    """What came before it is finished, and not made again when it has come."""
    for shard in (0, 2):
        write_pairs(tmp_path / f"{shard}.tar", shard, [jpeg(i) for i in range(3)])
    config = CONFIG.model_copy(update={"pairs": str(tmp_path / "{0..2}.tar")})
    with pytest.raises(DataError, match=r"Cannot read the shard .*1\.tar: no such file"):
        run(config, store, name="x", device="cpu")
    write_pairs(tmp_path / "1.tar", 1, [jpeg(5)])
    assert run(config, store, name="x", device="cpu").manifest.stats["images"] == 7
    assert sorted(clustered) == ["s0-0", "s0-1", "s0-2", "s1-0", "s2-0", "s2-1", "s2-2"]


def test_a_damaged_member_costs_only_itself(store: ArtifactStore, tmp_path: Path) -> None:
    """The images behind it get their masks; the damage shows in the manifest."""
    path = tmp_path / "0.tar"
    write_pairs(path, 0, [jpeg(i) for i in range(5)])
    content = bytearray(path.read_bytes())
    begin = content.index(b"s0-2.jpg")
    content[begin : begin + 512] = b"\xa5" * 512
    path.write_bytes(content)
    config = CONFIG.model_copy(update={"pairs": str(path)})
    masks = run(config, store, name="x", device="cpu")
    assert [key for key, _ in read_masks(masks.file("0.tar"))] == ["s0-0", "s0-1", "s0-3", "s0-4"]
    assert masks.manifest.stats["skipped"] == {"damaged member": 1, "no image": 1}


def test_tiny_and_plain_images_get_one_segment(store: ArtifactStore, tmp_path: Path) -> None:
    """A single pixel, less than a token, and all-one-colour images: no error, no NaN."""
    plain = [
        encode_jpeg(np.full((side, side, 3), value, np.uint8), 95)
        for side, value in ((1, 200), (40, 0), (40, 255), (3, 90))
    ]
    write_pairs(tmp_path / "0.tar", 0, plain)
    config = CONFIG.model_copy(update={"pairs": str(tmp_path / "0.tar"), "features": "rgb"})
    masks = run(config, store, name="x", device="cpu")
    assert masks.manifest.stats["segments_per_image"] == 1
    assert masks.manifest.stats["images"] == 4


def test_features_that_are_no_numbers_cost_only_their_image(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out and counted; the others keep their masks."""
    make_pairs(store, shards=1, images=3)
    original = PseudoMaskGenerator.__call__

    def broken(self: PseudoMaskGenerator, images: torch.Tensor, keys: list[str]) -> Any:
        if "s0-1" in keys:
            images = images.clone()
            images[keys.index("s0-1")] = torch.nan
        return original(self, images, keys)

    monkeypatch.setattr(PseudoMaskGenerator, "__call__", broken)
    masks = run(CONFIG, store, device="cpu")
    assert [key for key, _ in read_masks(masks.file("000000.tar"))] == ["s0-0", "s0-2"]
    assert masks.manifest.stats["skipped"] == {"features not finite": 1}


def test_a_full_disk_is_one_sentence_and_the_rerun_completes(
    store: ArtifactStore, tmp_path: Path, clustered: list[str]
) -> None:
    """The shard that did not fit is named; the small one before it is kept."""
    write_pairs(tmp_path / "0.tar", 0, [jpeg(0)])
    write_pairs(tmp_path / "1.tar", 1, [jpeg(i) for i in range(60)])
    config = CONFIG.model_copy(update={"pairs": str(tmp_path / "{0..1}.tar")})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(DataError, match=r"Cannot write .*1\.tar.*: file too large") as error:
            run(config, store, name="x", device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run the same command again" in error.value.hint
    clustered.clear()
    masks = run(config, store, name="x", device="cpu")
    assert masks.manifest.stats["images"] == 61
    assert "s0-0" not in clustered
    assert masks.problems() == []


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be; and a read-only folder, unless we are root."""
    write_pairs(tmp_path / "0.tar", 0, [jpeg(0)])
    config = CONFIG.model_copy(update={"pairs": str(tmp_path / "0.tar")})
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o555)
    places = [tmp_path / "file"]
    if not os.access(tmp_path / "locked", os.W_OK):
        places.append(tmp_path / "locked/store")
    for place in places:
        with pytest.raises(ArtifactError, match=f"The store {place} cannot be written"):
            run(config, ArtifactStore(place), name="x", device="cpu")


def test_a_plan_counts_what_is_done_and_what_it_will_take(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first run the rate is unknown; later it is that of the newest masks made alike."""
    make_pairs(store, shards=4)
    unknown = plan(CONFIG, store).facts(2)
    assert (unknown["shards"], unknown["shards_to_do"], unknown["images"]) == (4, 4, 28)
    assert unknown["images_per_second_per_device"] is None
    assert unknown["paper_hours_on_8_devices"] is None
    assert not (store.root / "masks").exists()
    masks = run(CONFIG, store, device="cpu")
    rate, size = masks.manifest.stats["images_per_second"], masks.manifest.stats["bytes_per_mask"]
    known = plan(CONFIG, store).facts(2)
    assert known["images_per_second_per_device"] == rate
    assert known["paper_hours_on_8_devices"] == pytest.approx(26e6 / rate / 8 / 3600, abs=0.01)
    assert known["paper_gigabytes"] == pytest.approx(26e6 * size / 1e9, abs=0.1)
    assert known["measured_on"] == "cpu"
    assert known["hours_on_2_devices"] <= known["hours_on_1_device"]
    with pytest.raises(ConfigError, match="no way to read foo://"):
        plan(CONFIG.model_copy(update={"out": "foo://x"}), store)
    other = CONFIG.model_copy(update={"masks": 5})
    assert plan(other, store).facts(1)["images_per_second_per_device"] is None


def test_a_mask_takes_about_300_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    """Natural segments at K=8 on the 28x28 grid of a ViT-S/8, tar and all; 26M are 8 GB."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(200):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((112, 112), Image.Resampling.BICUBIC)
        images.append(encode_jpeg(np.asarray(smooth), 95))
    write_pairs(tmp_path / "0.tar", 0, images)
    config = PseudomaskConfig(pairs=str(tmp_path / "0.tar"), features="lab", grid=28)
    stats = run(config, store, name="x", device="cpu").manifest.stats
    assert stats["segments_per_image"] == 8
    assert stats["bytes_per_mask"] < 300
