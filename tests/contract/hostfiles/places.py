"""The ways to a host's files that must keep the contract; a new one adds itself to ``PLACES``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import smbclient

from tests.clocks import FakeClock
from tests.fakes.samba import PASSWORD, Samba
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.secrets import Secret


@dataclass(frozen=True)
class Place:
    """A host whose ``C:\\`` is the folder ``content`` of this machine, and how to read it."""

    content: Path
    connect: Callable[[], HostFiles]

    overwrite: Callable[[str, bytes], None]
    """Write into a file as somebody else on the host does."""
    protection: str = ""

    def make(self, name: str, data: bytes) -> str:
        """Write a file on the host; return the host's path of it."""
        file = self.content / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return host_path(name)


def overwrite_by_another(samba: Samba, name: str, data: bytes) -> None:
    """Write through the server: to those who have the file open it shows no time of writes made beside it."""
    with held_by_another(samba, name, sharing="rwd") as file:
        file.write(data)


@contextmanager
def held_by_another(samba: Samba, name: str, *, sharing: str = "") -> Iterator[IO[bytes]]:
    """Open a file as another program of the network does, sharing only what ``sharing`` says."""
    cache: dict[str, object] = {}
    path = "\\\\127.0.0.1\\C$\\" + name.replace("/", "\\")
    options = {"username": samba.user, "password": PASSWORD, "port": samba.port, "connection_cache": cache}
    try:
        with smbclient.open_file(path, mode="r+b", share_access=sharing, buffering=0, **options) as file:
            yield file
    finally:
        smbclient.reset_connection_cache(connection_cache=cache)


def host_path(name: str) -> str:
    return "C:\\" + name.replace("/", "\\")


def credentials(samba: Samba, *, user: str | None = None, password: str = PASSWORD) -> Credentials:
    return Credentials(user or samba.user, Secret(password), "ntlm")


def connect(
    samba: Samba,
    *,
    port: int | None = None,
    paths: dict[str, str] | None = None,
    require_encryption: bool = False,
    clock: FakeClock | None = None,
    timeout_s: float = 20.0,
    account: Credentials | None = None,
) -> HostFiles:
    """Return the files of a server, through ``port`` if that is given (a proxy's)."""
    return HostFiles(
        "127.0.0.1",
        port or samba.port,
        account or credentials(samba),
        PathMap(paths),
        require_encryption=require_encryption,
        clock=clock or FakeClock(),
        timeout_s=timeout_s,
    )


# Name -> (settings of the server, whether encryption is asked for, what must protect the answers).
# The last but one is a Windows of 2019, the last one of 2008 R2.
SERVERS: Final[dict[str, tuple[dict[str, str], bool, str]]] = {
    "smb-gmac": ({}, False, "AES-GMAC"),
    "smb-encrypted": ({}, True, "AES-128-GCM"),
    "smb-cmac": ({"server_smb3_signing_algorithms": "aes-128-cmac"}, False, "AES-CMAC"),
    "smb-2.1": ({"server_max_protocol": "SMB2_10"}, False, "HMAC-SHA256"),
}
