"""The configuration file: what is understood, and the one sentence about what is not."""

import os
from pathlib import Path, PurePosixPath

import pytest

from vmkeep.cli.configuration import (
    Configuration,
    ConfigurationUnusable,
    HostNotConfigured,
    HostPasswordUnavailable,
    configuration_file,
    load_configuration,
)
from vmkeep.errors import ExitCode
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.paths import FolderPlace, SharePlace
from vmkeep.host.wsman import EndpointUnusable

pytestmark = pytest.mark.quick

CANARY = "canary-9Kx-parole"
FULL = r"""
[hosts.hv01]
address = "hv01.example.org"
port = 15986
transport = "https"
auth = "kerberos"
user = 'backup@EXAMPLE.ORG'
password_file = "secret/hv01"
ca_file = "ca.pem"
smb_port = 1445
smb_encryption = true
paths = {'C:\VMs' = 'smb://hv01.example.org/VMs$', 'D:\' = 'file:///mnt/d'}

[hosts.short]
address = "10.0.0.5"
"""


def loaded(folder: Path, text: str | bytes) -> Configuration:
    file = folder / "config.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_configuration({"VMKEEP_CONFIG": str(file)})


def test_all_keys_are_understood(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, FULL)
    assert list(configuration.hosts) == ["hv01", "short"]
    host = configuration.find("hv01")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "hv01").write_text(f"{CANARY}\r\n")
    (tmp_path / "secret" / "hv01").chmod(0o600)
    password = host.password({})
    assert password is not None
    assert password.reveal() == CANARY.encode()
    endpoint = host.endpoint(password)
    assert endpoint.url == "https://hv01.example.org:15986/wsman"
    assert (endpoint.user, endpoint.auth, endpoint.ca_file) == (
        "backup@EXAMPLE.ORG",
        "kerberos",
        tmp_path / "ca.pem",
    )
    account = host.credentials(password)
    assert account is not None
    assert (account.user, account.auth) == ("backup@EXAMPLE.ORG", "kerberos")
    assert (host.smb_port, host.smb_encryption) == (1445, True)
    assert host.path_map().place("c:\\vms\\a.vhdx") == SharePlace(
        "hv01.example.org", None, "VMs$", ("a.vhdx",)
    )
    assert host.path_map().place("D:\\b") == FolderPlace(Path("/mnt/d"), ("b",))
    assert host.warnings() == []
    assert CANARY not in repr((configuration, endpoint, account, password))


def test_what_is_left_out(tmp_path: Path) -> None:
    host = loaded(tmp_path, FULL).find("short")
    assert host.endpoint(None).url == "https://10.0.0.5:5986/wsman"
    assert (host.auth, host.smb_port, host.smb_encryption) == ("negotiate", 445, False)
    assert host.password({}) is None
    assert host.credentials(None) == Credentials(None, None, "negotiate")
    assert host.path_map().place("C:\\x") == SharePlace("", None, "C$", ("x",))


BLOCK = '[hosts.a]\naddress = "h"\n'
# Each: the file, and what the sentence must say.
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no TOML": (b"[hosts.a\n", "not TOML"),
    "no text": (b"\xff\xfe[", "not UTF-8"),
    "too large": (b"#" * (1 << 20) + b"\n", "larger than"),
    "endless nesting": (b"a = " + b"[" * 5000, "not TOML"),
    "another table": (b"[repository]\nx = 1\n", "'repository'"),
    "hosts is no table": (b"hosts = 3\n", "hosts is not a table"),
    "a host is no table": (b"[hosts]\na = 3\n", "[hosts.a]: it is not a table"),
    "a name for a path": (b'[hosts."a/b"]\naddress = "h"\n', "letters, digits"),
    "a name that steers": (b'[hosts."\\u001b[31m"]\naddress = "h"\n', "letters, digits"),
    "no address": (b"[hosts.a]\nport = 5986\n", "address is missing"),
    "an empty address": (b'[hosts.a]\naddress = ""\n', "address is empty"),
    "an address that is a URL": (b'[hosts.a]\naddress = "https://h"\n', "not a host name"),
    "a word not known": (f"{BLOCK}pasword_file = 'x'\n", "'pasword_file' is unknown"),
    "the password itself": (f"{BLOCK}password = '{CANARY}'\n", "a password stands in it"),
    "both sources": (f"{BLOCK}user='u'\npassword_file='x'\npassword_command='y'\n", "contradict"),
    "a source without a user": (f"{BLOCK}password_file='x'\n", "no user"),
    "a port as text": (f"{BLOCK}port = '5986'\n", "port is not a whole number"),
    "a port that is true": (f"{BLOCK}port = true\n", "port is not a whole number"),
    "a port out of range": (f"{BLOCK}port = 70000\n", "not a TCP port"),
    "port 0": (f"{BLOCK}port = 0\n", "not a TCP port"),
    "an smb_port out of range": (f"{BLOCK}smb_port = 0\n", "smb_port is not a TCP port"),
    "another transport": (f"{BLOCK}transport = 'ftp'\n", "transport is 'ftp'"),
    "Basic": (f"{BLOCK}auth = 'basic'\n", "auth is 'basic'"),
    "http with a certificate": (f"{BLOCK}transport = 'http'\nca_file = 'x'\n", "has no certificates"),
    "encryption as text": (f"{BLOCK}smb_encryption = 'yes'\n", "not true or false"),
    "paths as text": (f"{BLOCK}paths = 'C:'\n", "not a table of texts"),
    "paths to a number": (f"{BLOCK}paths = {{'C:\\VMs' = 3}}\n", "not a table of texts"),
    "paths to nowhere": (f"{BLOCK}paths = {{'C:\\VMs' = 'ftp://h/x'}}\n", "neither smb://HOST/SHARE"),
    "paths from nowhere": (f"{BLOCK}paths = {{'VMs' = 'smb://h/x'}}\n", "not a folder of a host"),
    "a null in a file's name": (f'{BLOCK}user = "u"\npassword_file = "a\\u0000b"\n', "control character"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path) -> None:
    content, says = REFUSED[mistake]
    with pytest.raises(ConfigurationUnusable) as caught:
        loaded(tmp_path, content)
    assert says in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint
    assert CANARY not in caught.value.message + caught.value.hint + repr(caught.value.__cause__)


def test_a_password_in_the_file_is_told_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationUnusable) as caught:
        loaded(tmp_path, REFUSED["the password itself"][0])
    assert "password_file" in caught.value.hint
    assert "password_command" in caught.value.hint


