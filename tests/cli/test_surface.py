"""The command line's surface: help, options, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sseg_cli.app import app

# Frozen on purpose: an option is a promise. What is not here is set with --set.
OPTIONS = {
    "demo": {"--seed", "--set", "--device", "--json", "--dry-run"},
    "download": {
        "--root", "--limit", "--part", "--retry-failed", "--min-success", "--list",
        "--config", "--set", "--name", "--json", "--dry-run",
    },
    "pseudomask": {
        "--pairs", "--features", "--masks", "--weights", "--gpus", "--procs", "--preview",
        "--config", "--set", "--name", "--device", "--json", "--dry-run",
    },
    "train": {
        "--recipe", "--masks", "--gpus", "--procs", "--nodes", "--rendezvous",
        "--config", "--set", "--name", "--device", "--json", "--dry-run",
    },
    "selftrain": {
        "--benchmark", "--root", "--teacher", "--images", "--classes", "--labels", "--rounds",
        "--recipe", "--limit", "--gpus", "--procs",
        "--config", "--set", "--name", "--device", "--json", "--dry-run",
    },
    "eval": {
        "--benchmark", "--root", "--model", "--protocol", "--limit", "--sweep-threshold", "--check",
        "--report", "--compare", "--gpus", "--procs",
        "--config", "--set", "--name", "--device", "--json", "--dry-run",
    },
    "predict": {
        "--classes", "--model", "--threshold", "--background", "--template", "--out", "--npz",
        "--config", "--set", "--name", "--device", "--json", "--dry-run",
    },
    "export": {
        "--model", "--format", "--precision", "--out",
        "--config", "--set", "--name", "--json", "--dry-run",
    },
    "artifacts": {"--json"},
}  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("SSEG_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "100")
    return CliRunner()


def test_the_options_of_every_command_are_frozen() -> None:
    """Exactly these: six that most commands share, those that say how much of the machine and the
    data to take, and at most eight of a command's own."""
    group = typer.main.get_command(app)
    found = {
        name: {
            opt for param in command.params if param.param_type_name == "option"
            for opt in param.opts if opt.startswith("--") and opt != "--help"
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }  # fmt: skip
    assert found == OPTIONS
    shared = {"--config", "--set", "--name", "--device", "--json", "--dry-run"}
    shared |= {"--gpus", "--procs", "--limit"}
    assert max(len(options - shared) for options in found.values()) <= 8


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("columns", ["40", "100"])
def test_every_command_has_help_with_examples(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, command: str, columns: str
) -> None:
    """`--help` works on a narrow terminal too and shows how the command is used."""
    monkeypatch.setenv("COLUMNS", columns)
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"sseg {command}" in result.stdout
    assert "Examples:" in result.stdout


def test_help_loads_no_torch() -> None:
    """`sseg --help` and every `sseg COMMAND --help` start without torch, timm or kornia."""
    code = (
        "import sys\n"
        "from sseg_cli.app import app\n"
        f"for name in ['', *{list(OPTIONS)!r}]:\n"
        "    try:\n"
        "        app([name, '--help'] if name else ['--help'])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, name\n"
        "heavy = {'torch', 'timm', 'kornia', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: PLW1510
    assert (result.returncode, result.stderr) == (0, "")


def test_a_misspelt_command_or_option_is_a_usage_error(runner: CliRunner) -> None:
    """Exit code 2, with the near name."""
    result = runner.invoke(app, ["trian"])
    assert result.exit_code == 2
    assert "train" in result.stderr
    result = runner.invoke(app, ["train", "--reciep", "tiny"])
    assert result.exit_code == 2
    assert "--recipe" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["train", "--recipe", "tny"], "no recipe 'tny'", "'tiny'"),
        (["train"], "no masks artifact", "sseg pseudomask"),
        (["train", "--gpus", "2", "--procs", "2"], "exclude each other", ""),
        (["train", "--procs", "2", "--nodes", "2"], "needs the place", "--rendezvous"),
        (["train", "--set", "optim.lrr=1"], "no option 'optim.lrr'", "'lr'"),
        (["train", "--config", "gone.toml"], "gone.toml", "Check the path"),
        (["pseudomask"], "no pairs", "sseg download"),
        (["pseudomask", "--masks", "1"], "masks cannot be 1", ""),
        (["pseudomask", "--gpus", "2", "--procs", "2"], "exclude each other", ""),
        (["pseudomask", "--pairs", "x/{0..3}.txt"], "not the name of a shard", "00042.tar"),
        (["predict", __file__, "--classes", "cat"], "no checkpoint", "sseg demo"),
        (["predict", "a.jpg", "--classes", "cat,cat"], "cat", ""),
        (["predict", "a.jpg", "--classes", " , "], "", ""),
        (["predict", "a.jpg", "--classes", "@gone.txt"], "gone.txt", ""),
        (["eval", "--benchmark", "voc2021"], "voc2021", "'voc2012'"),
        (["download", "toywrld"], "toywrld", "'toyworld'"),
        (["download", "pairs:gone.jsonl"], "gone.jsonl", ""),
        (["artifacts", "show"], "needs a reference", ""),
        (["artifacts", "show", "checkpoint/x"], "no checkpoint", ""),
        (["artifacts", "verify", "nowhere"], "not an artifact", ""),
    ],
)
def test_an_expected_failure_is_one_sentence_and_one_hint(
    runner: CliRunner, arguments: list[str], message: str, hint: str
) -> None:
    """Exit code 1, nothing on stdout, no traceback; with --json one object holds the same."""
    result = runner.invoke(app, arguments)
    text = " ".join(result.stderr.split())
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert text.startswith("Error: ")
    assert message in text
    assert hint in text
    assert "Traceback" not in result.output
    if arguments[0] != "artifacts":
        result = runner.invoke(app, [*arguments, "--json"])
        assert result.exit_code == 1
        assert message in json.loads(result.stdout)["error"]


