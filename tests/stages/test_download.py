"""Packing: the same shards every time, whatever happens on the way."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig, ToyWorldConfig
from sseg_core.data.images import decode_image
from sseg_core.data.shards import read_shard
from sseg_core.data.toyworld import render_scene
from sseg_core.errors import ConfigError, DataError
from sseg_core.stages import download

TOY = DownloadConfig(
    source="toyworld", shard_size=4, toyworld=ToyWorldConfig(scenes=10, image_size=32, seed=3)
)


def samples_of(artifact: Artifact) -> list[Any]:
    return [sample for path in artifact.files(".tar") for sample in read_shard(path)]


def jpeg(value: int, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 90, 200)).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., DownloadConfig]:
    """Writes images and a captions file; returns the configuration that packs them."""

    def write(files: dict[str, bytes | None], **options: Any) -> DownloadConfig:
        folder = tmp_path / "photos"
        lines = []
        for name, data in files.items():
            lines.append(json.dumps({"image": name, "captions": [f"This is {name}.", "A photo."]}))
            if data is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        (folder / "my photos.jsonl").write_text("\n".join(lines))
        return DownloadConfig(source=f"pairs:{folder / 'my photos.jsonl'}", **options)

    return write


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


class Recorder:
    """A progress that can fail after some images, like a killed run."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after = fail_after
        self.done = 0
        self.messages: list[str] = []

    def start(self, task: str, total: int | None, unit: str) -> None:
        assert (task, unit) == ("download", "images")

    def advance(self, count: int = 1, **fields: str) -> None:
        self.done += count
        if self.fail_after is not None and self.done >= self.fail_after:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_the_toy_world_is_packed(store: ArtifactStore) -> None:
    """Every scene becomes a sample with its captions, in shards of the asked size."""
    artifact = download.run(TOY, store)
    assert (artifact.manifest.kind, artifact.reference) == ("pairs", "toyworld:v1")
    assert sorted(artifact.manifest.files) == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
        "shards.json",
    ]
    samples = samples_of(artifact)
    assert [s.key for s in samples] == [f"toy-{i:06d}" for i in range(10)]
    scene = render_scene(3, 7, 32)
    assert samples[7].captions == scene.captions
    pixels = decode_image(samples[7].image, max_pixels=10_000).astype(int)
    assert np.abs(pixels - scene.image).mean() < 8
    stats = artifact.manifest.stats
    assert stats["images"] == 10
    assert stats["captions"] == sum(len(s.captions) for s in samples)
    assert stats["bytes"] == sum(len(s.image) for s in samples)
    assert (stats["shards"], stats["skipped"], stats["examples"]) == (3, {}, {})


