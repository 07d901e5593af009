"""How much memory something took."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


class PeakMemory:
    """The largest amount of memory in use since this object was made.

    On a GPU: what the tensors of this process took there. Elsewhere: the resident memory of the
    whole process, the libraries and what earlier work left behind included. Where the system
    cannot forget an older peak (it can on Linux), that one counts too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            _forget_peak()

    def megabytes(self) -> float:
        """Return the peak so far, in units of 10**6 bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        return _resident_peak() / 1e6


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # some containers forbid it
        return


def _resident_peak() -> int:
    if sys.platform == "linux":
        # Not getrusage: a child starts there with the peak of its parent.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