def test_debug_shows_the_traceback(runner: CliRunner) -> None:
    """`--debug` keeps the sentence and adds where it came from."""
    result = runner.invoke(app, ["--debug", "train"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "Error: There is no masks artifact" in result.stderr


def test_names_from_strangers_cannot_drive_the_terminal(runner: CliRunner) -> None:
    """Escape sequences and line ends in a name come out as visible text."""
    result = runner.invoke(app, ["download", "toy\x1b[31m\nworld"])
    assert result.exit_code == 1
    assert "\x1b[31m" not in result.stderr
    assert "toy?[31m?world" in result.stderr


def test_an_interrupt_ends_with_130(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is not an error: the exit code is 130 and the hint says how to go on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sseg_core.stages.download.run", interrupted)
    result = runner.invoke(app, ["download", "toyworld"])
    assert result.exit_code == 130
    assert "same command" in result.stderr


def test_a_full_disk_is_one_sentence(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC anywhere in a stage is named as such, with what to do."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), "store/x.tar")

    monkeypatch.setattr("sseg_core.stages.download.run", full)
    result = runner.invoke(app, ["download", "toyworld"])
    assert result.exit_code == 1
    assert "No space left on device at store/x.tar" in result.stderr
    assert "Make room" in result.stderr


def test_a_dry_run_shows_the_plan_and_writes_nothing(runner: CliRunner, tmp_path: Path) -> None:
    """The whole configuration is printed, as JSON on request."""
    result = runner.invoke(app, ["download", "toyworld", "--limit", "7", "--dry-run", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["config"]["limit"] == 7
    assert not (tmp_path / "store").exists()


def test_version(runner: CliRunner) -> None:
    """`sseg --version` prints one line."""
    result = runner.invoke(app, ["--version"])
    assert result.stdout.startswith("sseg ")
