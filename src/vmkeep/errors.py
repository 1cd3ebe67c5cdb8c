"""Say what went wrong, whether trying again helps, and what to do next.

Every error vmkeep raises on purpose is a :class:`VmkeepError`. Rooms define
their own leaves next to the code that raises them; a leaf is data: a stable
``code`` that never changes its meaning, the ``exit_code`` of the command line
contract, our judgement on ``retry``, and one sentence of ``hint``.
``docs/errors.md`` is generated from these classes.
"""

from enum import Enum, IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The process exit codes; stable, part of the command line contract."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    REPOSITORY_MISSING = 10
    BUSY = 11
    WRONG_KEY = 12
    HOST_UNREACHABLE = 13
    MISMATCH = 14
    INTERRUPTED = 130
    TERMINATED = 143


class Retry(Enum):
    """Whether the same call can succeed later without a person's help."""

    NEVER = "never"
    NOW = "now"
    LATER = "later"
    AFTER_CURE = "after_cure"


class VmkeepError(Exception):
    """Root of all errors raised on purpose.

    ``message`` is one sentence that names the object concerned; ``hint`` says
    what to do next and may be overridden for one occurrence; ``context`` holds
    the facts (offsets, codes, names) a machine may read.
    """

    code: ClassVar[str] = "VK000"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    retry: ClassVar[Retry] = Retry.NEVER
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.context = context


class UsageError(VmkeepError):
    """The command line asks for something that cannot be meant."""

    code = "VK002"
    exit_code = ExitCode.USAGE
    default_hint = "See the command's --help."


def notes_of(error: BaseException) -> tuple[str, ...]:
    """Return the notes of an error and, before them, those of the errors that were under way when it came.

    Each note once. A signal may come while another error is being told; what that had to say stays said.
    """
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and not any(each is known for known in chain):
            chain.append(each)
            waiting += (each.__context__, each.__cause__)
    notes = (note for each in reversed(chain) for note in getattr(each, "__notes__", ()))
    return tuple(dict.fromkeys(notes))
