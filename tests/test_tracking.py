"""Metrics on disk and throughput."""

from __future__ import annotations

from pathlib import Path

from sseg_core.tracking import MetricsLog, Throughput, read_metrics


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
