"""What may import what inside `artv_core`: `docs/architecture.md` shows the same order."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import artv_core

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "artv_core"
LONGEST_FILE, LONGEST_FUNCTION = 400, 50  # lines

LAYERS = (
    ("files", "config"),
    ("models",),
    ("method",),
    ("prompts", "checkpoint", "media", "speed"),
    ("run", "synthetic"),
    ("data", "play"),
    ("prepare",),
    ("training",),
    ("evaluation", "bench"),
    ("commands",),
    ("cli", "__init__"),
)
"""From the lowest up. A module imports from its own package and from layers below; never from above or beside."""

BESIDE = {("files", "config"), ("config", "files")}
"""Pairs of one layer that may import each other in one direction; checked for circles like everything else."""


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(CORE).with_suffix("").parts): path for path in CORE.rglob("*.py")}


def imported(name: str, path: Path) -> Iterator[str]:
    """Modules of the core that this one imports, wherever in the file it does so."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1]
            module = [*start, *(node.module or "").split(".")] if node.module else start
            for alias in node.names:
                inner = ".".join([*module, alias.name])
                yield inner if inner in ALL else ".".join(module)


ALL = modules()
ARROWS = sorted((name, target) for name, path in ALL.items() for target in set(imported(name, path)) if target)


def code() -> list[Path]:
    return [*CORE.rglob("*.py"), *CORE.rglob("*.js"), *(ROOT / "nodes").glob("*.py"), *(ROOT / "js").glob("*.js")]


def layer(package: str) -> int:
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


def test_every_package_has_its_layer() -> None:
    found = {name.split(".")[0] for name in ALL}
    assert found == {package for packages in LAYERS for package in packages}


def test_few_modules_lie_outside_packages() -> None:
    assert {name for name in ALL if "." not in name} <= {"__init__", "config", "presets", "cli"}


def test_no_arrow_leads_up() -> None:
    wrong = []
    for name, target in ARROWS:
        package, other = name.split(".")[0], target.split(".")[0]
        if package != other and layer(other) >= layer(package) and (package, other) not in BESIDE:
            wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle() -> None:
    """Also not among the modules of one package, and not by an import inside a function."""
    targets = {name: {_file_of(target) for source, target in ARROWS if source == name} for name in ALL}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in sorted(targets.get(name, ())):
                visit(target, (*way, name))
            done.add(name)

    for name in sorted(ALL):
        visit(name, ())


def _file_of(target: str) -> str:
    """A package stands for its `__init__`."""
    return f"{target}.__init__" if f"{target}.__init__" in ALL else target


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in code()}
    assert not {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LONGEST_FILE}


def test_functions_are_short() -> None:
    long = []
    for path in (path for path in code() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not long, "\n".join(long)


def test_the_core_runs_without_a_host() -> None:
    """No module imports ComfyUI, and imports within the core are relative: the host loads the pack under a path."""
    for path in ALL.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in {"comfy", "comfy_api", "folder_paths", "nodes", "artv_core"}, path


def test_public_names_are_imported_when_they_are_used() -> None:
    child = (
        "import sys, artv_core; assert 'torch' not in sys.modules; [getattr(artv_core, n) for n in artv_core.__all__]"
    )
    subprocess.run([sys.executable, "-c", child], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        artv_core.Nothing  # noqa: B018