def test_a_rerun_after_a_crash_makes_only_what_is_missing(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """A run stopped in the middle goes on at its shard and ends in the same artifact."""
    with pytest.raises(KeyboardInterrupt):
        download.run(TOY, store, progress=Recorder(fail_after=6))
    recorder = Recorder()
    resumed = download.run(TOY, store, progress=recorder)
    assert recorder.messages[1:] == ["1 of 3 shards are there from an earlier run"]
    assert recorder.done == 10
    whole = download.run(TOY, ArtifactStore(tmp_path / "other"))
    assert resumed.manifest.digest() == whole.manifest.digest()


def test_a_small_plain_jpeg_is_kept_verbatim(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """A plain JPEG within max_side keeps its bytes; any other image becomes such a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    png = io.BytesIO()
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(png, "PNG")
    files = {
        "a/plain.jpg": jpeg(10),
        "a/turned.jpg": jpeg(20, exif=exif),
        "a/large.jpg": jpeg(30, size=(200, 100)),
        "a/clear.png": png.getvalue(),
    }
    samples = samples_of(download.run(photos(files, max_side=64), store))
    assert [s.key for s in samples] == ["a_plain", "a_turned", "a_large", "a_clear"]
    assert samples[0].image == files["a/plain.jpg"]
    assert samples[0].captions == ("This is a/plain.jpg.", "A photo.")
    decoded = [decode_image(s.image, max_pixels=10_000) for s in samples]
    assert [image.shape for image in decoded] == [
        (30, 40, 3),
        (40, 30, 3),
        (32, 64, 3),
        (30, 40, 3),
    ]
    assert decoded[3].min() > 250
    assert all(s.image.startswith(b"\xff\xd8\xff") for s in samples)


def test_images_keep_their_size_without_max_side(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """max_side=None shrinks nothing."""
    files = {"a.jpg": jpeg(30, size=(900, 100))}
    (sample,) = samples_of(download.run(photos(files, max_side=None), store))
    assert sample.image == files["a.jpg"]


def test_unusable_images_are_skipped_and_counted(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """Each bad image costs only itself; its reason is counted and its name kept, harmless."""
    files = {
        "good.jpg": jpeg(1),
        "cut.jpg": jpeg(2)[:-100],
        "missing\x1b[2J.jpg": None,
        "../outside.jpg": jpeg(3),
        "page.jpg": b"<html>",
        "empty.jpg": b"",
        "huge.jpg": jpeg(4, size=(101, 100)),
        "more/good.jpg": jpeg(5),
    }
    config = photos(files, max_pixels=10_000, min_success=0.1, shard_size=3)
    artifact = download.run(config, store)
    assert [s.key for s in samples_of(artifact)] == ["good", "more_good"]
    stats = artifact.manifest.stats
    assert stats["images"] == 2
    reasons = {"truncated", "missing image", "outside root", "unsupported", "empty", "too large"}
    assert stats["skipped"] == dict.fromkeys(reasons, 1)
    assert stats["examples"]["missing image"] == ["missing?[2J.jpg"]


def test_names_that_give_the_same_key_all_survive(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """Different images whose names differ only in dots and slashes get different keys."""
    files = {"a/b.jpg": jpeg(1), "a.b.jpg": jpeg(2), "a_b.jpg": jpeg(3), "./x/../c.jpg": jpeg(4)}
    samples = samples_of(download.run(photos(files), store))
    assert [s.key for s in samples] == ["a_b", "a_b-2", "a_b-3", "x_c"]
    assert [s.image for s in samples] == list(files.values())


def test_a_limit_takes_the_first_images(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """limit=N packs the first N images, of either source."""
    files = {f"{i}.jpg": jpeg(i) for i in range(5)}
    assert len(samples_of(download.run(photos(files, limit=2), store))) == 2
    limited = TOY.model_copy(update={"limit": 3})
    assert len(samples_of(download.run(limited, store))) == 3


def test_too_many_bad_images_stop_with_an_example(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """Below min_success nothing is published; the error names the commonest reason and a file."""
    files = {f"{i}.jpg": jpeg(i) if i < 4 else None for i in range(10)}
    config = photos(files, min_success=0.5, shard_size=3)
    with pytest.raises(DataError, match=r"6 of 10 images.*missing image \(6, for example 4.jpg\)"):
        download.run(config, store)
    assert store.artifacts() == []


def test_mended_images_are_taken_up(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """After missing images were put in place, the same command makes their shards again."""
    files = {f"{i}.jpg": jpeg(i) if i in {0, 1, 2, 5} else None for i in range(9)}
    with pytest.raises(DataError):
        download.run(photos(files, shard_size=2), store)
    mended = {name: data or jpeg(99) for name, data in files.items()}
    recorder = Recorder()
    artifact = download.run(photos(mended, shard_size=2), store, progress=recorder)
    assert recorder.messages[1:] == ["1 of 5 shards are there from an earlier run"]
    assert artifact.manifest.stats["images"] == 9


def test_nothing_usable_is_an_error(
    store: ArtifactStore, photos: Callable[..., DownloadConfig]
) -> None:
    """No artifact is made of no image, even when every skip is allowed."""
    config = photos({"a.jpg": b"", "b.jpg": b""}, min_success=0.0)
    with pytest.raises(DataError, match=r"2 of 2 images cannot be used.*empty"):
        download.run(config, store)


def test_a_bad_captions_file_writes_nothing(tmp_path: Path, store: ArtifactStore) -> None:
    """One bad line stops before the store is touched."""
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "a.jpg", "text": "x"}\n' * 16 + "{nonsense}\n")
    with pytest.raises(DataError, match=r"captions\.jsonl line 17 is not valid JSON"):
        download.run(DownloadConfig(source=f"pairs:{file}"), store)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("toywrld", "no source 'toywrld'", "Did you mean 'toyworld'"),
        ("pair:x.jsonl", "no source 'pair:x.jsonl'", "pairs:FILE"),
        ("toyworld:3", "no source 'toyworld:3'", "toyworld"),
        ("pairs:", "lacks its file", "pairs:captions.jsonl"),
    ],
)
def test_an_unknown_source_is_a_configuration_error(
    store: ArtifactStore, source: str, message: str, hint: str
) -> None:
    """A source that does not exist is answered with the one that was meant."""
    with pytest.raises(ConfigError, match=message) as caught:
        download.run(DownloadConfig(source=source), store)
    assert hint in caught.value.hint


def test_a_missing_root_is_an_error(
    store: ArtifactStore, photos: Callable[..., DownloadConfig], tmp_path: Path
) -> None:
    """A root that is no folder is named, rather than every image called missing."""
    config = photos({"a.jpg": jpeg(1)}, root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        download.run(config, store)


@pytest.mark.slow
def test_pairs_mini_is_packed_whole(real_data: Path, store: ArtifactStore) -> None:
    """The thousand real photos are packed without a loss, mostly byte for byte."""
    folder = real_data / "pairs-mini"
    config = DownloadConfig(source=f"pairs:{folder / 'captions.jsonl'}")
    artifact = download.run(config, store)
    stats = artifact.manifest.stats
    assert (artifact.manifest.name, stats["images"], stats["captions"]) == ("captions", 1000, 5000)
    assert stats["skipped"] == {}
    originals = {path.stem: path for path in (folder / "images").iterdir()}
    samples = samples_of(artifact)
    same = sum(s.image == originals[s.key.removeprefix("images_")].read_bytes() for s in samples)
    assert same > 950
