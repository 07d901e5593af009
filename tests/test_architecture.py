"""Imports go downwards only, and the library knows nothing of the terminal."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A module may import from lower layers, and from its own only where the
# layer is one folder, or a set of files that are named as free to see each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "structures", "page"),
    ("config", "manifest", "device", "cluster", "distributed"),
    ("draft", "overrides"),
    ("shared_draft",),
    ("artifacts",),
    ("recipes", "student_recipes", "checkpoint", "tracking", "group_draft"),
    ("data", "text", "losses", "models"),
    ("pseudomask",),
    ("inference",),
    ("evaluation", "export"),
    ("labelling",),
    ("training",),
    ("stages",),
)
SAME_LAYER_EXCEPTIONS = {("sseg_core/models/build.py", "text")}
TERMINAL = {"typer", "rich", "click"}


def _parts() -> dict[str, int]:
    return {part: level for level, layer in enumerate(LAYERS) for part in layer}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            # `from sseg_core import recipes` names a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _core_files() -> list[Path]:
    return sorted((ROOT / "sseg_core").rglob("*.py"))


@pytest.mark.parametrize("path", _core_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_core_module_imports_only_from_below(path: Path) -> None:
    """Every import of `sseg_core.X` names a lower layer or the module's own folder."""
    relative = path.relative_to(ROOT / "sseg_core")
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return  # the package root re-exports `Segmenter` lazily
    levels = _parts()
    assert part in levels, f"{part} has no layer; add it to LAYERS"
    for name in _imports(path):
        top, _, rest = name.partition(".")
        assert top != "sseg_cli", f"{relative} imports the command line"
        assert top not in TERMINAL, f"{relative} imports {top}"
        if top != "sseg_core" or not rest:
            continue
        other = rest.split(".")[0]
        same_file_or_folder = other == part
        excepted = (f"sseg_core/{relative.as_posix()}", other) in SAME_LAYER_EXCEPTIONS
        assert same_file_or_folder or excepted or levels[other] < levels[part], (
            f"{relative} (layer {levels[part]}) imports {other} (layer {levels[other]})"
        )


@pytest.mark.parametrize("path", _core_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_exits(path: Path) -> None:
    """Results are returned and errors raised; print and exit belong to the command line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"print", "exit", "quit", "sys.exit", "os._exit"}, f"{path}: {name}"


def test_only_checkpoint_loads_pickles() -> None:
    """torch.save and torch.load appear in checkpoint.py alone, always with weights_only."""
    for path in _core_files():
        text = path.read_text(encoding="utf-8")
        if path.name == "checkpoint.py":
            assert text.count("torch.load(") == text.count("weights_only=True")
        else:
            assert "torch.load(" not in text, path
            assert "torch.save(" not in text, path
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and "load_state_dict" in ast.unparse(call.func):
                assert "strict=False" not in ast.unparse(call), path


@pytest.mark.parametrize("statement", ["import sseg_core", "import sseg_cli.app"])
def test_importing_the_package_loads_no_torch(statement: str) -> None:
    """`import sseg_core` and `sseg --help` stay free of torch."""
    code = f"import sys; {statement}; print('torch' in sys.modules)"
    result = subprocess.run(  # noqa: PLW1510 - the output is the assertion
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (result.stdout.strip(), result.stderr) == ("False", "")
