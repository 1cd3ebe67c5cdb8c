"""A real MIT KDC on loopback, in a folder of its own, with a realm of its own; nothing of the system's."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

import pytest

REALM: Final = "VMKEEP.TEST"
USER: Final = f"backup@{REALM}"
PASSWORD: Final = "canary-Kerb3ros ß"
# What is asked for: our WinRM, another client's, and files. In Active Directory one account has all of them.
SERVICES: Final = ("HOST/localhost", "WSMAN/localhost", "cifs/localhost")
_PATIENCE_S: Final = 30.0
_PROGRAMS: Final = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")

_CLIENTS: Final = """\
[libdefaults]
default_realm = {realm}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
[realms]
{realm} = {{
    kdc = 127.0.0.1:{port}
}}
[domain_realm]
localhost = {realm}
"""
# Windows asks for proof of the password before it hands out anything, so this one does, too. A Samba that
# stands alone takes no ticket with a PAC, Windows' list of the user's groups.
_SERVER: Final = """\
[kdcdefaults]
kdc_listen = 127.0.0.1:{port}
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realm} = {{
    database_name = {folder}/principal
    key_stash_file = {folder}/stash
    acl_file = {folder}/acl
    default_principal_flags = +preauth
    disable_pac = true
}}
[logging]
kdc = FILE:{folder}/kdc.log
"""


class Kdc:
    """One server with the principals above and ``keytab``, the keys of the services.

    ``environment`` is what a program needs that shall use it.
    """

    def __init__(self, folder: Path) -> None:
        for program in _PROGRAMS:
            if _found(program) is None:
                pytest.skip(f"{program} is missing: ./dev test installs it as root (Debian's krb5-kdc)")
        if importlib.util.find_spec("gssapi") is None:
            pytest.skip("the extra kerberos is missing: ./dev test installs it where it can be built")
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.port = _free_port()
        self.keytab = folder / "services.keytab"
        self.configuration = folder / "krb5.conf"
        self.configure()
        (folder / "kdc.conf").write_text(_SERVER.format(realm=REALM, port=self.port, folder=folder))
        self._process: subprocess.Popen[bytes] | None = None
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "the key of the database")
        self.add(USER, PASSWORD)
        for service in SERVICES:
            self._administer("addprinc", "-randkey", service)
            self._administer("ktadd", "-k", str(self.keytab), service)

    def configure(self, *, port: int | None = None) -> None:
        """Write what clients know of the realm; another port is where they look for the KDC then."""
        self.configuration.write_text(_CLIENTS.format(realm=REALM, port=port or self.port))

    def add(self, principal: str, password: str, *options: str) -> None:
        """Add somebody who has a password."""
        self._administer("addprinc", *options, "-pw", password, principal)

    def log(self, *words: str) -> list[str]:
        """Return the requests that the server has noted, those that hold all the words."""
        lines = (self.folder / "kdc.log").read_text("utf-8", "replace").splitlines()
        return [line for line in lines if "_REQ " in line and all(word in line for word in words)]

    def ticket(self, cache: Path, user: str = USER) -> dict[str, str]:
        """Log a user in as a person does, and return the environment in which the ticket is used."""
        self._run("kinit", "-c", f"FILE:{cache}", user, given=f"{PASSWORD}\n")
        return {**self.environment, "KRB5CCNAME": f"FILE:{cache}"}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "KRB5_CONFIG": str(self.configuration),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{self.folder / 'no ticket'}",
            "KRB5RCACHEDIR": str(self.folder),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with (self.folder / "krb5kdc.out").open("ab") as out:
            self._process = subprocess.Popen(
                [_tool("krb5kdc"), "-n", "-r", REALM],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    said = (self.folder / "krb5kdc.out").read_text("utf-8", "replace")[-4000:]
                    raise AssertionError(f"krb5kdc does not answer on port {self.port}:\n{said}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End the server; safe to repeat."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=_PATIENCE_S)

    def _administer(self, *words: str) -> None:
        self._run("kadmin.local", "-r", REALM, *words)

    def _run(self, *command: str, given: str = "") -> None:
        done = subprocess.run(
            [_tool(command[0]), *command[1:]],
            env={**os.environ, **self.environment, "LC_ALL": "C.UTF-8"},
            input=given,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
        # kadmin.local ends with 0 whatever happens, and says what did on standard error.
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("No policy specified")]
        assert done.returncode == 0 and not complaints, f"{command[0]}: {done.stdout}{done.stderr}"


def _free_port() -> int:
    """Return a port that is free for both of what a KDC listens to."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as stream, socket.socket(type=socket.SOCK_DGRAM) as other:
            port = int(stream.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _tool(program: str) -> str:
    found = _found(program)
    assert found is not None, program
    return found
