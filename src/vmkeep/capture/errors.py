"""Why a VM could not be held still."""

from typing import Final

from vmkeep.errors import ExitCode, Retry, VmkeepError
from vmkeep.formats.errors import FormatError
from vmkeep.host.files.errors import HostReadFailed

MISREAD: Final = (FormatError, HostReadFailed)
"""What reading what is held raises; the hold's ``check()`` tells whether it changed, or was so before."""


class CaptureError(VmkeepError):
    """Something about holding a VM."""

    code = "CP000"


class NothingToHold(CaptureError):
    """The source holds no virtual disk."""

    code = "CP001"
    default_hint = "Give a folder with VHD, VHDX, AVHDX or raw files, or one such file with disk:FILE."


class SourceRefused(CaptureError):
    """The source holds something that would be left out without a word."""

    code = "CP003"
    retry = Retry.AFTER_CURE
    default_hint = "Put the disk itself into the folder, or protect it with disk:FILE."


class SourceMissing(CaptureError):
    """The folder or file that should be read is not there or cannot be entered."""

    code = "CP002"
    retry = Retry.AFTER_CURE
    default_hint = "Check the path and your rights."


class HoldLimitReached(CaptureError):
    """A VM was held for longer than allowed, or its host runs out of space under the hold."""

    code = "CP004"
    exit_code = ExitCode.PARTIAL
    retry = Retry.LATER
    default_hint = "Free space on the host, or allow more time with --max-hold; the VM runs on undisturbed."


class HandlesOpen(CaptureError):
    """Files of the VM may still be open on the host, which could not merge the checkpoint then."""

    code = "CP005"
    retry = Retry.LATER
    default_hint = "Find what keeps the connection to the host's files; the host closes them with it."


class NothingFrozen(CaptureError):
    """The host made a checkpoint, and not one disk of the VM can be read in it."""

    code = "CP006"
    default_hint = "Pass-through disks and disks without a file need an agent inside the guest."


class LeftBehind(CaptureError):
    """Something a run made on the host could not be removed."""

    code = "CP007"
    retry = Retry.LATER
    default_hint = "`vmkeep sweep hyperv://HOST --repo REPOSITORY` removes it; the next run tries, too."


class ProbeUnderWay(CaptureError):
    """Another process of this machine probes this host just now."""

    code = "CP020"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = "Wait until it has ended; one probe of a host at a time is enough."


class ProbeUnnoted(CaptureError):
    """What a probe is about to change on a host cannot be written down, or read, on this machine."""

    code = "CP021"
    retry = Retry.AFTER_CURE
    default_hint = (
        "Make the folder that VMKEEP_STATE_DIR names writable for this user: without its journal nobody "
        "would know what a probe that dies leaves on the host."
    )
