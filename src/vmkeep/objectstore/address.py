"""Turn what a user calls a repository's place into a store."""

import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from vmkeep.errors import UsageError
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import StoreUnsupported
from vmkeep.objectstore.store import Store

# Two letters at least: one letter is a Windows drive. Anything else with a colon that early is
# more likely a mistyped address than a folder of that name.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_DRIVE: Final = re.compile(r"/[A-Za-z]:(/|$)")
_PLANNED: Final = {"s3": "S3", "az": "Azure"}


def open_store(address: str, *, create: bool = False) -> Store:
    """Return the store at ``address``: a path, ``file://``, later ``s3://`` and ``az://``.

    Raises ``StoreMissing`` if nothing is there and ``create`` is false, and
    ``UsageError`` for an address that cannot be meant.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return DirectoryStore(_checked_path(address, address), create)
    match scheme[1].lower():
        case "file":
            return DirectoryStore(_checked_path(_path_of_url(address), address), create)
        case ("s3" | "az") as planned:
            raise StoreUnsupported(
                f"repositories in {_PLANNED[planned]} come in a later version of vmkeep.",
                hint="Use a folder, for example on a mounted share, for now.",
                address=address,
            )
        case "memory":
            raise UsageError(
                "a repository in memory would be gone when the command ends.",
                hint="Give a folder.",
                address=address,
            )
        case unknown:
            raise UsageError(
                f"{address!r} is not an address vmkeep knows: nothing handles {unknown!r}.",
                hint="Give a path or a file:// address; write ./ before a folder name with a colon in it.",
                address=address,
            )


def _path_of_url(address: str) -> str:
    parts = urlsplit(address)
    if not address[len("file:") :].startswith("//") or parts.netloc not in ("", "localhost"):
        raise UsageError(
            f"{address!r} does not name a folder of this machine.",
            hint="Write three slashes: file:///srv/repository. A share must be mounted first.",
            address=address,
        )
    if parts.query or parts.fragment:
        raise UsageError(
            f"{address!r} holds a bare '?' or '#'.",
            hint="Write %3F and %23 for them, or give the path without file://.",
            address=address,
        )
    path = unquote(parts.path)
    # urllib.request knows this too, but brings in HTTP and TLS: a third of a command's start.
    return path[1:] if sys.platform == "win32" and _DRIVE.match(path) else path


def _checked_path(path: str, address: str) -> Path:
    if not path or "\0" in path:
        raise UsageError(f"{address!r} is not the path of a folder.", address=address)
    return Path(path)