def test_a_broken_line_does_not_tell_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationUnusable) as caught:
        loaded(tmp_path, f"{BLOCK}password = {CANARY}\n")
    assert CANARY not in caught.value.message


def test_a_host_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(HostNotConfigured, match=r"'hv02' in '.*config\.toml'; there is 'hv01', 'short'\."):
        loaded(tmp_path, FULL).find("hv02")
    with pytest.raises(HostNotConfigured, match="there is none"):
        loaded(tmp_path, "").find("hv02")


def test_an_account_that_is_not_complete(tmp_path: Path) -> None:
    host = loaded(tmp_path, f"{BLOCK}auth = 'ntlm'\nuser = 'u'\n").find("a")
    with pytest.raises(EndpointUnusable, match="needs a user and a password"):
        host.endpoint(None)


@pytest.mark.parametrize(
    ("source", "says"),
    [("password_file = 'missing'", "password file"), ("password_command = 'false'", "exit code 1")],
)
def test_a_password_that_cannot_be_had(source: str, says: str, tmp_path: Path) -> None:
    host = loaded(tmp_path, f"{BLOCK}user = 'u'\n{source}\n").find("a")
    with pytest.raises(HostPasswordUnavailable, match=says) as caught:
        host.password(os.environ)
    assert "[hosts.a]" in caught.value.message
    assert caught.value.exit_code is ExitCode.FAILED


def test_a_password_command_does_not_see_the_repository_password(tmp_path: Path) -> None:
    host = loaded(tmp_path, f"{BLOCK}user = 'u'\npassword_command = 'env'\n").find("a")
    password = host.password({**os.environ, "VMKEEP_PASSWORD": CANARY})
    assert password is not None
    assert CANARY.encode() not in password.reveal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_password_file_that_others_read_is_warned_of(mode: int, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(CANARY)
    (tmp_path / "p").chmod(mode)
    (warning,) = loaded(tmp_path, f"{BLOCK}user = 'u'\npassword_file = 'p'\n").find("a").warnings()
    assert "other users of this machine may read" in warning


def test_http_is_warned_of(tmp_path: Path) -> None:
    (warning,) = loaded(tmp_path, f"{BLOCK}transport = 'http'\n").find("a").warnings()
    assert "uses http" in warning


@pytest.mark.skipif(os.name == "nt", reason="the places on Windows are others")
@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"VMKEEP_CONFIG": "/c.toml", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/c.toml"),
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/vmkeep/config.toml"),
        ({"HOME": "/h"}, "/h/.config/vmkeep/config.toml"),
    ],
)
def test_where_the_file_is(environment: dict[str, str], place: str) -> None:
    assert configuration_file(environment) == Path(PurePosixPath(place))


def test_no_file_is_no_host_unless_it_was_named(tmp_path: Path) -> None:
    assert load_configuration({"HOME": str(tmp_path)}).hosts == {}
    assert load_configuration({}).file is None
    with pytest.raises(ConfigurationUnusable, match="does not exist"):
        load_configuration({"VMKEEP_CONFIG": str(tmp_path / "no.toml")})
    with pytest.raises(ConfigurationUnusable, match="cannot read"):
        load_configuration({"VMKEEP_CONFIG": str(tmp_path)})


def test_a_relative_file_begins_at_the_configuration(tmp_path: Path) -> None:
    host = loaded(tmp_path, f"{BLOCK}user = 'u'\npassword_file = '/abs'\n").find("a")
    assert host.password_file == Path("/abs")
