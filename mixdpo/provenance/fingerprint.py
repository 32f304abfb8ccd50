"""What code does a stage run? A hash that ignores comments, docstrings and layout."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def _locate(module: str) -> Path | None:
    """The file of `module` (dotted, inside this package), or None if there is none."""
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def _is_documentation(line: ast.stmt) -> bool:
    """A docstring, of a module, class, function or name."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


@cache
def _tree(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not _is_documentation(line)] or [ast.Pass()]
    return tree


@cache
def _dump(path: Path) -> bytes:
    return ast.dump(_tree(path)).encode()


@cache
def _imports(path: Path) -> set[Path]:
    """Files of this package that `path` imports, at any depth of its code."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {p for n in names if n.split(".")[0] == PACKAGE.name and (p := _locate(n))}


@cache
def fingerprint(module: str) -> str:
    """Hash of `module` and of all that it imports from the package, directly or not: 16 hex digits."""
    todo, seen = [_locate(module)], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(_dump(path))
    return digest.hexdigest()[:16]
