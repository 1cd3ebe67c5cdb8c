"""Read the configuration file: which hosts there are, and how each is reached.

A TOML file with one table for each host::

    [hosts.NAME]
    address = "hv01.example.org"
    user = 'DOMAIN\\backup'
    password_file = "hv01.password"

What may stand in a table is :data:`_KEYS`. A password never stands in it, and no
message repeats a value of the file. Relative paths begin at the file's folder.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from vmkeep.errors import ExitCode, Retry, VmkeepError
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.errors import BadPathMap
from vmkeep.host.files.paths import PathMap
from vmkeep.host.wsman import Endpoint, EndpointUnusable
from vmkeep.model.names import did_you_mean
from vmkeep.secrets import Secret, SecretUnavailable, read_password

CONFIGURATION_VARIABLE: Final = "VMKEEP_CONFIG"
_LARGEST: Final = 1 << 20
_SMB_PORT: Final = 445
# What addresses a host on the command line: hyperv://NAME/VM.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_KEYS: Final[Mapping[str, type]] = {
    "address": str,
    "port": int,
    "transport": str,
    "auth": str,
    "user": str,
    "password_file": str,
    "password_command": str,
    "ca_file": str,
    "smb_port": int,
    "smb_encryption": bool,
    "paths": dict,
}
_IN_WORDS: Final[Mapping[type, str]] = {
    str: "a text in quotes",
    int: "a whole number",
    bool: "true or false",
    dict: "a table of texts",
}


class ConfigurationUnusable(VmkeepError):
    """The configuration file cannot be read, or says something that cannot be meant."""

    code = "VK020"
    exit_code = ExitCode.USAGE
    retry = Retry.AFTER_CURE
    default_hint = "Correct the file; docs/rights.md shows a host's block, line by line."


class HostNotConfigured(VmkeepError):
    """No host of this name stands in the configuration."""

    code = "VK021"
    exit_code = ExitCode.USAGE
    retry = Retry.AFTER_CURE
    default_hint = "Use a name that is there, or add a block [hosts.NAME] to the file."


class HostPasswordUnavailable(VmkeepError):
    """The password of a host's account cannot be had from where the configuration says it is."""

    code = "VK022"
    exit_code = ExitCode.FAILED
    retry = Retry.AFTER_CURE
    default_hint = "Set password_file or password_command in the host's block, or repeat at a terminal."


@dataclass(frozen=True)
class HostBlock:
    """How one host is reached, as the configuration says; no secret is in it."""

    name: str
    address: str
    port: int | None = None
    transport: Literal["https", "http"] = "https"
    auth: Literal["negotiate", "kerberos", "ntlm"] = "negotiate"
    user: str | None = None
    password_file: Path | None = None
    password_command: str | None = None
    ca_file: Path | None = None
    smb_port: int = _SMB_PORT
    smb_encryption: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_password_source(self) -> bool:
        """Whether the block says where the password is."""
        return self.password_file is not None or self.password_command is not None

    def password(self, environment: Mapping[str, str]) -> Secret | None:
        """Fetch the password from where the block says it is; None if it says nothing.

        Raises HostPasswordUnavailable.
        """
        try:
            return read_password(
                file=self.password_file, command=self.password_command, environment=environment, variable=""
            )
        except SecretUnavailable as error:
            raise HostPasswordUnavailable(f"[hosts.{self.name}]: {error.message}") from error

    def warnings(self) -> list[str]:
        """Say what in the block is weaker than it could be."""
        found = []
        if self.transport == "http":
            found.append(
                f"[hosts.{self.name}] uses http: messages are sealed with the key of the login, but no "
                "certificate proves which host answers; docs/rights.md shows how to set up https."
            )
        if self.password_file is not None and _others_may_read(self.password_file):
            found.append(
                f"other users of this machine may read the password file {str(self.password_file)!r}; "
                "allow only yourself (chmod 600)."
            )
        return found

    def endpoint(self, password: Secret | None) -> Endpoint:
        """Return the host's WS-Management listener. Raises EndpointUnusable."""
        return Endpoint(
            address=self.address,
            user=self.user,
            password=password,
            transport=self.transport,
            port=self.port,
            auth=self.auth,
            ca_file=self.ca_file,
        )

    def credentials(self, password: Secret | None) -> Credentials | None:
        """Return the account that reads files; None where only mapped folders can be read.

        Without a password it is a ticket that counts, except for NTLM, which knows none.
        """
        if self.auth == "ntlm" and (self.user is None or password is None):
            return None
        return Credentials(self.user, password, self.auth)

    def path_map(self) -> PathMap:
        """Return where the host's paths lead. Raises BadPathMap."""
        return PathMap(self.paths)


@dataclass(frozen=True)
class Configuration:
    """All hosts of one file, by name."""

    file: Path | None
    hosts: Mapping[str, HostBlock]

    def find(self, name: str) -> HostBlock:
        """Return the host of this name. Raises HostNotConfigured, which names those that are there."""
        if name in self.hosts:
            return self.hosts[name]
        where = f"in {str(self.file)!r}" if self.file is not None else "as this user has no configuration"
        there = f"; there is {', '.join(map(repr, self.hosts))}." if self.hosts else "; there is none."
        meant = did_you_mean(name, self.hosts) or there
        raise HostNotConfigured(f"no host is called {name!r} {where}{meant}", name=name)


