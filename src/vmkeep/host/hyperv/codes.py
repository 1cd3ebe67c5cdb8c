"""Judge a host's numbers: return codes, job error codes, and HRESULTs inside its sentences.

The tables are hyperv-backup-api.md section 2.2 and failures.md sections 3.1 to
3.3. A job's ErrorCode has 16 bits and says little; the HRESULT that caused it
stands only in its texts, in the same spelling in every language. So an HRESULT
decides if we know it, else the code. The sentences themselves never do.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from vmkeep.host.hyperv.errors import (
    ChainAtRisk,
    FileInUse,
    GuestNotQuiesced,
    HostDenied,
    HostOutOfSpace,
    HyperVError,
    NotSupported,
    OperationFailed,
    RequestRefused,
    ServiceLogonMissing,
    TrackingLost,
    VmBusy,
)

DONE: Final = 0
JOB_STARTED: Final = 4096
INVALID_PARAMETER: Final = 32773

_HRESULT: Final = re.compile(r"(?<![0-9A-Za-z])0[xX]([0-9A-Fa-f]{8})(?![0-9A-Fa-f])")
_MOST_TEXT: Final = 16_384


class Judgement(NamedTuple):
    """What a number means, in our words, and the error it becomes."""

    meaning: str
    error: type[HyperVError]


RETURN_CODES: Final[Mapping[int, Judgement]] = {
    1: Judgement("not supported", NotSupported),
    2: Judgement("a failure without a reason", OperationFailed),
    3: Judgement("timed out inside the host", OperationFailed),
    4: Judgement("invalid parameter", RequestRefused),
    5: Judgement("invalid state", VmBusy),
    6: Judgement("invalid type", RequestRefused),
    32768: Judgement("a failure without a reason", OperationFailed),
    32769: Judgement("access denied", HostDenied),
    32770: Judgement("not supported", NotSupported),
    32771: Judgement("status unknown", OperationFailed),
    32772: Judgement("timed out inside the host", OperationFailed),
    INVALID_PARAMETER: Judgement("invalid parameter", RequestRefused),
    32774: Judgement("in use", VmBusy),
    32775: Judgement("invalid state", VmBusy),
    32776: Judgement("incorrect data type", RequestRefused),
    32777: Judgement("not available", VmBusy),
    32778: Judgement("out of memory", OperationFailed),
    32779: Judgement("file not found or in use", OperationFailed),
}

# In the order of weight: when several stand in the texts, the first one here decides.
HRESULTS: Final[Mapping[int, Judgement]] = {
    0x80048102: Judgement("the checkpoint's fork could not be committed", ChainAtRisk),
    0x800480BD: Judgement("replication's change tracking failed", ChainAtRisk),
    0x800480BC: Judgement("replication needs a resync", ChainAtRisk),
    0x800703EE: Judgement("a volume changed under an open file", ChainAtRisk),
    0xC03A0030: Judgement("the disk has no such change tracking", TrackingLost),
    0xC03A0029: Judgement("the change tracking id is invalid", TrackingLost),
    0xC03A002A: Judgement("change tracking is switched off", TrackingLost),
    0x8007052F: Judgement("the right to log on as a service is missing", ServiceLogonMissing),
    0x80070569: Judgement("the right to log on as a service is missing", ServiceLogonMissing),
    0x80070070: Judgement("the volume is full", HostOutOfSpace),
    0x8004231F: Judgement("the area for shadow copies is full", HostOutOfSpace),
    0x80070005: Judgement("access denied", HostDenied),
    0x80041003: Judgement("access denied", HostDenied),
    0x80070020: Judgement("a file is open elsewhere", FileInUse),
    0x800700AA: Judgement("a file is in use", FileInUse),
    0x80042316: Judgement("another shadow copy is being made", VmBusy),
    0x800423F0: Judgement("the guest's set of volumes is inconsistent", GuestNotQuiesced),
    0x800423F1: Judgement("a writer in the guest ran out of resources", GuestNotQuiesced),
    0x800423F2: Judgement("a writer in the guest timed out", GuestNotQuiesced),
    0x800423F3: Judgement("a writer in the guest failed for now", GuestNotQuiesced),
    0x800423F4: Judgement("a writer in the guest failed", GuestNotQuiesced),
    0x800423F5: Judgement("the guest's checkpoint could not be recovered", GuestNotQuiesced),
    0x80042306: Judgement("the guest's shadow copy provider refused", GuestNotQuiesced),
    0x8004230F: Judgement("the guest's shadow copy provider failed", GuestNotQuiesced),
    0x80042313: Judgement("the guest could not flush its writes in time", GuestNotQuiesced),
    0x80042314: Judgement("the guest could not hold its writes in time", GuestNotQuiesced),
    0x80042319: Judgement("a writer in the guest does not answer", GuestNotQuiesced),
    0x80070032: Judgement("not supported", NotSupported),
}


def hresults_in(texts: Iterable[str]) -> tuple[int, ...]:
    """Return the failure HRESULTs spelled ``0x........`` in a host's sentences, in order, each once."""
    found: dict[int, None] = {}
    for text in texts:
        for match in _HRESULT.finditer(text[:_MOST_TEXT]):
            number = int(match[1], 16)
            if number & 0x8000_0000:  # success codes have the top bit clear
                found[number] = None
    return tuple(found)


def judge(code: int, hresults: Iterable[int] = ()) -> Judgement:
    """Say what a return or error code means; an HRESULT we know weighs more than the code."""
    numbers = {*hresults, code}
    for number, judgement in HRESULTS.items():
        if number in numbers:
            return judgement
    return RETURN_CODES.get(code, Judgement("an unknown code", OperationFailed))


def refusal(subject: str, code: int) -> HyperVError:
    """Make the error of a method that returned ``code``; ``subject`` says what was being done."""
    meaning, error = judge(code)
    return error(
        f"{subject}: the host answers {spelled(code)}, {meaning}.", subject=subject, return_code=code
    )


def spelled(code: int) -> str:
    """Write an HRESULT in hexadecimal digits and a small code in decimal ones."""
    return f"0x{code:08X}" if code > 0xFFFF else str(code)
