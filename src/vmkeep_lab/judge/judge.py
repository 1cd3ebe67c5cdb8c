"""Hash restored disks and find them in the truth."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vmkeep_lab.disks import DiskError, VirtualDisk

_VHDX: Final = b"vhdxfile"


@dataclass(frozen=True)
class Verdict:
    """What became of one restored file; ``equals`` are the lines of the truth with the same bytes."""

    file: str
    format: str
    size: int
    sha256: str
    equals: list[dict[str, Any]]
    fault: str = ""

    @property
    def is_identical(self) -> bool:
        """Tell whether it holds what a disk held at some instant."""
        return bool(self.equals) and not self.fault


class TruthError(Exception):
    """A file is not what a lab wrote about its disks."""


def read_truth(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a truth file; the last may be torn where the lab was killed.

    Raises TruthError for what is no truth file.
    """
    lines = path.read_text("utf-8").split("\n")
    try:
        return [json.loads(each) for each in lines[:-1]]
    except ValueError as error:
        raise TruthError(f"{path} is no truth file of a lab: {error}") from error


def judge(truth: Sequence[dict[str, Any]], files: Sequence[Path]) -> list[Verdict]:
    """Compare each file with the whole truth; size and bytes must be the same."""
    return [_verdict(truth, each) for each in files]


def _verdict(truth: Sequence[dict[str, Any]], path: Path) -> Verdict:
    kind = "vhdx" if _begins_like_vhdx(path) else "raw"
    try:
        size, digest = _hash_vhdx(path) if kind == "vhdx" else _hash_raw(path)
    except DiskError as error:
        return Verdict(str(path), kind, 0, "", [], f"{type(error).__name__}: {error}")
    equals = [each for each in truth if each["sha256"] == digest and each["size"] == size]
    return Verdict(str(path), kind, size, digest, equals)


def _begins_like_vhdx(path: Path) -> bool:
    with path.open("rb") as source:
        return source.read(len(_VHDX)) == _VHDX


def _hash_raw(path: Path) -> tuple[int, str]:
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return path.stat().st_size, digest.hexdigest()


def _hash_vhdx(path: Path) -> tuple[int, str]:
    disk = VirtualDisk.open(path)
    try:
        return disk.size, disk.sha256()
    finally:
        disk.crash()
