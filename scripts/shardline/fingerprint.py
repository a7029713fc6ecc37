"""Content digests of the code that a program runs: its first-party import closure.

A program's closure starts from its file and from the registry modules that its config names, and
follows every ``import`` of this project, inside functions too, and the templates that a module
names. A module's digest ignores comments,
docstrings and formatting, and is the same on Python 3.11, 3.12 and 3.13: it walks the syntax tree
itself, because the text of ``ast.dump`` differs between them. `accept` may declare that a module's
new digest equals an old one; Snakemake then sees the old one.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from shardline.files import read_json, sha256_file

SCRIPTS = Path(__file__).resolve().parent.parent
ROOT = SCRIPTS.parent
ACCEPTED = "config/accepted.json"
DIGITS = 8
TEMPLATES = (".html", ".md")


def closure(*roots: Path | str) -> list[str]:
    """``path@digest`` of every first-party file that ``roots`` run, sorted by path.

    Args:
        roots: program or module files, absolute or relative to the project's root. A file outside
            the project (a plug-in) is named by its file name.
    """
    found: set[Path] = set()
    waiting = [_absolute(root) for root in roots]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting.extend(_imports(file, file.stat().st_mtime_ns))
    accepted = _accepted()
    return sorted(f"{name}@{accepted(name, module_digest(file))}" for file, name in _named(found))


def registry_file(kind: str, name: str) -> Path | None:
    """The built-in module of a registry entry, or None where a plug-in has it."""
    file = SCRIPTS / "shardline" / kind / f"{name}.py"
    return file if file.is_file() else None


def module_digest(file: Path) -> str:
    """First hex digits of the sha256 over a module's syntax tree."""
    return _digest(file, file.stat().st_mtime_ns)


@cache
def _digest(file: Path, _mtime: int) -> str:
    if file.suffix != ".py":
        return sha256_file(file)[:DIGITS]
    return source_digest(file.read_text(encoding="utf-8"), str(file))


def source_digest(source: str, filename: str = "<source>") -> str:
    """Digest of Python source text, without comments, docstrings and formatting."""
    digest = hashlib.sha256()
    _feed(ast.parse(source, filename), digest)
    return digest.hexdigest()[:DIGITS]


def _feed(node: object, digest: hashlib._Hash) -> None:
    if isinstance(node, ast.AST):
        digest.update(f"({type(node).__name__}".encode())
        for field, value in sorted(ast.iter_fields(node)):
            if value is None or value == [] or field in ("type_comment", "kind", "type_ignores"):
                continue
            digest.update(f" {field}=".encode())
            _feed(_significant(node, field, value), digest)
        digest.update(b")")
    elif isinstance(node, list):
        digest.update(b"[")
        for item in node:
            _feed(item, digest)
        digest.update(b"]")
    else:
        digest.update(f"{type(node).__name__}:{node!r};".encode())


def _significant(node: ast.AST, field: str, value: object) -> object:
    if field == "body" and _has_docstring(node):
        return value[1:]
    if field == "values" and isinstance(node, ast.JoinedStr):
        # Python 3.12 ends a nested format specification with an empty text, the others do not.
        return [part for part in value if not (isinstance(part, ast.Constant) and not part.value)]
    return value


def _has_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and bool(node.body)
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
        and isinstance(node.body[0].value.value, str)
    )


@cache
def _imports(file: Path, _mtime: int) -> tuple[Path, ...]:
    """The project's files that a file imports, and the templates beside it that it names."""
    if file.suffix != ".py":
        return ()
    found: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [part for alias in node.names for part in _resolve(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            module = _absolute_module(node, file)
            found += _resolve(module)
            found += [part for alias in node.names for part in _resolve(f"{module}.{alias.name}")]
        elif isinstance(node, ast.Constant) and str(node.value).endswith(TEMPLATES):
            found += [path for path in [file.parent / str(node.value)] if path.is_file()]
    return tuple(dict.fromkeys(found))


def _absolute_module(node: ast.ImportFrom, file: Path) -> str:
    if not node.level:
        return node.module or ""
    if not file.is_relative_to(SCRIPTS):
        return ""
    package = file.relative_to(SCRIPTS).parent.parts
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _resolve(module: str) -> list[Path]:
    parts = module.split(".")
    if not module or (
        not (SCRIPTS / parts[0]).with_suffix(".py").is_file()
        and not (SCRIPTS / parts[0] / "__init__.py").is_file()
    ):
        return []
    files = []
    for end in range(1, len(parts) + 1):
        path = SCRIPTS.joinpath(*parts[:end])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                files.append(file)
    return files


def _absolute(root: Path | str) -> Path:
    path = Path(root)
    return path.resolve() if path.is_absolute() else (ROOT / path).resolve()


def _named(files: Iterable[Path]) -> list[tuple[Path, str]]:
    return [
        (file, str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name)
        for file in files
    ]


def _accepted():
    """A function (name, digest) -> the digest it was accepted to equal, or itself."""
    file = ROOT / ACCEPTED
    entries = read_json(file) if file.is_file() else []
    equal = {(entry["module"], entry["new"]): entry["old"] for entry in entries}

    def resolve(name: str, digest: str) -> str:
        seen = set()
        while (name, digest) in equal and digest not in seen:
            seen.add(digest)
            digest = equal[name, digest]
        return digest

    return resolve
