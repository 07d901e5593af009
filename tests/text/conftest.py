"""Real captions for the tests of words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_captions(real_data: Path) -> list[str]:
    """Every caption of pairs-mini and coco-mini."""
    lines = (real_data / "pairs-mini/captions.jsonl").read_text(encoding="utf-8").splitlines()
    captions = [caption for line in lines for caption in json.loads(line)["captions"]]
    coco = real_data / "coco-mini/annotations/captions_val2017.json"
    annotations = json.loads(coco.read_text(encoding="utf-8"))["annotations"]
    return captions + [annotation["caption"] for annotation in annotations]
