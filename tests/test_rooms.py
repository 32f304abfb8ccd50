"""The house: which rooms may import which, no circles, no long files, no long functions."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mixdpo"
FLOORS = (  # from the top down: a room imports from floors below its own
    {"server"},
    {"__main__"},
    {"library", "paper"},
    {"stages"},
    {"method", "world", "run"},
    {"data", "provenance"},
    {"fields"},
    {"errors", "warm"},
)
FILES = sorted(PACKAGE.rglob("*.py"))
SETTINGS = "mixdpo.method.settings"
"""The typed method, which the configuration of a run holds: the one import between rooms of a floor."""


def room_of(name: str) -> str:
    """The room of a module, `mixdpo.ROOM…`."""
    return name.split(".")[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.startswith("mixdpo.")}


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES])
def test_imports_point_down(path):
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":  # the public face names what is used, and loads it then
        return
    for name in imports(path) - ({SETTINGS} if own == "run" else set()):
        assert room_of(name) == own or floor[room_of(name)] > floor[own], f"{own} imports {name}"


def test_no_file_and_no_function_is_long():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 450, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_modules_do_not_import_in_circles():
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}

    def reaches(start: str, seen: set[str]) -> set[str]:
        for name in graph.get(start, set()) - seen:
            seen.add(name)
            reaches(name, seen)
        return seen

    assert [module for module in graph if module in reaches(module, set())] == []
