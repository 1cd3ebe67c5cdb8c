"""Secrets enter by file, command or environment, and show nowhere."""

import pickle
import sys
from pathlib import Path

import pytest

from vmkeep.errors import ExitCode, UsageError
from vmkeep.secrets import Secret, SecretUnavailable, read_password

pytestmark = pytest.mark.quick


def test_a_secret_shows_nothing_of_itself() -> None:
    secret = Secret("Zebra-42")
    for text in (repr(secret), str(secret), f"{secret}", f"{[secret]}", repr({"password": secret})):
        assert "Zebra" not in text
    assert secret.reveal() == b"Zebra-42"
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_bytes_that_are_no_text_survive_the_environment() -> None:
    assert Secret("p\udcffw").reveal() == b"p\xffw"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x", b"x"),
        ("x\n", b"x"),
        ("x\r\n", b"x"),
        ("x\n\n", b"x\n"),
        (" x ", b" x "),
        ("\u00e4", b"\xc3\xa4"),
        ("\ufeffx", b"x"),  # how editors on Windows begin UTF-8
    ],
)
def test_one_line_break_at_the_end_is_not_part_of_it(tmp_path: Path, content: str, expected: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    secret = read_password(file=file, command=None, environment={}, variable="P")
    assert secret is not None and secret.reveal() == expected


def test_the_first_place_named_decides(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from-file")
    command = f"{sys.executable} -c \"print('from command')\""
    environment = {"P": "from-environment"}
    places = [(file, None), (None, command), (None, None)]
    got = [read_password(file=f, command=c, environment=environment, variable="P") for f, c in places]
    revealed = [secret.reveal() for secret in got if secret is not None]
    assert revealed == [b"from-file", b"from command", b"from-environment"]
    assert read_password(file=None, command=None, environment={}, variable="P") is None
    with pytest.raises(UsageError, match="--password-command"):
        read_password(file=file, command=command, environment=environment, variable="P")


@pytest.mark.parametrize("command", ["", "'", "/no/such/program", f"{sys.executable} -c exit(3)", "true"])
def test_a_command_that_gives_nothing_is_an_error(command: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        read_password(file=None, command=command, environment={"P": "other"}, variable="P")
    assert caught.value.exit_code is ExitCode.WRONG_KEY


def test_a_command_runs_without_a_shell(tmp_path: Path) -> None:
    secret = read_password(file=None, command=f"echo $HOME; touch {tmp_path}/x", environment={}, variable="P")
    assert secret is not None and secret.reveal().startswith(b"$HOME;")
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_no_text_is_named_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"secret\xff\xfe")
    with pytest.raises(SecretUnavailable, match="password") as caught:
        read_password(file=file, command=None, environment={}, variable="P")
    assert "secret" not in caught.value.message.replace(str(file), "")


def test_a_command_that_prints_no_text_is_said_to_have_run() -> None:
    with pytest.raises(SecretUnavailable, match="printed is not UTF-8") as caught:
        read_password(file=None, command="printf '\\377Zebra'", environment={}, variable="P")
    assert "Zebra" not in str(caught.value.__dict__)


def test_a_command_gets_the_environment_without_the_passwords_in_it(tmp_path: Path) -> None:
    tell = tmp_path / "tell.py"
    tell.write_text("import os\nprint(sorted(n for n in os.environ if n.startswith(('VMKEEP', 'SHELF'))))")
    environment = {
        "SHELF": "3",
        "VMKEEP_REPO": "keep",
        "VMKEEP_PASSWORD": "Zebra-42",
        "VMKEEP_PASSWORD_OF_THE_OTHER": "Zebra-43",
    }
    secret = read_password(
        file=None, command=f"{sys.executable} {tell}", environment=environment, variable="VMKEEP_PASSWORD"
    )
    assert secret is not None and secret.reveal() == b"['SHELF', 'VMKEEP_REPO']"
