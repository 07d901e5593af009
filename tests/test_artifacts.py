"""Artifacts: versions, references, lineage, atomic publishing and resume."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore, read_artifact
from sseg_core.errors import ArtifactError
from sseg_core.manifest import Kind


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def make(
    store: ArtifactStore,
    kind: Kind = "pairs",
    name: str = "toy",
    text: str = "hello",
    parents: tuple[Artifact, ...] = (),
) -> Artifact:
    with store.draft(kind, name, {"text": text}, parents) as draft:
        draft.partial("a/data.txt").write_text(text)
        draft.commit("a/data.txt")
        return draft.publish({"images": 1})


def test_versions_count_up(store: ArtifactStore) -> None:
    """Each publication of a name gets the next version, and the newest is what a name means."""
    references = [make(store, text=text).reference for text in "abc"]
    assert references == ["toy:v1", "toy:v2", "toy:v3"]
    assert store.find("toy", "pairs").reference == "toy:v3"
    assert store.find("toy:v1", "pairs").reference == "toy:v1"
    assert store.find(None, "pairs").reference == "toy:v3"
    assert store.find(str(store.root / "pairs/toy/v2"), "pairs").reference == "toy:v2"


def test_the_manifest_is_complete_and_nothing_else_is_left(store: ArtifactStore) -> None:
    """A published folder holds its files and manifest; working folder and lock are gone."""
    artifact = make(store)
    assert artifact.manifest.files["a/data.txt"].bytes == 5
    assert artifact.manifest.config == {"text": "hello"}
    assert artifact.manifest.stats == {"images": 1}
    assert sorted(p.name for p in (store.root / "pairs/toy").iterdir()) == ["v1"]
    assert read_artifact(artifact.path).manifest == artifact.manifest
    assert artifact.problems() == []


def test_the_digest_leaves_out_the_time(store: ArtifactStore) -> None:
    """Two manifests that differ in `created` alone have one digest; another stat changes it."""
    manifest = make(store).manifest
    assert manifest.digest() == manifest.model_copy(update={"created": "later"}).digest()
    assert manifest.digest() != manifest.model_copy(update={"stats": {}}).digest()


def test_a_wrong_kind_says_what_to_run(store: ArtifactStore) -> None:
    """A pairs artifact is refused where masks are needed."""
    make(store)
    with pytest.raises(ArtifactError, match="is a pairs artifact, but a masks is needed") as error:
        store.find("toy", "masks")
    assert "sseg pseudomask" in error.value.hint


def test_an_unknown_name_suggests_a_near_one(store: ArtifactStore) -> None:
    """A misspelt reference names the artifact that was probably meant."""
    make(store, name="toyworld")
    with pytest.raises(ArtifactError, match="no pairs artifact 'toywrld'") as error:
        store.find("toywrld", "pairs")
    assert "'toyworld'" in error.value.hint
    with pytest.raises(ArtifactError, match="no pairs artifact 'toyworld:v9'"):
        store.find("toyworld:v9", "pairs")
    with pytest.raises(ArtifactError, match="is not a reference"):
        store.find("toyworld:nine", "pairs")


def test_an_empty_store_says_how_to_begin(store: ArtifactStore) -> None:
    """Without any artifact the hint is the command that makes one."""
    with pytest.raises(ArtifactError, match="no checkpoint artifact") as error:
        store.find(None, "checkpoint")
    assert "sseg demo" in error.value.hint


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 65, "a\nb", "a b"])
def test_an_unsafe_name_is_refused(store: ArtifactStore, name: str) -> None:
    """A name that could leave the store or confuse a terminal is no artifact name."""
    with (
        pytest.raises(ArtifactError, match="cannot be the name"),
        store.draft("pairs", name, {}),
    ):
        pass
    assert not store.root.exists()


@pytest.mark.parametrize("relative", ["../x", "/etc/x", "a/../../x", ""])
def test_a_draft_writes_only_inside_itself(store: ArtifactStore, relative: str) -> None:
    """A file path that leaves the working folder is refused."""
    with store.draft("pairs", "toy", {}) as draft, pytest.raises(ArtifactError, match="safe"):
        draft.partial(relative)


def test_a_newer_schema_is_refused(store: ArtifactStore) -> None:
    """A manifest of a later sseg is not guessed at."""
    artifact = make(store)
    path = artifact.path / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema": 99, "novelty": 1}))
    with pytest.raises(ArtifactError, match="schema 99") as error:
        store.find(str(artifact.path), "pairs")
    assert "newer sseg" in error.value.hint


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', "null"])
def test_a_malformed_manifest_is_one_sentence(store: ArtifactStore, text: str) -> None:
    """Whatever stands in a manifest, the result is an ArtifactError."""
    artifact = make(store)
    (artifact.path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        read_artifact(artifact.path)
    assert store.artifacts() == []


def test_a_changed_file_is_found(store: ArtifactStore) -> None:
    """A file of another size fails at once, one of the same size fails the hash."""
    artifact = make(store)
    path = artifact.path / "a/data.txt"
    path.write_text("HELLO")
    assert artifact.file("a/data.txt") == path
    with pytest.raises(ArtifactError, match="does not match its hash"):
        artifact.verified_file("a/data.txt")
    path.write_text("longer than before")
    with pytest.raises(ArtifactError, match="was changed"):
        artifact.file("a/data.txt")
    path.unlink()
    assert len(artifact.problems()) == 1


def test_a_parent_is_found_and_checked(store: ArtifactStore) -> None:
    """A child leads to the very artifact it was made from, or says that it is gone or changed."""
    pairs = make(store)
    masks = make(store, kind="masks", parents=(pairs,))
    assert store.parent(masks, "pairs").path == pairs.path
    with pytest.raises(ArtifactError, match="was not made from a checkpoint"):
        store.parent(masks, "checkpoint")
    manifest = pairs.path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"images":1', '"images":2'))
    with pytest.raises(ArtifactError, match="is not the one"):
        store.parent(masks, "pairs")
    manifest.unlink()
    with pytest.raises(ArtifactError, match="which is gone"):
        store.parent(masks, "pairs")


def test_an_interrupted_command_goes_on_where_it_stopped(store: ArtifactStore) -> None:
    """The same command finds its finished files and scratch again; another command does not."""
    config = {"a": 1}
    with store.draft("pairs", "toy", config) as draft:
        draft.partial("000.tar").write_text("whole")
        draft.commit("000.tar", {"images": 3})
        draft.partial("001.tar").write_text("half")
        (draft.scratch / "state").write_text("s")
    assert store.artifacts() == []
    with store.draft("pairs", "toy", {"a": 2}) as other:
        assert other.finished == {}
    with store.draft("pairs", "toy", config) as draft:
        assert draft.finished == {"000.tar": {"images": 3}}
        assert (draft.scratch / "state").read_text() == "s"
        artifact = draft.publish({})
    assert list(artifact.manifest.files) == ["000.tar"]
    assert sorted(p.name for p in artifact.path.iterdir()) == ["000.tar", "manifest.json"]


def test_a_damaged_note_only_costs_work(store: ArtifactStore) -> None:
    """A note cut short, or a finished file that has gone, means that the file is done again."""
    with store.draft("pairs", "toy", {}) as draft:
        for name in ("0", "1", "2", "3"):
            draft.partial(name).write_text(name)
            draft.commit(name)
        (draft.path / "1").unlink()
        (draft.path / "2").write_text("longer")
        (draft.path.parent / "done/3.json").write_text('{"entry": {"sha')
    with store.draft("pairs", "toy", {}) as draft:
        assert list(draft.finished) == ["0"]


def test_a_look_at_what_is_finished_writes_nothing(store: ArtifactStore) -> None:
    """`finished` tells what a rerun would find, without making a working folder."""
    assert store.finished("pairs", "toy", {}) == {}
    assert not store.root.exists()
    with store.draft("pairs", "toy", {}) as draft:
        draft.partial("sub/0").write_text("0")
        draft.commit("sub/0", {"images": 1})
        draft.note("1", {"images": 2})
    assert store.finished("pairs", "toy", {}) == {"sub/0": {"images": 1}, "1": {"images": 2}}
    assert store.finished("pairs", "toy", {"other": 1}) == {}


def test_a_file_kept_elsewhere_is_noted_but_no_part_of_the_artifact(store: ArtifactStore) -> None:
    """`note` finishes a file for the rerun; the manifest lists only what is in the folder."""
    with store.draft("pairs", "toy", {}) as draft:
        draft.note("far", {"url": "s3://x/far"})
        draft.partial("near").write_text("near")
        draft.commit("near")
    with store.draft("pairs", "toy", {}) as draft:
        assert draft.finished == {"far": {"url": "s3://x/far"}, "near": {}}
        assert list(draft.publish({}).manifest.files) == ["near"]


def test_the_same_command_does_not_run_twice_at_once(store: ArtifactStore) -> None:
    """The second of two equal commands is refused while the first one runs."""
    with (
        store.draft("pairs", "toy", {}),
        pytest.raises(ArtifactError, match="already writing"),
        store.draft("pairs", "toy", {}),
    ):
        pass


def _publish_many(root: str, writer: int) -> None:
    store = ArtifactStore(Path(root))
    for number in range(5):
        make(store, text=f"{writer}-{number}")


def test_two_writers_never_share_a_version(store: ArtifactStore) -> None:
    """Four processes that publish at once end with 20 versions, each of one writer."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_publish_many, args=(str(store.root), writer)) for writer in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    artifacts = store.artifacts("pairs")
    assert sorted(a.manifest.version for a in artifacts) == list(range(1, 21))
    texts = [(a.path / "a/data.txt").read_text() for a in artifacts]
    assert len(set(texts)) == 20
    assert all(a.manifest.config["text"] == t for a, t in zip(artifacts, texts, strict=True))
    assert all(a.path.name == f"v{a.manifest.version}" for a in artifacts)


def _write_slowly(root: str) -> None:
    with ArtifactStore(Path(root)).draft("pairs", "toy", {}) as draft:
        for number in range(10_000):
            name = f"{number:06d}"
            draft.partial(name).write_text(name)
            draft.commit(name)
            time.sleep(0.001)


def test_a_killed_writer_leaves_nothing_half_written(store: ArtifactStore) -> None:
    """After kill -9 there is no artifact, the lock is free, and every noted file is whole."""
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_write_slowly, args=(str(store.root),))
    worker.start()
    deadline = time.monotonic() + 30
    while not list(store.root.rglob("00001*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert store.artifacts() == []
    with store.draft("pairs", "toy", {}) as draft:
        assert len(draft.finished) >= 10
        assert all((draft.path / name).read_text() == name for name in draft.finished)
        artifact = draft.publish({})
    assert artifact.problems() == []
