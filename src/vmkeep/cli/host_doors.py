"""Open a configured host as a command needs it: its login, its wire with or without a trace, its files."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmkeep.cli.frame import warn
from vmkeep.cli.text import visible
from vmkeep.clock import Clock
from vmkeep.errors import UsageError, VmkeepError
from vmkeep.secrets import Secret

if TYPE_CHECKING:
    from vmkeep.cli.configuration import Configuration, HostBlock
    from vmkeep.host.files.host_files import HostFiles
    from vmkeep.host.wsman import Client, Recorder

Record = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Write a trace of the wire, with names replaced, to a new file."
    ),
]


def configuration() -> "Configuration":
    """Read the configuration of this user. Raises ConfigurationUnusable."""
    from vmkeep.cli.configuration import load_configuration

    return load_configuration(os.environ)


@contextmanager
def open_host(host: "HostBlock", clock: Clock, record: Path | None) -> Iterator[tuple["Client", "HostFiles"]]:
    """Open a host's WS-Management and its files; nothing is sent before it is needed.

    ``record`` is a new file for the trace of the wire. What is weak in the host's block is warned of.
    """
    from vmkeep.host.files.host_files import HostFiles
    from vmkeep.host.wsman import Client

    for warning in host.warnings():
        warn(warning)
    password = _password_of(host)
    files = HostFiles(
        host.address,
        host.smb_port,
        host.credentials(password),
        host.path_map(),
        require_encryption=host.smb_encryption,
        clock=clock,
    )
    with _recorder(record) as recorder, Client(host.endpoint(password), clock, recorder) as wsman, files:
        yield wsman, files


def _password_of(host: "HostBlock") -> Secret | None:
    """Fetch the password of a host's account, or ask for it; None where a ticket is used."""
    from vmkeep.cli.configuration import HostPasswordUnavailable

    password = host.password(os.environ)
    if password is not None or host.user is None or host.auth == "kerberos":
        return password
    if not sys.stdin.isatty():
        raise HostPasswordUnavailable(
            f"[hosts.{host.name}] does not say where the password of {host.user} is."
        )
    text = str(typer.prompt(f"Password of {visible(host.user)}", hide_input=True, err=True))
    return Secret(text)


@contextmanager
def _recorder(file: Path | None) -> Iterator["Recorder | None"]:
    """Open a trace, readable by its owner only; what is there already is not overwritten."""
    if file is None:
        yield None
        return
    from vmkeep.clock import SystemClock
    from vmkeep.host.wsman import Recorder, TraceFile

    try:
        lines = TraceFile(file)
    except FileExistsError as error:
        raise UsageError(
            f"{str(file)!r} exists; a trace goes into a new file.", hint="Choose another name."
        ) from error
    except OSError as error:
        raise _unwritable(file, error) from error
    with lines:
        try:
            recorder = Recorder(lines, SystemClock(), warn)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise _unwritable(file, error) from error
        yield recorder


def _unwritable(file: Path, error: OSError) -> VmkeepError:
    reason = (error.strerror or str(error)).lower()
    return VmkeepError(f"cannot write the trace {str(file)!r}: {reason}.", hint="Choose another place.")
