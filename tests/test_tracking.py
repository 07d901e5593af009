"""Metrics on disk and in TensorBoard, and throughput."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.tracking import (
    MetricsLog,
    TensorBoardLog,
    Throughput,
    open_tensorboard,
    read_metrics,
)


def test_a_resumed_log_reads_as_one_run(tmp_path: Path) -> None:
    """Records at and after the step that is resumed from are dropped, also a broken last line."""
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(5):
            log.write({"step": step, "loss": 1.0})
    path.write_text(path.read_text() + '{"step": 5, "lo')
    with MetricsLog(path, first_step=3) as log:
        log.write({"step": 3, "loss": 2.0})
    records = read_metrics(path)
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[-1]["loss"] == 2.0


def test_throughput_needs_an_update() -> None:
    """Before the first update the rate is 0, afterwards it is positive."""
    throughput = Throughput()
    assert throughput.per_second() == 0
    throughput.update(10)
    assert throughput.per_second() > 0


def test_a_pause_does_not_count_in_the_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten units a second stay ten, however long a probe takes between two of them."""
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    throughput = Throughput(window=4)
    for pause in (0.0, 0.0, 500.0, 0.0, 500.0, 0.0):
        clock[0] += 1
        throughput.update(10)
        assert throughput.per_second() == pytest.approx(10)
        clock[0] += pause
        if pause:
            throughput.restart()
            assert throughput.per_second() == pytest.approx(10)


def test_without_tensorboard_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard is optional: no package, no log and no folder."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    assert open_tensorboard(tmp_path / "board", 0) is None
    assert list(tmp_path.iterdir()) == []


def _shown(folder: Path) -> Any:
    """What TensorBoard itself reads."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = module.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return board.Reload()


def _opened(folder: Path, first_step: int = 0) -> TensorBoardLog:
    pytest.importorskip("tensorboard")
    board = open_tensorboard(folder, first_step)
    assert board is not None
    return board


def _steps(folder: Path, tag: str) -> list[int]:
    return [event.step for event in _shown(folder).Scalars(tag)]


def test_tensorboard_shows_scalars_in_groups_and_pictures(tmp_path: Path) -> None:
    """Every field of a record has its tag, and a picture comes back as it was; nothing waits for
    the file to be closed."""
    board = _opened(tmp_path)
    record = {
        "step": 7, "loss": 3.5, "contrastive": 2.0, "dice": 0.5, "focal": 0.25, "lr": 1e-4,
        "grad_norm": 0.75, "logit_scale": 14.0, "images_per_second": 99.0, "data_wait": 0.125,
        "memory_mb": 512.0, "something_new": 1.0,
    }  # fmt: skip
    board.scalars(record)
    board.scalars({"step": 8, "probe_miou": 40.5, "probe_accuracy": 80.0, "loss": math.nan})
    board.image("samples", Image.new("RGB", (40, 20), (200, 30, 60)), 8)
    shown = _shown(tmp_path)
    assert set(shown.Tags()["scalars"]) == {
        "loss/total", "loss/contrastive", "loss/dice", "loss/focal", "optim/lr",
        "optim/grad_norm", "optim/logit_scale", "speed/images_per_second", "speed/data_wait",
        "speed/memory_mb", "probe/miou", "probe/accuracy", "something_new",
    }  # fmt: skip
    [rate] = shown.Scalars("optim/lr")
    assert (rate.step, rate.value) == (7, pytest.approx(1e-4))
    assert [event.step for event in shown.Scalars("loss/total")] == [7, 8]
    assert [(event.step, event.value) for event in shown.Scalars("probe/miou")] == [(8, 40.5)]
    [picture] = shown.Images("samples")
    assert (picture.step, picture.width, picture.height) == (8, 40, 20)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert image.size == (40, 20)
        assert np.abs(np.array(image) - np.array([200.0, 30, 60])).max() < 4
    board.close()


def test_tensorboard_shows_a_resumed_run_once(tmp_path: Path) -> None:
    """Points of and after the step that is resumed from are hidden, also if they never come
    again; twice resumed is no different, nor is a file that a kill cut short."""
    first = _opened(tmp_path)
    for step in range(6):
        first.scalars({"step": step, "loss": 1.0})
    first.scalars({"step": 5, "rare": 1.0})
    with max(tmp_path.iterdir()).open("ab") as cut_short:
        cut_short.write(b"\x18\0\0")
    second = _opened(tmp_path, first_step=3)
    for step in range(3, 5):
        second.scalars({"step": step, "loss": 2.0})
    third = _opened(tmp_path, first_step=4)
    third.scalars({"step": 4, "loss": 3.0})
    shown = _shown(tmp_path)
    points = [(event.step, event.value) for event in shown.Scalars("loss/total")]
    assert points == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert shown.Scalars("rare") == []
    _opened(tmp_path).scalars({"step": 0, "loss": 4.0})  # from the start: no checkpoint was left
    assert _steps(tmp_path, "loss/total") == [0]


def test_tensorboard_survives_a_full_disk(tmp_path: Path) -> None:
    """An event that finds no room is an OSError and leaves no half behind; later ones are read."""
    resource = pytest.importorskip("resource")
    board = _opened(tmp_path)
    board.scalars({"step": 0, "loss": 1.0})
    [path] = tmp_path.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            board.scalars({"step": 1, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    board.scalars({"step": 2, "loss": 1.0})
    assert _steps(tmp_path, "loss/total") == [0, 2]
