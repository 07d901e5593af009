"""The panel of `sseg train`: all numbers, at any width, and nothing that a stranger slips in."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from sseg_cli import dashboard as module
from sseg_cli.dashboard import ASCII_LEVELS, LEVELS, Dashboard, show_training

FIELDS = {
    "loss": "2.841",
    "contrastive": "1.704",
    "dice": "0.512",
    "focal": "0.013",
    "grad_norm": "7.21",
    "lr": "5.00e-04",
    "scale": "14.3",
    "images_s": "123",
    "wait": "3 %",
    "memory": "1.2 GB",
    "miou": "24.5 (best 26.1)",
}


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the panel only; Rich keeps its own."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def _console(width: int = 80, height: int = 24, encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="", write_through=True)
    return Console(file=stream, width=width, height=height, force_terminal=True)


def _written(console: Console) -> str:
    console.file.seek(0)
    return console.file.read()


def _drawn(dashboard: Dashboard, console: Console) -> list[str]:
    """The lines of the panel as of now, without styles."""
    with console.capture() as capture:
        console.print(dashboard.render())
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def _training(console: Console) -> Dashboard:
    dashboard = Dashboard(console)
    dashboard.start("train", 1000, "steps")
    dashboard.advance(0)
    for loss in ("16.9", "9.1", "4.2"):
        dashboard.advance(100, loss=loss)
    dashboard.advance(100, **FIELDS)
    return dashboard


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("probing", [False, True])
def test_every_value_is_there_and_no_line_is_broken(width: int, probing: bool) -> None:
    """Each line is as wide as the terminal, between two borders; nothing is cut off."""
    console = _console(width)
    dashboard = _training(console)
    if probing:
        dashboard.start("probe", 50, "images")
        dashboard.advance(12)
    lines = _drawn(dashboard, console)
    assert {cell_len(line) for line in lines} == {width}
    assert all(line[0] == line[-1] == "│" for line in lines[1:-1])
    assert (lines[0][0], lines[0][-1], lines[-1][0], lines[-1][-1]) == tuple("╭╮╰╯")
    text = "\n".join(lines)
    assert [value for value in FIELDS.values() if value not in text] == []
    assert "400/1000 steps" in text
    assert "40 %" in text
    assert ("probe" in lines[-2] and "12/50 images" in lines[-2]) == probing
    assert "…" not in text


@pytest.mark.parametrize("size", [(20, 24), (40, 8), (80, 5), (120, 9)])
def test_a_small_terminal_gets_a_whole_panel(size: tuple[int, int]) -> None:
    """What does not fit is left out, and the borders stay."""
    width, height = size
    console = _console(width, height)
    lines = _drawn(_training(console), console)
    assert {cell_len(line) for line in lines} == {width}
    assert len(lines) <= height
    assert (lines[0][0], lines[-1][-1]) == ("╭", "╯")


@pytest.mark.parametrize("probes", [0, 3])
def test_a_probe_interrupts_and_training_goes_on(probes: int, clock: Clock) -> None:
    """Its line goes; the numbers, the curve, the elapsed time and the time left stay."""
    console = _console()
    dashboard = Dashboard(console)
    dashboard.start("train", 1000, "steps")
    dashboard.advance(200)
    for _ in range(100):
        clock.now_s += 1
        dashboard.advance(1, loss="3.0", grad_norm="7.21")
    for _ in range(probes):
        dashboard.start("probe", 50, "images")
        dashboard.advance(50, miou="24.5", loss="77.7")
        assert any("probe" in line and "mIoU 24.5" in line for line in _drawn(dashboard, console))
        dashboard.start("train", 1000, "steps")
        dashboard.advance(300)
    text = "\n".join(_drawn(dashboard, console))
    assert "300/1000 steps  30 %" in text
    assert "elapsed 0:01:40  left 0:11:40" in text
    assert "7.21" in text
    assert "77.7" not in text
    assert "probe" not in text
    assert text.count(LEVELS[0]) == 76 - len("loss  3.0  ")


def test_the_time_left_does_not_count_what_was_done_before(clock: Clock) -> None:
    """A run that resumes at step 900 has made no step yet, so nothing is said of the rest."""
    console = _console()
    dashboard = Dashboard(console)
    dashboard.start("train", 1000, "steps")
    dashboard.advance(900)
    clock.now_s += 10
    assert "left" not in "".join(_drawn(dashboard, console))
    dashboard.advance(1)
    assert "elapsed 0:00:10  left 0:16:30" in "".join(_drawn(dashboard, console))
    clock.now_s += 90_000
    dashboard.advance(99)
    (line,) = (line for line in _drawn(dashboard, console) if "elapsed" in line)
    assert line.split()[1:-1] == ["elapsed", "25:00:10"]


def test_the_curve_falls_as_the_loss_does() -> None:
    """On a logarithmic scale each factor is as high; a NaN that is logged leaves no gap."""
    console = _console()
    dashboard = Dashboard(console)
    dashboard.start("train", None, "steps")
    for power in range(7, -1, -1):
        dashboard.advance(1, loss=f"{2.0**power}")
    dashboard.advance(1, loss="nan")
    (line,) = (line for line in _drawn(dashboard, console) if "loss" in line)
    assert line.split()[1:-1] == ["loss", "nan", LEVELS[::-1]]


def test_a_long_curve_fits() -> None:
    """Of 10,000 points each character is a mean of some, the first high and the last low."""
    console = _console()
    dashboard = Dashboard(console)
    dashboard.start("train", 10_000, "steps")
    for step in range(10_000):
        dashboard.advance(1, loss=f"{20 * 0.9995**step:.4f}")
    (line,) = (line for line in _drawn(dashboard, console) if "loss" in line)
    curve = line.split()[3]
    assert len(curve) >= 60
    assert sorted(curve, reverse=True) == list(curve)
    assert (curve[0], curve[-1]) == (LEVELS[-1], LEVELS[0])


def test_a_terminal_without_unicode_gets_ascii() -> None:
    """Borders, bar and curve."""
    console = _console(encoding="ascii")
    text = "\n".join(_drawn(_training(console), console))
    assert text.isascii()
    assert ASCII_LEVELS[-1] in text
    assert ASCII_LEVELS[0] in text


def test_before_training_a_task_is_one_line() -> None:
    """Tasks of unknown length, too; the next one replaces it."""
    console = _console()
    dashboard = Dashboard(console)
    assert _drawn(dashboard, console) == [""]
    dashboard.start("words", None, "captions")
    dashboard.advance(7)
    dashboard.start("index", 9, "shards")
    dashboard.advance(7, missing="2")
    lines = _drawn(dashboard, console)
    assert len(lines) == 3
    assert "index" in lines[1]
    assert "7/9 shards" in lines[1]
    assert "missing 2" in lines[1]


def test_a_strangers_escape_codes_do_not_get_through() -> None:
    """In names, units, values and messages they are question marks."""
    evil = "\x1b]0;owned\x07\x1b[2J\r\n"
    console = _console(200)
    dashboard = Dashboard(console)
    dashboard.start("train", 10, evil)
    dashboard.advance(1, dice=evil, loss="1.0")
    dashboard.start(evil, 10, evil)
    dashboard.advance(1, key=evil)
    dashboard.message(f"masks: {evil} [bold]")
    console.print(dashboard.render())
    written = _written(console)
    assert re.sub(r"\x1b\[[0-9;]*m", "", written).count("\x1b") == 0
    assert "\x07" not in written
    assert "\r" not in written
    assert "masks: ?]0;owned??[2J?? [bold]\x1b[0m\n" in written
    assert written.count("?]0;owned??[2J??") >= 4


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves bold and dim."""
    monkeypatch.setenv("NO_COLOR", "1")
    console = _console()
    dashboard = _training(console)
    dashboard.message("warning: something")
    console.print(dashboard.render())
    assert set(re.findall(r"\x1b\[([0-9;]*)m", _written(console))) <= {"0", "1", "2"}


