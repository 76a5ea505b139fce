"""The house's rules (DESIGN, "The house"), proved from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mzsr_cli
from mzsr_cli.cli.main import COMMANDS, RESUMABLE, main

PACKAGE = Path(mzsr_cli.__file__).resolve().parent
ROOT = PACKAGE.parent
RANKS = {"errors": 0, "settings": 0, "imaging": 1, "cubes": 1, "learning": 2, "pipeline": 3}
RANKS |= {"cli": 4, "__main__": 5}
BODY_MAX = 25
"""Lines of body of a command."""

Imports = list[tuple[str, int]]
"""(full dotted name, line)."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """``cubes`` of mzsr_cli/cubes/open.py, ``errors`` of mzsr_cli/errors.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Imports:
    """All that a module imports, inside functions too; ``from a import b`` counts as a.b."""
    found: Imports = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def modules_in(*parts: str) -> list[Path]:
    """The modules of some parts; there must be some."""
    found = [path for path in MODULES if part_of(path) in parts]
    assert found
    return found


def breaches(parts: tuple[str, ...], *forbidden: str) -> list[str]:
    """Where modules of ``parts`` import one of ``forbidden`` (dotted prefixes)."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules_in(*parts)
        for name, line in imports_of(path)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def test_the_detector_sees_imports() -> None:
    assert breaches(("cli",), "click") and breaches(("learning",), "torch", "safetensors")
    assert breaches(("pipeline",), "mzsr_cli.cubes") and breaches(("imaging",), "scipy.ndimage")


def test_every_module_has_a_rank() -> None:
    assert {part_of(path) for path in MODULES} == {*RANKS, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    """Own part or a lower rank; at rank 0 only settings may look at errors."""
    part = part_of(path)
    if part == "__init__":
        assert imports_of(path) == []
        return
    for name, line in imports_of(path):
        if not name.startswith("mzsr_cli.") or name == "mzsr_cli.__version__":
            continue
        target = name.split(".")[1]
        lower = RANKS[target] < RANKS[part] or (part, target) == ("settings", "errors")
        assert target == part or lower, f"{path}:{line} imports {name}"


@pytest.mark.parametrize(
    ("parts", "forbidden"),
    [
        (("cubes",), ("mzsr_cli.imaging", "torch")),
        (("imaging",), ("mzsr_cli.cubes",)),
        (("errors", "settings"), ("torch", "click", "rich", "numpy")),
        (("learning",), ("mzsr_cli.cubes", "click", "rich")),
        (("pipeline",), ("click", "rich")),
        (("imaging", "cubes"), ("click", "rich")),
        (("imaging",), ("os", "io", "pathlib", "shutil", "tempfile", "mmap", "h5py", "PIL")),
        (("imaging",), ("scipy.io", "tifffile", "zarr", "safetensors", "socket", "urllib")),
        (tuple(RANKS), ("requests", "http", "urllib", "socket", "dill", "joblib")),
        (tuple(RANKS), ("pickle.load", "pickle.loads", "pickle.Unpickler")),
    ],
)
def test_parts_never_import(parts: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
    assert breaches(parts, *forbidden) == []


def test_imaging_has_no_networks_and_opens_no_files() -> None:
    found = [b for b in breaches(("imaging",), "torch.nn") if "torch.nn.functional" not in b]
    assert found == []
    methods = {"open", "load", "save", "tofile", "fromfile", "memmap", "read_text", "write_text"}
    for path in modules_in("imaging"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert name not in methods, f"{path}:{node.lineno} calls {name}"


def test_nothing_is_unpickled() -> None:
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f"{path}:{node.lineno}"
            if name == "np.load":
                assert options.get("allow_pickle") == "False", where
            if name == "torch.load":
                assert options.get("weights_only") == "True", where


def test_click_and_rich_live_in_cli_only() -> None:
    others = tuple(part for part in RANKS if part != "cli")
    assert breaches(others, "click", "rich") == []


def test_dask_is_imported_by_one_module() -> None:
    found = breaches(tuple(RANKS), "dask", "distributed")
    assert found and all(b.startswith("mzsr_cli/pipeline/workers.py:") for b in found)


def documented(node: ast.AST, outer: str = "") -> Iterator[tuple[str, bool]]:
    """(name, has a docstring) of the public functions, classes and methods under ``node``."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if child.name.startswith("_"):
            continue
        yield outer + child.name, bool((ast.get_docstring(child) or "").strip())
        if isinstance(child, ast.ClassDef):
            yield from documented(child, f"{outer}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_have_docstrings(path: Path) -> None:
    tree = tree_of(path)
    assert [name for name, ok in documented(tree) if not ok] == []
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"


def heavy_after(*arguments: str) -> set[str]:
    """Which slow packages are imported once ``mzsr ARGUMENTS`` has run, in a fresh process."""
    code = (
        "import sys; from mzsr_cli.cli.main import exit_code; "
        f"code = exit_code({list(arguments)!r}); "
        "heavy = {'torch', 'scipy', 'h5py', 'numpy', 'PIL', 'distributed'} & set(sys.modules); "
        "print('CODE', code, *heavy)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mark, status, *heavy = run.stdout.splitlines()[-1].split()
    assert (mark, status) == ("CODE", "0"), run.stderr
    return set(heavy)


def test_help_imports_nothing_slow() -> None:
    assert heavy_after("--help") == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_commands_imports_no_torch(name: str) -> None:
    assert "torch" not in heavy_after(name, "--help")


def module_of(name: str) -> Path:
    """File of a command."""
    return PACKAGE / "cli" / f"{name.replace('-', '_')}.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_thin(name: str) -> None:
    functions = {n.name: n for n in tree_of(module_of(name)).body if isinstance(n, ast.FunctionDef)}
    first, *rest = functions["command"].body
    assert isinstance(first, ast.Expr) and ast.get_docstring(functions["command"])
    lines = (rest[-1].end_lineno or 0) - (first.end_lineno or 0)
    assert lines <= BODY_MAX, f"{lines} lines of body"


@pytest.mark.parametrize("name", COMMANDS)
def test_options_have_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None and command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    resumes = any("--resume" in option.opts for option in command.params)
    assert resumes == (name in RESUMABLE)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_in_the_readme(name: str) -> None:
    assert f"mzsr {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
