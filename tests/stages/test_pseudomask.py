"""`sseg pseudomask`: shards of masks beside shards of pairs, resumable, bad images counted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import encode_jpeg
from sseg_core.data.shards import Sample, pack_sample, read_masks, read_shard_with_masks, write_tar
from sseg_core.errors import ArtifactError, DataError
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.stages.pseudomask import run

CONFIG = PseudomaskConfig(features="lab", grid=8, image_size=32, masks=3, batch_size=2)
BROKEN = b"\xff\xd8\xff not a jpeg"


def _jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return encode_jpeg(coarse.repeat(10, axis=0).repeat(10, axis=1), 95)


def _make_pairs(store: ArtifactStore, shards: Sequence[Sequence[bytes]]) -> Artifact:
    with store.draft("pairs", "photos", {"source": "test"}) as draft:
        for number, images in enumerate(shards):
            name = f"{number:06d}.tar"
            members = [
                member
                for i, image in enumerate(images)
                for member in pack_sample(Sample(f"s{number}-{i}", image, ("a cat",)), "jpg")
            ]
            write_tar(draft.partial(name), members)
            draft.commit(name)
        return draft.publish({"images": sum(map(len, shards))})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_every_image_gets_a_label_map_under_its_key(store: ArtifactStore) -> None:
    """Same shard names, same keys in the same order, palette PNGs on the token grid."""
    pairs = _make_pairs(store, [[_jpeg(0), _jpeg(1), _jpeg(2)], [_jpeg(3)]])
    masks = run(CONFIG, store, device="cpu")
    assert (masks.manifest.kind, masks.reference) == ("masks", "photos:v1")
    assert store.parent(masks, "pairs").reference == pairs.reference
    assert [path.name for path in masks.files(".tar")] == ["000000.tar", "000001.tar"]
    assert [key for key, _ in read_masks(masks.file("000000.tar"))] == ["s0-0", "s0-1", "s0-2"]
    for name, count in (("000000.tar", 3), ("000001.tar", 1)):
        joined = list(read_shard_with_masks(pairs.file(name), masks.file(name)))
        assert len(joined) == count
        for _, png in joined:
            image = Image.open(io.BytesIO(png))
            assert (image.mode, image.size) == ("P", (8, 8))
            assert set(np.unique(np.asarray(image))) == {0, 1, 2}


def test_the_manifest_says_what_was_done(store: ArtifactStore) -> None:
    """Stats: images, segments, features, K, counts by shard; the config names the pairs."""
    _make_pairs(store, [[_jpeg(0), _jpeg(1)], [_jpeg(2)]])
    manifest = run(CONFIG, store, device="cpu").manifest
    stats = dict(manifest.stats)
    assert stats.pop("images_per_second") > 0
    assert stats.pop("bytes_per_mask") > 0
    assert stats.pop("png_bytes_per_mask") > 0
    assert stats == {
        "images": 3,
        "skipped": {},
        "segments_per_image": 3.0,
        "features": "lab",
        "clustering": "kmeans",
        "masks": 3,
        "shards": {"000000.tar": 2, "000001.tar": 1},
        "device": "cpu",
        "processes": 1,
    }
    assert manifest.config["pairs"] == "photos:v1"


def test_auto_features_are_in_the_manifest_by_name(store: ArtifactStore) -> None:
    """What `auto` chose is what the artifact says it was made with."""
    _make_pairs(store, [[_jpeg(0)]])
    config = CONFIG.model_copy(update={"features": "auto"})
    manifest = run(config, store, device="cpu").manifest
    assert manifest.config["features"] == manifest.stats["features"] != "auto"
    assert manifest.config["clustering"] == manifest.stats["clustering"] != "auto"


def test_bad_images_are_skipped_and_counted_by_reason(store: ArtifactStore) -> None:
    """A corrupt and a truncated image leave the others' masks as they would be."""
    good = [_jpeg(i) for i in range(4)]
    _make_pairs(store, [[good[0], BROKEN, good[1], good[2][: len(good[2]) // 2], good[3]]])
    masks = run(CONFIG, store, device="cpu")
    assert masks.manifest.stats["images"] == 3
    assert masks.manifest.stats["skipped"] == {"corrupt": 1, "truncated": 1}
    keys = [key for key, _ in read_masks(masks.file("000000.tar"))]
    assert keys == ["s0-0", "s0-2", "s0-4"]


def test_too_many_bad_images_stop_the_run(store: ArtifactStore) -> None:
    """Above max_skip_rate: an error that names the reason, and no artifact."""
    _make_pairs(store, [[BROKEN, BROKEN, _jpeg(0)]])
    with pytest.raises(DataError, match=r"2 of 3 samples cannot be used.*corrupt"):
        run(CONFIG, store, device="cpu")
    assert store.artifacts("masks") == []
    allowed = CONFIG.model_copy(update={"max_skip_rate": 1.0})
    assert run(allowed, store, device="cpu").manifest.stats["images"] == 1


def test_pairs_without_a_usable_image_are_an_error(store: ArtifactStore) -> None:
    """Nothing to cluster: said in a sentence, even where every skip is allowed."""
    _make_pairs(store, [[BROKEN]])
    with pytest.raises(DataError, match="no usable image"):
        run(CONFIG.model_copy(update={"max_skip_rate": 1.0}), store, device="cpu")


def test_without_pairs_the_error_names_the_command(store: ArtifactStore) -> None:
    """An empty store: make pairs first."""
    with pytest.raises(ArtifactError) as error:
        run(CONFIG, store, device="cpu")
    assert "sseg download" in error.value.hint


def test_an_interrupted_run_is_taken_up_where_it_stopped(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the second shard keeps the first; the rerun equals an uninterrupted one."""
    shards = [[_jpeg(0), BROKEN, _jpeg(1)], [_jpeg(2), _jpeg(3), _jpeg(4)], [_jpeg(5)]]
    _make_pairs(store, shards)
    other = ArtifactStore(tmp_path / "other")
    _make_pairs(other, shards)
    expected = run(CONFIG, other, device="cpu")

    original = PseudoMaskGenerator.__call__
    clustered: list[str] = []

    def crashing(self: PseudoMaskGenerator, images: object, keys: list[str]) -> object:
        if "s1-2" in keys:
            raise KeyboardInterrupt
        return original(self, images, keys)  # type: ignore[arg-type]

    def counting(self: PseudoMaskGenerator, images: object, keys: list[str]) -> object:
        clustered.extend(keys)
        return original(self, images, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(PseudoMaskGenerator, "__call__", crashing)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, store, device="cpu")
    assert store.artifacts("masks") == []
    monkeypatch.setattr(PseudoMaskGenerator, "__call__", counting)
    resumed = run(CONFIG, store, device="cpu")
    assert sorted(clustered) == ["s1-0", "s1-1", "s1-2", "s2-0"]
    assert resumed.manifest.files == expected.manifest.files
    same = ("images", "skipped", "segments_per_image", "shards")
    for name in same:
        assert resumed.manifest.stats[name] == expected.manifest.stats[name]


def test_batch_size_does_not_change_the_masks(store: ArtifactStore) -> None:
    """Clustered one by one or all at once: the same files."""
    _make_pairs(store, [[_jpeg(i) for i in range(7)]])
    files = [
        run(CONFIG.model_copy(update={"batch_size": size}), store, device="cpu").manifest.files
        for size in (1, 3, 100)
    ]
    assert files[0] == files[1] == files[2]


def test_a_truncated_shard_gives_masks_for_what_is_whole(store: ArtifactStore) -> None:
    """The samples before the cut are used, the cut is counted."""
    pairs = _make_pairs(store, [[_jpeg(0), _jpeg(1), _jpeg(2)]])
    path = pairs.path / "000000.tar"
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmember("s0-2.jpg")
    with store.draft("pairs", "cut", {}) as draft:
        draft.partial("000000.tar").write_bytes(content[: third.offset_data + third.size // 2])
        draft.commit("000000.tar")
        draft.publish({"images": 3})
    masks = run(CONFIG.model_copy(update={"pairs": "cut"}), store, device="cpu")
    assert masks.manifest.name == "cut"
    assert [key for key, _ in read_masks(masks.file("000000.tar"))] == ["s0-0", "s0-1"]
    assert masks.manifest.stats["skipped"]["truncated shard"] == 1


def test_the_manifest_knows_a_weight_file_by_its_content(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Other weights under the same name are another command, so no shard of the old is taken up."""
    import timm
    from safetensors.torch import save_file

    _make_pairs(store, [[_jpeg(0)]])
    weights = tmp_path / "vit.safetensors"
    digests = []
    for _ in range(2):
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
        config = CONFIG.model_copy(update={"features": "timm:test_vit", "weights": str(weights)})
        digests.append(run(config, store, device="cpu").manifest.config["weights_sha256"])
    assert digests[0] != digests[1]
    gone = config.model_copy(update={"weights": str(tmp_path / "gone.pth")})
    with pytest.raises(ArtifactError, match="There is no weight file"):
        run(gone, store, device="cpu")
    other = config.model_copy(update={"features": "timm:test_vit2"})
    with pytest.raises(ArtifactError, match=r"vit\.safetensors"):
        run(other, store, name="wrong", device="cpu")
    assert not (store.root / "masks/wrong").exists()


def test_a_preview_shows_the_first_masks_and_is_part_of_the_artifact(store: ArtifactStore) -> None:
    """A contact sheet and a page with the facts; the shards are those of a run without it."""
    _make_pairs(store, [[_jpeg(0), BROKEN, _jpeg(1)], [_jpeg(2)]])
    plain = run(CONFIG, store, device="cpu")
    masks = run(CONFIG, store, device="cpu", preview=2)
    assert set(masks.manifest.files) - set(plain.manifest.files) == {"preview.png", "report.html"}
    for name, entry in plain.manifest.files.items():
        assert masks.manifest.files[name] == entry
    with Image.open(masks.file("preview.png")) as sheet:
        assert sheet.width > 2 * 3 * 224  # two samples of three pictures in a row
    page = masks.file("report.html").read_text(encoding="utf-8")
    assert "s0-0" in page
    assert "s0-2" in page
    assert "s1-0" not in page
