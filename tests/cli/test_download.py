"""`sseg download` from the command line: what is shown, and what scripts read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from sseg_cli.app import app
from sseg_core.data import sources
from sseg_core.data.sources import BENCHMARKS, PAIRS, WEIGHTS


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("SSEG_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "80")
    return CliRunner()


def _json(runner: CliRunner, *arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, ["download", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_all_sources_are_listed(runner: CliRunner) -> None:
    """With what they are, their size, licence and origin, for people and for scripts."""
    listed = {entry["name"]: entry for entry in _json(runner, "--list")["sources"]}
    names = {source.name for source in (*PAIRS, *BENCHMARKS, *WEIGHTS)}
    assert names < set(listed)
    assert listed["cc12m"]["from"] == "hub: pixparse/cc12m-wds"
    assert listed["voc2012"]["bytes"] == 1_999_639_040
    assert listed["context"]["bytes"] is None
    assert listed["mae_vitb16"]["licence"].startswith("CC BY-NC 4.0")
    shown = runner.invoke(app, ["download", "--list"])
    assert shown.exit_code == 0
    for name in names:
        assert name in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Name a source"),
        (("voc2012", "--limit", "3"), 2, "no set of captioned images"),
        (("dino_vits8", "--part", "1/2"), 2, "no set of captioned images"),
        (("voc2013",), 1, "Did you mean 'voc2012'?"),
        (("toyworld", "--part", "3/2"), 1, "i is at most n"),
        (("toyworld", "--min-success", "2"), 1, "min_success"),
        (("toyworld", "--retry-failed"), 1, "no URLs"),
        (("parts:cc12m",), 1, "There are no parts"),
        (("dino_vits8:nothere.pth",), 1, "There is no weight file"),
        (("imagenet-s",), 1, "sseg download imagenet-s:DIR"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    runner: CliRunner, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """With exit code 1 for what is wrong and 2 for how it was asked."""
    root = () if "imagenet-s" not in arguments else ("--root", str(tmp_path / "data"))
    result = runner.invoke(app, ["download", *arguments, *root])
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("\u2502", " ").split())


def test_a_plan_comes_before_the_work(runner: CliRunner, tmp_path: Path) -> None:
    """Sizes, free disk, licence and origin; nothing is written."""
    plan = _json(runner, "coco", "--root", str(tmp_path / "coco"), "--dry-run")["inputs"]
    assert plan["download_bytes"] == 252_907_541 + 815_585_330
    assert plan["disk_bytes"] > plan["download_bytes"]
    assert plan["free_bytes"] > 0
    assert plan["licence"] == "annotations CC BY 4.0; photos under Flickr's terms"
    assert any("images.cocodataset.org/zips/val2017.zip" in note for note in plan["notes"])
    toy = _json(runner, "toyworld", "--dry-run")["inputs"]
    assert toy["images"] == 6000
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_first(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is asked for."""
    monkeypatch.setattr("sseg_core.data.fetch.plan.free_bytes", lambda _: 10**9)
    result = runner.invoke(app, ["download", "coco-train", "--root", str(tmp_path / "coco")])
    assert result.exit_code == 1
    assert "coco-train needs about 39 GB, but only 1.0 GB are free" in result.output
    assert not (tmp_path / "coco").exists()


def test_a_benchmark_from_the_command_line(
    runner: CliRunner, tmp_path: Path, file_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What scripts need to go on with is in the JSON; people see the next command."""
    picture, truth, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (6, 4)).save(picture, "JPEG")
    Image.new("P", (6, 4)).save(truth, "PNG")
    home = "VOCdevkit/VOC2012"
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in {
            f"{home}/ImageSets/Segmentation/val.txt": b"a\n",
            f"{home}/JPEGImages/a.jpg": picture.getvalue(),
            f"{home}/SegmentationClass/a.png": truth.getvalue(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    voc = next(source for source in BENCHMARKS if source.name == "voc2012")
    (part,) = voc.parts
    url = file_server.add("/VOCtrainval_11-May-2012.tar", archive.getvalue())
    file = replace(part.file, url=url, mirrors=(), bytes=len(archive.getvalue()), sha256=None)
    served = replace(voc, parts=(replace(part, file=file),), evaluates=(("voc2012", 1),))
    monkeypatch.setattr(sources, "BENCHMARKS", (served,))
    root = tmp_path / "voc"
    assert _json(runner, "voc2012", "--root", str(root)) == {
        "kind": "benchmark",
        "name": "voc2012",
        "root": str(root),
        "images": {"voc2012": 1},
        "fetched": ["VOCtrainval_11-May-2012.tar"],
    }
    again = runner.invoke(app, ["download", "voc2012", "--root", str(root)])
    assert again.exit_code == 0
    shown = " ".join(again.output.split())
    assert f"next: sseg eval --benchmark voc2012 --root {root}" in shown.replace("/ ", "/")


@pytest.mark.slow
def test_weights_that_the_user_brings(tmp_path: Path) -> None:
    """They are found without network afterwards, by timm itself."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch8_224.dino")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable, "-m", "sseg_cli", "download", f"dino_vits8:{tmp_path}/mine.safetensors",
    ]  # fmt: skip
    made = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, check=True
    )
    facts = json.loads(made.stdout)
    assert (facts["kind"], facts["name"], facts["from"]) == ("weights", "dino_vits8", "file")
    code = (
        "import timm, torch; m = timm.create_model('vit_small_patch8_224.dino', pretrained=True);"
        "print(float(m.blocks[3].attn.qkv.weight.sum()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    expected = float(model.blocks[3].attn.qkv.weight.detach().sum())
    assert float(found.stdout) == pytest.approx(expected, rel=1e-6)