def test_a_live_panel_stays_below_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last panel is what remains, and an error leaves a whole one with a visible cursor."""
    console = _console()
    monkeypatch.setattr(module, "stderr", lambda: console)

    def interrupted() -> None:
        with show_training() as progress:
            progress.start("train", 1000, "steps")
            progress.advance(400, **FIELDS)
            progress.message("warning: the loss has jumped")
            progress.advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    written = _written(console)
    before, _, after = written.partition("warning: the loss has jumped")
    assert "401/1000 steps" in after
    assert "401/1000" not in before
    assert after.rindex("╯") < after.rindex("\x1b[?25h")


@pytest.mark.parametrize("kind", ["file", "dumb terminal"])
def test_elsewhere_there_are_plain_lines(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No panel, no cursor moves; the numbers beside the count."""
    if kind == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("FORCE_COLOR", "1")
    with show_training() as progress:
        progress.message("masks: mini:v1")
        progress.start("train", 1000, "steps")
        progress.advance(990)
        progress.advance(10, loss="2.8", lr="5e-4")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err).splitlines()
    assert lines == ["masks: mini:v1", "train: 1000/1000 steps [loss 2.8 lr 5e-4]"]


def test_a_plain_time_left_does_not_count_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    """900 steps from before the run resumed, then 10 in 20 s: 90 are left, so 180 s."""
    monkeypatch.setattr("sseg_cli.console.time", clock)
    with show_training() as progress:
        progress.start("train", 1000, "steps")
        progress.advance(900)
        clock.now_s += 20
        progress.advance(10)
    assert capsys.readouterr().err == "train: 910/1000 steps, 180 s left\n"
