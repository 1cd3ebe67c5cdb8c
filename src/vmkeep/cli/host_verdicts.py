"""What one check of a host found, and what all of them mean together."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.host.files.errors import FileDenied, ProtectionImpossible, ShareDenied
from vmkeep.host.hyperv.errors import HostDenied, VmAmbiguous, VmNotFound
from vmkeep.host.wsman import (
    ConnectionLost,
    EnumerationLost,
    HostBusy,
    HostNotTrusted,
    HostShuttingDown,
    HostTimedOut,
    HostUnreachable,
    LoginImpossible,
    LoginRefused,
    RightMissing,
)

State = Literal["confirmed", "refuted", "unknown", "skipped"]

# What says nothing about the host's abilities: asked again, it may answer.
_SAYS_NOTHING: Final = (HostBusy, HostTimedOut, HostShuttingDown, ConnectionLost, EnumerationLost)
# What says nothing about the host either: whoever asked for a probe named the VM so.
_NAMES_NO_VM: Final = frozenset({VmNotFound.code, VmAmbiguous.code})
_RIGHTS: Final[tuple[tuple[type[VmkeepError], str], ...]] = (
    (HostUnreachable, "a-listener-with-https"),
    (HostNotTrusted, "a-listener-with-https"),
    (LoginRefused, "the-account"),
    (LoginImpossible, "the-account"),
    (RightMissing, "the-account"),
    (HostDenied, "the-account"),
    (ShareDenied, "the-files"),
    (FileDenied, "the-files"),
    (ProtectionImpossible, "the-files"),
)


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    ``means`` is what a yes would mean, ``fact`` what was seen, in words that name
    nobody; ``subject`` (a folder) and ``detail`` may name VMs and paths. ``needed``: a run cannot do without.
    ``beliefs`` are the rows of docs/believed.md that share the check's outcome.
    ``exit_code`` is what the error behind a refusal stands for.
    """

    name: str
    means: str
    state: State
    fact: str = ""
    detail: str = ""
    hint: str = ""
    error: str = ""
    needed: bool = True
    beliefs: tuple[int, ...] = ()
    exit_code: int = int(ExitCode.OK)
    subject: str = ""

    def as_document(self) -> dict[str, Any]:
        """Return the check as JSON has it."""
        document = asdict(self)
        del document["exit_code"]
        return document


def confirmed(name: str, means: str, fact: str = "", *, beliefs: tuple[int, ...] = ()) -> Check:
    """Say that it is so."""
    return Check(name, means, "confirmed", fact, beliefs=beliefs)


def refuted(
    name: str,
    means: str,
    fact: str,
    *,
    detail: str = "",
    hint: str = "",
    needed: bool = True,
    beliefs: tuple[int, ...] = (),
) -> Check:
    """Say that it is not so."""
    code = int(ExitCode.FAILED)
    return Check(name, means, "refuted", fact, detail, hint, needed=needed, beliefs=beliefs, exit_code=code)


def judged(
    name: str,
    means: str,
    *,
    is_so: bool,
    fact: str,
    detail: str = "",
    hint: str = "",
    needed: bool = True,
    beliefs: tuple[int, ...] = (),
) -> Check:
    """Say whether it is so; detail and hint are for the case that it is not."""
    if is_so:
        return Check(name, means, "confirmed", fact, needed=needed, beliefs=beliefs)
    return refuted(name, means, fact, detail=detail, hint=hint, needed=needed, beliefs=beliefs)


def unknown(
    name: str, means: str, fact: str, *, detail: str = "", hint: str = "", needed: bool = True
) -> Check:
    """Say that it could not be found out."""
    return Check(name, means, "unknown", fact, detail, hint, needed=needed)


def skipped(name: str, means: str, why: str) -> Check:
    """Say that it was not tried."""
    return Check(name, means, "skipped", why, needed=False)


def failed(
    name: str,
    means: str,
    error: VmkeepError,
    *,
    needed: bool = True,
    beliefs: tuple[int, ...] = (),
    is_final: bool = False,
) -> Check:
    """Say what an error means for a check; ``is_final``: also one that may pass is a refusal.

    The fact is the error's code and the promise of its class, for its message may name anything.
    """
    state: State = "unknown" if isinstance(error, _SAYS_NOTHING) and not is_final else "refuted"
    promise = (type(error).__doc__ or "").partition("\n")[0]
    numbers = _numbers_of(error)
    hint = type(error).default_hint
    own = error.hint if error.hint != hint else ""
    anchor = next((place for kind, place in _RIGHTS if isinstance(error, kind)), "")
    return Check(
        name,
        means,
        state,
        fact=f"{promise}{f' ({numbers})' if numbers else ''}",
        detail=f"{error.message} {own}".rstrip(),
        hint=f"{hint} See docs/rights.md#{anchor}." if anchor else hint,
        error=error.code,
        needed=needed,
        beliefs=beliefs,
        exit_code=int(error.exit_code),
    )


def _numbers_of(error: VmkeepError) -> str:
    found = [
        f"{key} {value}"
        for key in ("code", "return_code", "error_code")
        if isinstance(value := error.context.get(key), int)
    ]
    return ", ".join(found)


def exit_code_of(checks: Sequence[Check]) -> ExitCode:
    """Return how the command ends: the worst of what a run needs, else whether anything is weaker."""
    refusals = {check.exit_code for check in _refusals(checks)}
    if int(ExitCode.HOST_UNREACHABLE) in refusals:
        return ExitCode.HOST_UNREACHABLE
    if refusals == {int(ExitCode.USAGE)}:
        return ExitCode.USAGE
    if refusals:
        return ExitCode.FAILED
    if any(check.state == "refuted" or (check.state == "unknown" and check.needed) for check in checks):
        return ExitCode.PARTIAL
    return ExitCode.OK


def summary_of(checks: Sequence[Check]) -> str:
    """Return all of it in one line."""
    states: tuple[State, ...] = ("confirmed", "refuted", "unknown", "skipped")
    counts = ", ".join(f"{sum(check.state == state for check in checks)} {state}" for state in states)
    refusals = list(_refusals(checks))
    if refusals and all(check.error in _NAMES_NO_VM for check in refusals):
        only = "no VM was probed: the name means none, or several; nothing else that a run needs is refuted"
        return f"{only} ({counts})."
    verdict = {
        ExitCode.OK: "vmkeep can work with this host",
        ExitCode.PARTIAL: "vmkeep can work with this host, but something is unknown or weaker",
        ExitCode.HOST_UNREACHABLE: "vmkeep cannot work with this host: it is out of reach or refuses",
    }.get(exit_code_of(checks), "vmkeep cannot work with this host as it is")
    return f"{verdict} ({counts})."


def _refusals(checks: Sequence[Check]) -> Iterator[Check]:
    """Yield what a run needs and does not get."""
    return (check for check in checks if check.state == "refuted" and check.needed)
