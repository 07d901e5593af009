"""Several processes make one artifact: nothing is made twice, nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sseg_core.artifacts import ArtifactStore
from sseg_core.errors import ArtifactError
from sseg_core.shared_draft import SharedDraft

NAMES = tuple(f"{number:03d}" for number in range(40))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def open_draft(store: ArtifactStore) -> SharedDraft:
    return store.shared_draft("masks", "toy", {"a": 1})


def write(draft: SharedDraft, name: str) -> None:
    draft.partial(name).write_text(name)
    draft.commit(name, {"images": 1})


def test_a_file_is_claimed_once(store: ArtifactStore) -> None:
    """While one holds a claim nobody else gets it; after a commit there is nothing to claim."""
    one, two = open_draft(store), open_draft(store)
    claim = one.claim("x")
    assert claim is not None
    assert two.claim("x") is None
    write(one, "x")
    claim.release()
    assert two.claim("x") is None
    assert two.finished == {"x": {"images": 1}}


def test_a_claim_given_up_is_taken_over(store: ArtifactStore) -> None:
    """A claim that ends without a finished file is free for the next."""
    one, two = open_draft(store), open_draft(store)
    claim = one.claim("x")
    assert claim is not None
    claim.release()
    assert two.claim("x") is not None


def test_the_first_publishes_and_the_others_return_its_artifact(store: ArtifactStore) -> None:
    """Nothing but the version is left; a later run of the same command makes the next one."""
    one, two = open_draft(store), open_draft(store)
    worker: SharedDraft = pickle.loads(pickle.dumps(two))
    for draft, name in ((one, "x"), (worker, "y")):
        claim = draft.claim(name)
        assert claim is not None
        write(draft, name)
        claim.release()
    one.refresh()
    first = one.publish({})
    assert list(first.manifest.files) == ["x", "y"]
    assert first.problems() == []
    assert not two.is_open()
    assert two.claim("z") is None
    assert two.publish({}).reference == "toy:v1"
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["v1"]
    assert open_draft(store).publish({}).reference == "toy:v2"
    assert two.publish({}).reference == "toy:v1"


def test_the_same_command_begun_anew_is_another_draft(store: ArtifactStore) -> None:
    """Whoever has the old one sees that it was published, though the folder is there again."""
    old, other = open_draft(store), open_draft(store)
    write(old, "x")
    first = old.publish({})
    new = open_draft(store)
    assert new.path == other.path
    assert not other.is_open()
    assert other.claim("y") is None
    assert other.published() == first
    assert new.is_open()
    assert new.claim("x") is not None


def test_a_publisher_killed_before_it_cleaned_up_does_no_harm(store: ArtifactStore) -> None:
    """The others find the version all the same, and the next run of the command begins anew."""
    one, two = open_draft(store), open_draft(store)
    write(one, "x")
    folder = one.path.parent
    one.publish({})
    (folder / "done").mkdir(parents=True)
    (folder / "done/x.json").write_text('{"entry": null, "info": {}}')
    assert two.publish({}).reference == "toy:v1"
    assert open_draft(store).finished == {}


def test_a_working_folder_that_was_removed_is_one_sentence(store: ArtifactStore) -> None:
    """No published version and no folder: somebody removed it."""
    import shutil

    draft = open_draft(store)
    shutil.rmtree(draft.path.parent)
    assert draft.claim("x") is None
    with pytest.raises(ArtifactError, match="was removed while it was in use"):
        draft.publish({})


def _make_all(draft: SharedDraft, log: str) -> None:
    while draft.is_open() and (missing := [n for n in NAMES if n not in draft.finished]):
        for name in missing:
            if claim := draft.claim(name):
                with Path(log).open("a") as stream:
                    stream.write(f"{name}\n")
                time.sleep(0.002)
                write(draft, name)
                claim.release()
        time.sleep(0.01)
        draft.refresh()
    artifact = draft.publish({})
    with Path(f"{log}.published").open("a") as stream:
        stream.write(f"{artifact.reference}\n")


def _start(draft: SharedDraft, log: Path) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_make_all, args=(draft, str(log)))
    process.start()
    return process


def test_many_processes_make_each_file_once(store: ArtifactStore, tmp_path: Path) -> None:
    """Three processes: every file once, one version, and all of them return it."""
    log = tmp_path / "log"
    draft = open_draft(store)
    processes = [_start(draft, log) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(NAMES)
    (artifact,) = store.artifacts("masks")
    assert tuple(artifact.manifest.files) == NAMES
    assert artifact.problems() == []
    assert (tmp_path / "log.published").read_text().split() == ["toy:v1"] * 3
    published = draft.published()
    assert published is not None
    assert published.reference == "toy:v1"


def test_the_work_of_a_killed_process_is_taken_over(store: ArtifactStore, tmp_path: Path) -> None:
    """kill -9 in the middle: the claim is free, and what was finished is kept."""
    log = tmp_path / "log"
    process = _start(open_draft(store), log)
    deadline = time.monotonic() + 30
    while not log.exists() or len(log.read_text().split()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = log.read_text().split()
    _make_all(open_draft(store), str(log))
    after = log.read_text().split()
    assert set(after) == set(NAMES)
    assert len(after) - len(set(after)) <= 1, "more than the file in work was made twice"
    assert len(before) < len(NAMES)
    (artifact,) = store.artifacts("masks")
    assert artifact.problems() == []
