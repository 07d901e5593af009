"""`sseg predict --model EXPORT_DIR` runs without torch, with what the command line itself needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PACKAGES = (
    "onnxruntime", "numpy", "pillow", "ftfy", "regex", "typer", "rich", "pydantic", "filelock",
    "jinja2", "pycocotools", "contourpy", "shapely",
)  # fmt: skip

_COMMAND = """
import contextlib, io, sys
try:
    import torch
    sys.exit("torch is there")
except ImportError:
    pass
from sseg_cli.__main__ import main
told = io.StringIO()
try:
    with contextlib.redirect_stderr(told):
        main()
except SystemExit as end:
    if end.code:
        print(told.getvalue())
        raise
"""


@pytest.mark.parametrize("kind", ["words", "classes"])
def test_the_command_predicts(
    run_bare: Callable[..., str],
    words: Any,
    classes: Any,
    picture: Callable[..., np.ndarray],
    tmp_path: Path,
    kind: str,
) -> None:
    """Overlay, label map, page and JSON; the label map is that of torch."""
    made = words if kind == "words" else classes(True)
    photo = tmp_path / "photo.png"
    Image.fromarray(picture(120, 171)).save(photo)
    arguments = [
        "--store", tmp_path / "store", "predict", photo, "--classes", "sky,cat,dog", "--model",
        made.folder, "--out", tmp_path / "out", "--json",
    ]  # fmt: skip
    printed = run_bare(PACKAGES, _COMMAND, *arguments)
    image, summary = map(json.loads, printed.splitlines())
    assert summary["images"] == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json", "photo.labels.png", "photo.overlay.png", "predictions.jsonl",
        "viewer.html",
    }  # fmt: skip
    expected = made.network.segment(picture(120, 171), ("sky", "cat", "dog")).label_map
    with Image.open(tmp_path / "out" / image["label_map"]) as labels:
        assert (np.array(labels).astype(int) - 1 == expected).mean() > 0.999
