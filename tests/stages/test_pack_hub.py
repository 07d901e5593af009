"""Webdatasets of the hub: fetched, repacked, counted, and taken up again after anything."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import DownloadConfig, HubConfig
from sseg_core.data.fetch import hub_download
from sseg_core.data.fetch.tally import Tally
from sseg_core.data.images import decode_image
from sseg_core.data.shards import Sample, pack_sample, read_shard
from sseg_core.data.sources import PAIRS
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, DataError
from sseg_core.stages import pack_hub
from sseg_core.stages.pack_hub import open_hub
from sseg_core.stages.pairs_packer import identity_of

REPOSITORY = "datasets/org/photos-wds"
SOURCE = "hf:org/photos-wds"


def photo(number: int, size: tuple[int, int] = (80, 60)) -> bytes:
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    stream = io.BytesIO()
    small.resize(size).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def photos(first: int, count: int, size: tuple[int, int] = (80, 60)) -> bytes:
    """A shard as img2dataset writes it."""
    members = {}
    for number in range(first, first + count):
        key = f"{number:09d}"
        members[f"{key}.jpg"] = photo(number, size)
        members[f"{key}.json"] = json.dumps({"caption": f"photo {number}", "key": key}).encode()
        members[f"{key}.txt"] = f"photo {number}".encode()
    return tar_of(members)


class Recorder:
    """A progress that adds up."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None, str]] = []
        self.done = self.told = 0
        self.fields: dict[str, str] = {}
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        self.tasks.append((task, total, unit))

    def advance(self, count: int = 1, **fields: str) -> None:
        assert count >= 0
        self.done += count
        self.told += count > 0
        self.fields.update(fields)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def config_of(source: str = SOURCE, **options: Any) -> DownloadConfig:
    return DownloadConfig(source=source, **{"max_side": 64, **options})


def draft_of(config: DownloadConfig, store: ArtifactStore) -> Any:
    packer = open_hub(config)
    described = {**config.model_dump(mode="json"), **packer.identity}
    return store.draft("pairs", packer.name, described, identity=identity_of(described))


def packed(
    config: DownloadConfig, store: ArtifactStore, progress: Any = None
) -> tuple[dict[str, list[Sample]], Tally]:
    """Return the samples of each shard, and what became of all."""
    with draft_of(config, store) as draft:
        names = open_hub(config).pack(config, draft, progress or Recorder())
        return _read(draft, names)


def _read(draft: Draft, names: tuple[str, ...]) -> tuple[dict[str, list[Sample]], Tally]:
    samples = {name: list(read_shard(draft.path / name)) for name in names}
    return samples, Tally.of(Tally.from_note(draft.finished[name]) for name in names)


def files_in(store: ArtifactStore) -> dict[str, str]:
    """Return the digests of what an unfinished run has made."""
    paths = store.root.glob("pairs/*/.work-*/artifact/*.tar")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_each_shard_becomes_one_of_ours(hub: Any, store: ArtifactStore) -> None:
    """In the order of their names; images within the sizes, captions and keys as they were."""
    hub.files[REPOSITORY] = {"b-1.tar": photos(4, 3), "a-0.tar": photos(0, 4), "README.md": b"#"}
    packer = open_hub(config_of())
    assert (packer.name, packer.licence) == ("photos-wds", "cc-by-4.0")
    assert packer.terms == f"{hub.address}/datasets/org/photos-wds"
    recorder = Recorder()
    samples, tally = packed(config_of(), store, recorder)
    assert list(samples) == ["000000.tar", "000001.tar"]
    assert [s.key for s in samples["000001.tar"]] == [f"000001-{n:09d}" for n in (4, 5, 6)]
    for shard in samples.values():
        for sample in shard:
            number = int(sample.key[7:])
            assert sample.captions == (f"photo {number}",)
            pixels = decode_image(sample.image, max_pixels=10**6)
            assert pixels.shape == (48, 64, 3)
            original = Image.open(io.BytesIO(photo(number))).resize((64, 48))
            assert np.abs(pixels.astype(int) - np.asarray(original, int)).mean() < 4
    assert (tally.images, tally.captions, dict(tally.skipped)) == (7, 7, {})
    assert (recorder.tasks, recorder.done) == ([("download", 1, "MB")], 1)
    assert (recorder.fields["images"], recorder.told) == ("7", 1)
    assert not list(store.root.rglob("*.source*"))