def configuration_file(environment: Mapping[str, str]) -> Path | None:
    """Return where the configuration lies, if this user can have one."""
    if chosen := environment.get(CONFIGURATION_VARIABLE):
        return Path(chosen)
    if os.name == "nt":
        base = environment.get("APPDATA")
        return Path(base, "vmkeep", "config.toml") if base else None
    if base := environment.get("XDG_CONFIG_HOME"):
        return Path(base, "vmkeep", "config.toml")
    home = environment.get("HOME")
    return Path(home, ".config", "vmkeep", "config.toml") if home else None


def load_configuration(environment: Mapping[str, str]) -> Configuration:
    """Read the configuration; a file that is not there holds no hosts, unless VMKEEP_CONFIG names it.

    Raises ConfigurationUnusable.
    """
    file = configuration_file(environment)
    if file is None:
        return Configuration(None, {})
    try:
        with open(file, "rb") as opened:
            content = opened.read(_LARGEST + 1)
    except FileNotFoundError as error:
        if environment.get(CONFIGURATION_VARIABLE):
            raise ConfigurationUnusable(
                f"{CONFIGURATION_VARIABLE} names {str(file)!r}, which does not exist."
            ) from error
        return Configuration(file, {})
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigurationUnusable(f"cannot read the configuration {str(file)!r}: {reason}.") from error
    return Configuration(file, _hosts(file, content))


def _hosts(file: Path, content: bytes) -> dict[str, HostBlock]:
    if len(content) > _LARGEST:
        raise ConfigurationUnusable(f"the configuration {str(file)!r} is larger than {_LARGEST} bytes.")
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationUnusable(f"the configuration {str(file)!r} is not UTF-8 text.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # tomllib names the place, and at most one character there.
        raise ConfigurationUnusable(f"the configuration {str(file)!r} is not TOML: {error}.") from error
    unknown = sorted(set(document) - {"hosts"})
    if unknown:
        raise ConfigurationUnusable(f"{str(file)!r} holds {unknown[0]!r}; only [hosts.NAME] is known.")
    tables = document.get("hosts", {})
    if not isinstance(tables, dict):
        raise ConfigurationUnusable(f"{str(file)!r}: hosts is not a table of hosts, [hosts.NAME].")
    return {name: _Block(file, name).read(table) for name, table in tables.items()}


@dataclass(frozen=True)
class _Block:
    """One table while it is read; refusals name it."""

    file: Path
    name: str

    def read(self, table: object) -> HostBlock:
        if not _NAME.fullmatch(self.name):
            raise self._refuse("a host's name has letters, digits, dots and dashes only")
        if not isinstance(table, dict):
            raise self._refuse("it is not a table")
        for key, value in table.items():
            self._check(key, value)
        if "address" not in table:
            raise self._refuse("address is missing")
        if "password_file" in table and "password_command" in table:
            raise self._refuse("password_file and password_command contradict each other; keep one of them")
        paths = {key: self._path(table[key]) for key in ("password_file", "ca_file") if key in table}
        block = HostBlock(self.name, **{**table, **paths})
        if block.has_password_source and block.user is None:
            raise self._refuse("a password is there, but no user")
        if not 0 < block.smb_port < 65536:
            raise self._refuse("smb_port is not a TCP port")
        try:
            block.path_map()
            # Without the account: whether that is complete is known when the password was asked for.
            Endpoint(
                address=block.address,
                transport=block.transport,
                port=block.port,
                auth=block.auth,
                ca_file=block.ca_file,
            )
        except (EndpointUnusable, BadPathMap) as error:
            raise self._refuse(error.message.rstrip("."), error.hint) from error
        return block

    def _check(self, key: str, value: Any) -> None:
        if key == "password":
            raise self._refuse(
                "a password stands in it",
                "Secrets do not belong there: put it into a file of your own and name that as password_file, "
                "or name a program that prints it as password_command.",
            )
        if key not in _KEYS:
            raise self._refuse(f"{key!r} is unknown; known are {', '.join(_KEYS)}")
        wanted = _KEYS[key]
        # bool is a kind of int in Python, not in TOML.
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise self._refuse(f"{key} is not {_IN_WORDS[wanted]}")
        texts = [value] if isinstance(value, str) else []
        if isinstance(value, dict):
            texts = [*value, *value.values()]
            if not all(isinstance(text, str) for text in texts):
                raise self._refuse(f"{key} is not {_IN_WORDS[dict]}")
        if any(not text or _CONTROL.search(text) for text in texts):
            raise self._refuse(f"{key} is empty or holds a control character")

    def _path(self, text: str) -> Path:
        # "~user" of a user who does not exist stays as it is, and is missing then.
        return self.file.parent / os.path.expanduser(text)

    def _refuse(self, reason: str, hint: str | None = None) -> ConfigurationUnusable:
        return ConfigurationUnusable(f"{str(self.file)!r}, [hosts.{self.name}]: {reason}.", hint=hint)


def _others_may_read(file: Path) -> bool:
    """Tell whether a file's mode lets others in; on Windows its folder says who may, not a mode."""
    if os.name == "nt":
        return False
    try:
        return bool(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False  # that it cannot be read is told when the password is fetched
