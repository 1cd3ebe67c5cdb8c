"""Measure reading over protected SMB: HostFile.read_into beside bare smbprotocol, on the same server.

``python tools/bench_smb.py`` starts a Samba server on loopback (Debian package
samba), reads one file from the page cache in interleaved rounds and prints the
medians and their ratio. "Bare" is the fastest loop smbprotocol's own Open and
Connection allow, with as many requests on their way as HostFile has.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from smbprotocol.connection import Connection  # noqa: E402
from smbprotocol.open import (  # noqa: E402
    CreateDisposition,
    CreateOptions,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session  # noqa: E402
from smbprotocol.tree import TreeConnect  # noqa: E402

from tests.fakes.samba import PASSWORD, Samba  # noqa: E402
from vmkeep.host.files.credentials import Credentials  # noqa: E402
from vmkeep.host.files.host_files import HostFiles  # noqa: E402
from vmkeep.host.files.paths import PathMap  # noqa: E402
from vmkeep.secrets import Secret  # noqa: E402

MIB: Final = 1 << 20


class Bare:
    """The library alone: 1 MiB a request, ``depth`` requests on their way."""

    def __init__(self, samba: Samba, depth: int, encrypted: bool) -> None:
        self._depth = depth
        self._connection: Any = Connection(uuid.uuid4(), "127.0.0.1", samba.port, require_signing=True)
        self._connection.connect()
        self._session: Any = Session(
            self._connection, samba.user, PASSWORD, require_encryption=encrypted, auth_protocol="ntlm"
        )
        self._session.connect()
        self._connection.echo(sid=self._session.session_id, credit_request=512)
        self._tree: Any = TreeConnect(self._session, r"\\127.0.0.1\C$")
        self._tree.connect()
        self._open: Any = Open(self._tree, "disk")
        self._open.create(
            ImpersonationLevel.Impersonation,
            FilePipePrinterAccessMask.FILE_READ_DATA | FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES,
            0,
            ShareAccess.FILE_SHARE_READ,
            CreateDisposition.FILE_OPEN,
            CreateOptions.FILE_NON_DIRECTORY_FILE,
        )

    def read(self, size: int) -> None:
        waiting: deque[tuple[Any, Any]] = deque()
        for offset in range(0, size, MIB):
            message, unpack = self._open.read(offset, MIB, send=False)
            waiting.append((unpack, self._connection.send(
                message, self._session.session_id, self._tree.tree_connect_id, credit_request=16
            )))  # fmt: skip
            if len(waiting) == self._depth:
                self._take(waiting)
        while waiting:
            self._take(waiting)

    def _take(self, waiting: deque[tuple[Any, Any]]) -> None:
        unpack, request = waiting.popleft()
        if len(unpack(request)) != MIB:
            raise AssertionError("a read was short")

    def close(self) -> None:
        self._connection.disconnect()


def measure(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and processor seconds of one call."""
    wall, processor = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - processor


def compare(samba: Samba, size: int, rounds: int, depth: int, encrypted: bool) -> dict[str, Any]:
    """Read the file alternately in both ways, each with ``depth`` requests of 1 MiB on their way."""
    account = Credentials(samba.user, Secret(PASSWORD), "ntlm")
    bare = Bare(samba, depth, encrypted)
    results: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    with HostFiles("127.0.0.1", samba.port, account, PathMap(), require_encryption=encrypted) as files:
        protection = files.protection("C:\\disk")
        with closing(files.open("C:\\disk")) as file:
            buffer = memoryview(bytearray(depth * MIB))

            def ours() -> None:
                for offset in range(0, size, len(buffer)):
                    if file.read_into(offset, buffer) != len(buffer):
                        raise AssertionError("a read was short")

            ways: dict[str, Callable[[], None]] = {"bare": lambda: bare.read(size), "ours": ours}
            for work in ways.values():  # warm the page cache and both connections
                work()
            for number in range(rounds):
                for name in sorted(ways, reverse=number % 2 == 1):
                    results[name].append(measure(ways[name]))
    bare.close()
    found: dict[str, Any] = {"protection": protection, "outstanding": depth}
    for name, series in results.items():
        rates = [size / 1e6 / wall for wall, _ in series]
        found[name] = {
            "mb_per_s": round(statistics.median(rates)),
            "min": round(min(rates)),
            "max": round(max(rates)),
            "mb_per_cpu_s": round(statistics.median(size / 1e6 / processor for _, processor in series)),
        }
    found["ratio"] = round(
        statistics.median(b / o for (b, _), (o, _) in zip(*results.values(), strict=True)), 2
    )
    return found


def main() -> int:
    """Print one line for each kind of protection and depth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB to read in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size = arguments.size // 4 * 4 * MIB
    results = []
    for settings, encrypted in (
        ({}, False),
        ({"server_smb3_signing_algorithms": "aes-128-cmac"}, False),
        ({}, True),
    ):
        with tempfile.TemporaryDirectory() as folder, Samba(Path(folder) / "samba", **settings) as samba:
            with (samba.content / "disk").open("wb") as disk:
                for _ in range(size // MIB):
                    disk.write(os.urandom(MIB))
            results += [compare(samba, size, arguments.rounds, depth, encrypted) for depth in (1, 4)]
    if arguments.json:
        print(json.dumps(results))
        return 0
    print(
        "| protection | outstanding | bare MB/s | vmkeep MB/s | MB per CPU s, bare / vmkeep | vmkeep : bare |"
    )
    print("|---|---|---|---|---|---|")
    for r in results:
        rates = [f"{r[name]['mb_per_s']} ({r[name]['min']}-{r[name]['max']})" for name in ("bare", "ours")]
        processor = f"{r['bare']['mb_per_cpu_s']} / {r['ours']['mb_per_cpu_s']}"
        print(
            f"| {r['protection']} | {r['outstanding']} | {' | '.join(rates)} | {processor} | {r['ratio']} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
