"""Which room may import which, directly: the table of docs/architecture.md.

import-linter (pyproject.toml) holds the order of the layers and what may be
reached over any number of steps. This file holds the finer rule, one row a
room, also for rooms that do not exist yet.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.architecture.checkout import ROOT, files_in, text_of

pytestmark = pytest.mark.quick

GROUND: Final = frozenset({"errors", "ranges", "progress", "clock", "secrets", "stopping"})
TIMELESS_GROUND: Final = frozenset({"errors", "ranges", "progress"})
MODEL: Final = GROUND | {"model"}
HOST: Final = frozenset({"host.wsman", "host.files", "host.hyperv", "host.vss"})
EVERYTHING: Final = frozenset({"*"})

MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "errors": frozenset(),
    "ranges": frozenset({"errors"}),
    "clock": frozenset({"errors"}),
    "progress": frozenset({"errors"}),
    "stopping": frozenset(),
    "pace": frozenset({"errors", "clock"}),
    "secrets": frozenset({"errors"}),
    "model": TIMELESS_GROUND,
    "formats": TIMELESS_GROUND | {"clock"},  # a VHD carries the time it was made
    "objectstore": GROUND,
    "guestfs": GROUND | {"formats"},
    "repository": MODEL | {"objectstore"},
    "repository.retention": TIMELESS_GROUND | {"model"},
    "host": GROUND,
    "host.dialing": GROUND,
    "host.kerberos": GROUND,
    "host.wsman": GROUND | {"host.dialing", "host.kerberos"},
    "host.files": GROUND | {"host.dialing", "host.kerberos"},
    "host.hyperv": MODEL | {"host.wsman"},
    "host.vss": MODEL | {"host.wsman"},
    "planner": TIMELESS_GROUND | {"model"},
    "diagnose": TIMELESS_GROUND | {"model"},
    "capture": MODEL | HOST | {"formats", "guestfs", "planner"},  # the trust rule of changed ranges
    # It asks the host for the facts a plan is made of (docs/decisions/0013).
    "backup": MODEL | HOST | {"pace", "capture", "planner", "repository", "guestfs"},
    "restore": MODEL | HOST | {"repository", "formats", "guestfs"},
    "nbd": MODEL | HOST | {"repository", "formats", "guestfs"},
    "verify": MODEL | HOST | {"repository", "formats", "guestfs"},
    "notify": MODEL,
    "server": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": frozenset({"cli"}),
    "": frozenset(),  # vmkeep/__init__.py: the version, nothing else
}

# Rooms whose answer depends on their arguments alone.
PURE: Final = {"model", "planner", "diagnose", "repository.retention"}
IMPURE_MODULES: Final = {
    "asyncio",
    "os",
    "random",
    "secrets",
    "shutil",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "time",
}
# Who may import inside a function: the command line, to start quickly.
LAZY: Final = {"cli", "__main__"}


class Import(NamedTuple):
    """One imported module, and where."""

    module: str
    line: int
    inside_function: bool


def imports_of(source: str) -> Iterator[Import]:
    """Yield each import of a module's source, those inside functions and type checks too.

    ``from a import b`` counts as ``a.b``: b may be a module.
    """
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(name, node.lineno, id(node) in inner) for name in names)


def room_of(module: str) -> str:
    """The row of the table a module below vmkeep belongs to: the longest that fits."""
    parts = module.split(".")[1:]
    for length in (2, 1):
        if ".".join(parts[:length]) in MAY_IMPORT and len(parts) >= length:
            return ".".join(parts[:length])
    return parts[0] if parts else ""


def faults_in(module: str, source: str) -> list[str]:
    """Name every import of one module that its row does not allow."""
    top, _, _ = module.partition(".")
    faults = []
    for found in imports_of(source):
        target_top = found.module.partition(".")[0]
        where = f"{module}:{found.line}"
        if found.module.startswith("."):
            faults.append(f"{where} imports relatively")
        elif {top, target_top} == {"vmkeep", "vmkeep_lab"}:
            faults.append(f"{where} imports {found.module}: the lab and vmkeep do not know each other")
        elif top == "vmkeep":
            faults += [f"{where} {fault}" for fault in _faults_of_room(room_of(module), found)]
    return faults


def _faults_of_room(room: str, found: Import) -> Iterator[str]:
    if room not in MAY_IMPORT:
        yield f"is in room {room!r}, which the table does not know"
        return
    top = found.module.partition(".")[0]
    if top == "vmkeep":
        target = room_of(found.module)
        allowed = MAY_IMPORT[room]
        if target not in MAY_IMPORT and found.module.count(".") == 1:
            return  # `from vmkeep import __version__`
        if target != room and target not in allowed and "*" not in allowed and not _is_inside(target, room):
            yield f"imports {found.module}: {room or 'vmkeep'} may not import {target}"
        if found.inside_function and room not in LAZY:
            yield f"imports {found.module} inside a function: it hides a circle or a wrong direction"
    elif room in PURE and top in IMPURE_MODULES:
        yield f"imports {top}: {room} is pure, its facts come as arguments"


def _is_inside(target: str, room: str) -> bool:
    """A room may import the parts of itself that have rows of their own."""
    return target.startswith(f"{room}.") and room != "" and not target.startswith("host.")


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_rooms_import_only_what_their_row_allows() -> None:
    sources = files_in("src")
    assert len(sources) > 5
    faults = [fault for path in sources for fault in faults_in(module_name(path), text_of(path))]
    assert not faults, "\n".join(faults)


def test_every_row_leads_downward() -> None:
    """The table itself has no circle."""
    done: set[str] = set()
    waiting = {room: set(allowed) & set(MAY_IMPORT) for room, allowed in MAY_IMPORT.items()}
    while ready := {room for room, needs in waiting.items() if needs <= done}:
        done |= ready
        waiting = {room: needs for room, needs in waiting.items() if room not in done}
    assert not waiting


def test_no_package_beside_the_two() -> None:
    assert {path.parts[1] for path in files_in("src")} <= {"vmkeep", "vmkeep_lab"}
    assert (ROOT / "src/vmkeep/__init__.py").is_file()


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("vmkeep.formats.raw", "import vmkeep.repository", "formats may not import repository"),
        ("vmkeep.formats.raw", "from vmkeep import secrets", "formats may not import secrets"),
        ("vmkeep.formats", "from vmkeep.model import Disk", "formats may not import model"),
        (
            "vmkeep.capture.hold",
            "from vmkeep.repository.writer import Writer",
            "capture may not import repository",
        ),
        ("vmkeep.repository.writer", "from vmkeep.formats import Disk", "repository may not import formats"),
        ("vmkeep.repository.retention", "from vmkeep.clock import Clock", "retention may not import clock"),
        ("vmkeep.planner.rules", "import sqlite3", "planner is pure"),
        ("vmkeep.planner.rules", "import os.path", "planner is pure"),
        ("vmkeep.model", "from socket import socket", "model is pure"),
        ("vmkeep.host.files.smb", "from vmkeep.host import wsman", "host.files may not import host.wsman"),
        ("vmkeep.backup.run", "def f():\n    from vmkeep.planner import decide", "inside a function"),
        ("vmkeep.errors", "from vmkeep.ranges import ByteRange", "errors may not import ranges"),
        ("vmkeep.utils.text", "import vmkeep.errors", "which the table does not know"),
        ("vmkeep.cli.main", "from vmkeep_lab import serve", "do not know each other"),
        ("vmkeep_lab.host", "from vmkeep.formats import Disk", "do not know each other"),
        ("vmkeep.formats.vhd", "from . import raw", "relatively"),
        ("vmkeep", "from vmkeep.errors import VmkeepError", "vmkeep may not import errors"),
    ],
)
def test_the_check_bites(module: str, source: str, complaint: str) -> None:
    faults = faults_in(module, source)
    assert len(faults) == 1, faults
    assert complaint in faults[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "vmkeep.formats.vhdx.disk",
            "from vmkeep.formats.disk import Disk\nfrom vmkeep.ranges import ByteRange\nimport os",
        ),
        ("vmkeep.cli.backup", "def run():\n    from vmkeep.backup import run"),
        ("vmkeep.cli.main", "from vmkeep import __version__"),
        (
            "vmkeep.repository.points",
            "from vmkeep.repository.retention import keep\nfrom vmkeep.clock import Clock",
        ),
        ("vmkeep.capture.hold", "from vmkeep.host.hyperv.jobs import wait_for_job"),
        ("vmkeep.objectstore.s3", "def connect():\n    import obstore"),
        ("vmkeep_lab.host", "import socket"),
    ],
)
def test_the_check_lets_pass(module: str, source: str) -> None:
    assert faults_in(module, source) == []
