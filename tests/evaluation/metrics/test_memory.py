"""Peak memory is measured from the moment one asks for it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sseg_core.evaluation.metrics.memory import PeakMemory

MEGABYTE = 10**6


def test_a_large_array_shows_in_the_peak() -> None:
    """200 MB raise the peak by about that, and stay in it when they are gone."""
    memory = PeakMemory(torch.device("cpu"))
    before = memory.megabytes()
    array = np.ones(200 * MEGABYTE, np.uint8)
    del array
    assert 150 < memory.megabytes() - before < 250


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_an_older_peak_is_forgotten() -> None:
    """What was freed before the measurement began is not in it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")
    except OSError:
        pytest.skip("this container cannot forget a peak")
    memory = PeakMemory(torch.device("cpu"))
    array = np.ones(200 * MEGABYTE, np.uint8)
    del array
    with_array = memory.megabytes()
    assert PeakMemory(torch.device("cpu")).megabytes() < with_array - 150


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_its_tensors_count() -> None:
    """100 MB there are 100 MB in the peak."""
    device = torch.device("cuda")
    memory = PeakMemory(device)
    before = memory.megabytes()
    torch.zeros(100 * MEGABYTE, dtype=torch.uint8, device=device)
    assert 99 < memory.megabytes() - before < 110
