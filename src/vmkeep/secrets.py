"""Carry secrets without showing them, and fetch them from where users keep them.

A secret enters through a file, a command or the environment, never through an
argument: arguments are visible to every user of the machine.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vmkeep.errors import ExitCode, UsageError, VmkeepError

_COMMAND_TIMEOUT_S: Final = 60
_SECRET_VARIABLES: Final = "VMKEEP_PASSWORD"  # what begins so is a secret or says where one is


class SecretUnavailable(VmkeepError):
    """The place that should hold a password did not give one."""

    code = "VK012"
    exit_code = ExitCode.WRONG_KEY
    default_hint = "Give --password-file, --password-command, or set VMKEEP_PASSWORD."


class Secret:
    """A text that prints as ``***``; :meth:`reveal` is the one way to the bytes."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the secret's UTF-8 bytes."""
        return self._value.encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


def read_password(
    *, file: Path | None, command: str | None, environment: Mapping[str, str], variable: str
) -> Secret | None:
    """Return the password from the first place named: file, command, environment.

    None when no place was named. The last line break is not part of it.
    Raises :class:`SecretUnavailable` when a place was named but gave nothing,
    and UsageError for a file and a command at once.
    """
    if file is not None and command is not None:
        raise UsageError("--password-file and --password-command contradict each other: give one of them.")
    if file is not None:
        return _from_file(file)
    if command is not None:
        return _from_command(command, environment)
    if variable in environment:
        return _checked(environment[variable], f"the environment variable {variable}")
    return None


def _from_file(file: Path) -> Secret:
    try:
        text = file.read_text("utf-8-sig")  # editors on Windows begin UTF-8 with a mark of three bytes
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SecretUnavailable(f"cannot read the password file {str(file)!r}: {reason}.") from error
    return _checked(text, f"the password file {str(file)!r}")


def _from_command(command: str, environment: Mapping[str, str]) -> Secret:
    # The program is asked for one password; others are none of its business.
    given = {name: text for name, text in environment.items() if not name.startswith(_SECRET_VARIABLES)}
    # Split like a shell would, but no shell runs it: nothing is expanded. On Windows each program
    # splits its own command line, so it gets the very one that was written.
    try:
        arguments = command if os.name == "nt" else shlex.split(command)
        done = subprocess.run(
            arguments,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise SecretUnavailable(f"the password command ended with exit code {error.returncode}.") from error
    except subprocess.TimeoutExpired as error:
        raise SecretUnavailable(f"the password command gave no answer in {_COMMAND_TIMEOUT_S} s.") from error
    except (OSError, ValueError, IndexError) as error:
        raise SecretUnavailable("the password command cannot be started.") from error
    try:
        text = done.stdout.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SecretUnavailable("what the password command printed is not UTF-8 text.") from error
    return _checked(text, "the password command")


def _checked(text: str, place: str) -> Secret:
    password = text.removesuffix("\n").removesuffix("\r")
    if not password:
        raise SecretUnavailable(f"{place} holds an empty password.")
    return Secret(password)
