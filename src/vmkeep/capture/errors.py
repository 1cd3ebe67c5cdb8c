"""Why a VM could not be held still."""

from vmkeep.errors import Retry, VmkeepError


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
