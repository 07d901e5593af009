"""What a protocol fixes and what it leaves to the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sseg_core.errors import ConfigError
from sseg_core.inference.view import View


def _completed(view: View) -> View:
    return view.completed(short_side=448, templates=("a {}",), logit_scale=100.0)


def test_what_a_protocol_leaves_open_is_the_models_choice() -> None:
    """What it fixes stays."""
    assert _completed(View()) == View(
        short_side=448,
        window=0,
        stride=0,
        templates=("a {}",),
        logit_scale=100.0,
        scales=(1.0,),
        flip=False,
    )
    fixed = View(336, 224, 112, ("{}",), logit_scale=40.0, min_share=0.1, refine="pamr")
    fixed = replace(fixed, scales=(0.5, 1.0), flip=True)
    assert _completed(fixed) == fixed


def test_windows_overlap_by_half_unless_said_otherwise() -> None:
    """A window alone is enough; a stride without a window means nothing."""
    assert _completed(View(window=224)).stride == 112
    assert _completed(View(window=1)).stride == 1
    assert _completed(View(window=0, stride=224)).stride == 0


def test_windows_leave_no_gaps() -> None:
    """Pixels between two windows would have no class."""
    with pytest.raises(ConfigError, match="200 pixels that are 224 apart leave gaps"):
        View(window=200, stride=224)