def test_the_plan_tells_sizes_before_anything_is_fetched(hub: Any, tmp_path: Path) -> None:
    hub.files["datasets/pixparse/cc3m-wds"] = {
        f"cc3m-{split}-{n:04d}.tar": photos(n, 2) for split in ("train", "validation")
        for n in range(4)
    }  # fmt: skip
    config = DownloadConfig(source="cc3m")
    files = hub.files["datasets/pixparse/cc3m-wds"]
    plan = open_hub(config).plan(config, tmp_path)
    train = sum(len(content) for name, content in files.items() if "train" in name)
    assert plan.download_bytes == train
    (images,) = (source.images for source in PAIRS if source.name == "cc3m")
    assert plan.images == images
    assert plan.disk_bytes is not None
    assert train < plan.disk_bytes < 2 * train
    assert plan.notes == ("4 of its 4 tar files",)
    assert "pixparse/cc3m-wds at 0123456789ab" in plan.origin
    part = config.model_copy(update={"part": "2/4"})
    plan = open_hub(part).plan(part, tmp_path)
    assert plan.download_bytes == len(files["cc3m-train-0001.tar"])
    assert plan.images == round(images * plan.download_bytes / train)
    few = config.model_copy(update={"limit": images // 2})
    assert open_hub(few).plan(few, tmp_path).images == images // 2
    assert open_hub(few).plan(few, tmp_path).download_bytes == pytest.approx(train / 2, rel=0.01)
    assert all(method == "GET" and "resolve" not in path for method, path, _ in hub.requests)


def test_training_shards_are_taken_unless_a_pattern_names_others(hub: Any) -> None:
    hub.files[REPOSITORY] = {
        f"{folder}/{n}.tar": b"" for folder in ("train", "val", "strain") for n in (0, 1)
    }
    paths = [shard.path for shard in open_hub(config_of()).dataset.shards]
    assert paths == ["train/0.tar", "train/1.tar"]
    for pattern, count in {"val/*": 2, "1.tar": 3, "*": 6, "s*/?.tar": 2}.items():
        config = config_of(hub=HubConfig(pattern=pattern))
        assert len(open_hub(config).dataset.shards) == count
    with pytest.raises(DataError, match="No tar file of org/photos-wds is called 'x'") as caught:
        open_hub(config_of(hub=HubConfig(pattern="x")))
    assert "train/0.tar" in caught.value.hint


def test_parts_are_every_nth_shard(hub: Any, store: ArtifactStore) -> None:
    """Under the names and with the bytes that they have in the whole."""
    hub.files[REPOSITORY] = {f"{n}.tar": photos(10 * n, 2) for n in range(5)}
    whole, _ = packed(config_of(), store)
    parts = [packed(config_of(part=f"{i}/2"), store)[0] for i in (1, 2)]
    assert [list(part) for part in parts] == [
        ["000000.tar", "000002.tar", "000004.tar"],
        ["000001.tar", "000003.tar"],
    ]
    assert {**parts[0], **parts[1]} == whole


def test_a_limit_ends_within_a_shard(hub: Any, store: ArtifactStore) -> None:
    """Later ones are not fetched, and with parts it cannot be known."""
    hub.files[REPOSITORY] = {f"{n}.tar": photos(10 * n, 4) for n in range(9)}
    recorder = Recorder()
    samples, tally = packed(config_of(limit=6), store, recorder)
    assert [len(shard) for shard in samples.values()] == [4, 2]
    assert tally.images == recorder.done == 6
    assert recorder.tasks == [("download", 6, "images")]
    assert not hub.fetched("2.tar")
    again, _ = packed(config_of(limit=6), store)
    assert again == samples
    with pytest.raises(ConfigError, match="--limit and --part"):
        open_hub(config_of(limit=6, part="1/2"))


def test_what_cannot_be_used_is_counted(hub: Any, store: ArtifactStore) -> None:
    """By reason, with examples; the others are packed."""
    members = {"good.jpg": photo(1), "good.txt": b"good", "bad.jpg": b"no image", "bad.txt": b"x",
               "quiet.jpg": photo(2), "alone.txt": b"alone", "more.jpg": photo(3),
               "more.json": b'{"TEXT": ["one", "two"]}'}  # fmt: skip
    cut = photos(0, 2)
    hub.files[REPOSITORY] = {"0.tar": tar_of(members), "1.tar": cut[:3000]}
    samples, tally = packed(config_of(min_success=0), store)
    assert [s.key for s in samples["000000.tar"]] == ["000000-good", "000000-more"]
    assert samples["000000.tar"][1].captions == ("one", "two")
    # Of the truncated shard, the last sample lost its caption.
    reasons = {"no caption": 2, "no image": 1, "unsupported": 1, "truncated shard": 1}
    assert dict(tally.skipped) == reasons
    assert tally.examples["unsupported"] == ["000000-bad"]
    assert tally.examples["truncated shard"] == ["1.tar"]


def test_a_webdataset_of_other_things_ends_with_its_first_shard(
    hub: Any, store: ArtifactStore
) -> None:
    """And stays an error when it is asked for again; so does one without any sample."""
    hub.files[REPOSITORY] = {
        f"{n}.tar": tar_of({f"{k}.jpg": photo(k) for k in range(4)}) for n in range(3)
    }
    for _ in range(4):
        with pytest.raises(DataError, match="most often because of: no caption") as caught:
            packed(config_of(), store)
        assert "hub.pattern" in caught.value.hint
    hub.files[REPOSITORY] = {"0.tar": tar_of({"notes": b"none"})}
    with pytest.raises(DataError, match="hold no samples"):
        packed(config_of(min_success=0.1), store)


def test_dropped_connections_are_taken_up_at_their_byte(
    hub: Any, store: ArtifactStore, tmp_path: Path
) -> None:
    hub.files[REPOSITORY] = {"0.tar": photos(0, 8), "1.tar": photos(8, 8)}
    hub.drops["0.tar"] = [20_000, 5_000]
    hub.drops["1.tar"] = [1]
    samples, tally = packed(config_of(), store)
    assert tally.images == 16
    assert len(hub.fetched("0.tar")) == 3
    assert None not in hub.fetched("0.tar")[1:]
    hub.drops.clear()
    assert packed(config_of(), ArtifactStore(tmp_path / "other"))[0] == samples


@pytest.mark.parametrize("ranges", ["ignored", "wrong"])
def test_ranges_that_are_not_what_was_asked_for_are_not_glued(
    ranges: str, hub: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file begins anew; a server that is busy is asked again."""
    monkeypatch.setattr(hub_download, "_BACK_OFF_S", 0.01)
    hub.files[REPOSITORY] = {"0.tar": photos(0, 8)}
    hub.ranges = ranges
    hub.drops["0.tar"] = [20_000]
    hub.busy["0.tar"] = 3
    recorder = Recorder()
    _, tally = packed(config_of(), store, recorder)
    assert (tally.images, dict(tally.skipped)) == (8, {})
    asked = hub.fetched("0.tar")
    assert asked[:4] == [None] * 4
    assert asked[4].startswith("bytes=")
    assert len(asked) == (5 if ranges == "ignored" else 6)


def test_a_hub_that_stays_away_is_given_up(
    hub: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some attempts that bring nothing; what had come is kept."""
    monkeypatch.setattr(hub_download, "_BACK_OFF_S", 0.01)
    hub.files[REPOSITORY] = {"0.tar": photos(0, 8)}
    hub.drops["0.tar"] = [5_000, *[0] * 50]
    with pytest.raises(DataError, match="cannot be fetched from the hub") as caught:
        packed(config_of(), store)
    assert "goes on where it stopped" in caught.value.hint
    (partial,) = store.root.rglob("*.incomplete")
    assert partial.stat().st_size == 5_000
    hub.drops.clear()
    hub.requests.clear()
    assert packed(config_of(), store)[1].images == 8
    assert hub.fetched("0.tar") == ["bytes=5000-"]


def test_wrong_bytes_are_fetched_again_and_never_packed(hub: Any, store: ArtifactStore) -> None:
    """The digest is the hub's; twice wrong is an error."""
    hub.files[REPOSITORY] = {"0.tar": photos(0, 3)}
    hub.wrong["0.tar"] = 2
    with pytest.raises(DataError, match="other bytes than the hub states"):
        packed(config_of(), store)
    assert not files_in(store)
    hub.wrong["0.tar"] = 1
    assert packed(config_of(), store)[1].images == 3
    assert hub.fetched("0.tar") == [None] * 4


def test_an_interrupted_run_goes_on(
    hub: Any, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished shards are not fetched again, and the result is that of one run."""
    hub.files[REPOSITORY] = {f"{n}.tar": photos(10 * n, 6) for n in range(4)}
    made = 0

    def stops(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made > 13:
            raise KeyboardInterrupt
        return pack_sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pack_hub, "pack_sample", stops)
        with pytest.raises(KeyboardInterrupt):
            packed(config_of(), store)
    assert sorted(files_in(store)) == ["000000.tar", "000001.tar"]
    hub.requests.clear()
    recorder = Recorder()
    samples, _ = packed(config_of(), store, recorder)
    assert recorder.messages == ["2 of 4 shards are there from an earlier run"]
    assert not hub.fetched("0.tar")
    assert not hub.fetched("2.tar")  # it had come, and was being packed
    assert packed(config_of(), ArtifactStore(tmp_path / "other"))[0] == samples


def test_another_commit_is_another_command(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is another choice of shards."""
    hub.files[REPOSITORY] = {f"{n}.tar": b"" for n in range(3)}
    first = open_hub(config_of()).identity
    assert open_hub(config_of(hub=HubConfig(revision="main"))).identity == first
    assert open_hub(config_of(hub=HubConfig(pattern="0.tar"))).identity != first
    assert first["hub_commit"] == "0123456789abcdef0123456789abcdef01234567"


def test_the_hubs_cache_serves_also_without_network(
    hub: Any, store: ArtifactStore, reach_hub: Callable[[str | None], Path]
) -> None:
    """What the hub's client has fetched is read where it is, and stays there."""
    from huggingface_hub import snapshot_download

    hub.files[REPOSITORY] = {f"{n}.tar": photos(10 * n, 3) for n in range(2)}
    snapshot_download("org/photos-wds", repo_type="dataset")
    hub.requests.clear()
    online, _ = packed(config_of(), store)
    assert not hub.fetched("0.tar")
    cache = reach_hub(None)
    assert packed(config_of(), store)[0] == online
    assert len(list(cache.rglob("*.tar"))) == 2
    with pytest.raises(DataError, match="HF_HUB_OFFLINE") as caught:
        open_hub(config_of("hf:org/other"))
    assert "hf download --repo-type dataset org/other" in caught.value.hint


def test_what_cannot_be_had_is_one_sentence(
    hub: Any, reach_hub: Callable[[str | None], Path]
) -> None:
    """With the way out."""
    hub.files[REPOSITORY] = {"table.parquet": b""}
    hub.files["datasets/org/closed"] = {"0.tar": b""}
    hub.gated.add("datasets/org/closed")
    for source, message, hint in (
        ("hf:", "lacks its name", "hf:pixparse/cc3m-wds"),
        ("hf:no name", "no repository of the hub", "ORG/NAME"),
        ("hf:org/none", "no dataset org/none, or it is private", "hf auth login"),
        ("hf:org/closed", "accepted its terms", f"{hub.address}/datasets/org/closed"),
        (SOURCE, "no tar files", "pairs:FILE"),
    ):
        with pytest.raises((ConfigError, DataError), match=message) as caught:
            open_hub(config_of(source))
        assert hint in caught.value.hint
    with pytest.raises(DataError, match="has no revision 'v9'"):
        open_hub(config_of(hub=HubConfig(revision="v9")))
    reach_hub("http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be fetched from the hub \(ConnectError\)"):
        open_hub(config_of())


def test_a_bomb_is_not_unpacked(hub: Any, store: ArtifactStore) -> None:
    """A small compressed tar that would be gigabytes."""
    stream = io.BytesIO()
    with gzip.open(stream, "wb", compresslevel=1) as packer:
        packer.write(photos(0, 2))
        entry = tarfile.TarInfo("huge.jpg")
        entry.size = 2**33
        packer.write(entry.tobuf() + bytes(2**20))
    hub.files[REPOSITORY] = {"0.tar.gz": stream.getvalue()}
    _, tally = packed(config_of(), store)
    assert (tally.images, dict(tally.skipped)) == (2, {"too large": 1})


_RUN = """
import sys
from pathlib import Path
from sseg_core.artifacts import ArtifactStore
from sseg_core.config import DownloadConfig
from sseg_core.stages.pack_hub import open_hub
from sseg_core.stages.pairs_packer import identity_of
from sseg_core.tracking import SILENT
store = ArtifactStore(Path(sys.argv[1]))
config = DownloadConfig(source="hf:org/photos-wds", max_side=64)
packer = open_hub(config)
described = {**config.model_dump(mode="json"), **packer.identity}
with store.draft("pairs", packer.name, described, identity=identity_of(described)) as draft:
    packer.pack(config, draft, SILENT)
"""


@pytest.mark.slow
def test_kills_lose_a_shard_at_most(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of them, also in the middle of a download; the bytes are those of one run."""
    hub.files[REPOSITORY] = {f"{n}.tar": photos(100 * n, 40, (320, 240)) for n in range(6)}
    sizes = {name: len(content) for name, content in hub.files[REPOSITORY].items()}
    hub.pace = 500_000
    store = ArtifactStore(tmp_path / "killed")
    command = [sys.executable, "-c", _RUN, str(store.root)]
    environment = hub.environment(tmp_path / "home")
    made: dict[str, str] = {}
    rng = np.random.default_rng(0)
    for _ in range(5):
        with subprocess.Popen(command, env=environment) as process:
            until = time.monotonic() + 30
            while not list(store.root.rglob("*.incomplete")) and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(float(rng.uniform(0.5, 2)))
            process.send_signal(signal.SIGKILL)
        there = files_in(store)
        assert made.items() <= there.items()
        made = there
    assert made
    hub.pace = None
    subprocess.run(command, env=environment, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "whole")], env=environment, check=True)
    assert len(files_in(store)) == 6
    assert files_in(store) == files_in(ArtifactStore(tmp_path / "whole"))
    assert any(r for name in sizes for r in hub.fetched(name))
