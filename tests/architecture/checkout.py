"""The checkout as the architecture tests see it: its files, parsed once."""

import ast
import functools
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_NOT_OURS: Final = {".git", ".venv", "build", "dist", "__pycache__"}


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Every file that git tracks, as paths from the root of the checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        found = {Path(name) for name in listed if name}
    except (OSError, subprocess.CalledProcessError):  # an unpacked source tree, or no git here
        found = {path.relative_to(ROOT) for path in ROOT.rglob("*")}
        found = {
            p
            for p in found
            if not _NOT_OURS & set(p.parts) and not any(q.endswith("_cache") for q in p.parts)
        }
    files = sorted(path for path in found if (ROOT / path).is_file())
    assert Path("pyproject.toml") in files, "not the root of a checkout"
    return tuple(files)


def files_in(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    """The project's files under these folders with one of these suffixes."""
    return [p for p in project_files() if p.parts[0] in folders and p.suffix in suffixes]


@functools.cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_bytes().decode("utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), str(path))


@functools.cache
def is_binary(path: Path) -> bool:
    """Whether a file is anything else than UTF-8 text."""
    data = (ROOT / path).read_bytes()
    try:
        return "\0" in data.decode("utf-8")
    except UnicodeDecodeError:
        return True
