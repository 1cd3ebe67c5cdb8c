"""What a host's disk services answer when they refuse; each error carries the code Windows gives."""

from typing import ClassVar


class DiskError(Exception):
    """A disk operation that the simulated host refuses; ``code`` is the HRESULT a caller sees.

    The codes are the FACILITY_VIRTUALIZATION_STORAGE values of winerror.h
    (0xC03A....), which are HRESULTs already, and wrapped Win32 codes (0x8007....).
    """

    code: ClassVar[int] = 0x80004005  # E_FAIL


class NotAVirtualDisk(DiskError):
    """The file does not begin like a VHDX file: ERROR_VIRTDISK_NOT_VIRTUAL_DISK."""

    code = 0xC03A0015


class DiskCorrupt(DiskError):
    """The file breaks a rule of [MS-VHDX] that reading it needs: ERROR_VHD_METADATA_READ_FAILURE."""

    code = 0xC03A0010


class ParentNotFound(DiskError):
    """No path of the parent locator leads to a file: ERROR_VHD_PARENT_VHD_NOT_FOUND."""

    code = 0xC03A000D


class ParentChanged(DiskError):
    """The parent was written since the child was made: ERROR_VHD_CHILD_PARENT_ID_MISMATCH."""

    code = 0xC03A000E


class ChainCycle(DiskError):
    """A file is its own ancestor: ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED."""

    code = 0xC03A0018


class LayerInUse(DiskError):
    """The layer may not be changed or removed now: ERROR_SHARING_VIOLATION."""

    code = 0x80070020


class NoSuchLayer(DiskError):
    """The file is not a layer of this disk: ERROR_FILE_NOT_FOUND."""

    code = 0x80070002


class BadRequest(DiskError):
    """Offset or length outside the disk or not of whole sectors: ERROR_INVALID_PARAMETER."""

    code = 0x80070057


class TrackingIdInvalid(DiskError):
    """The text is no change tracking id at all: ERROR_VHD_INVALID_CHANGE_TRACKING_ID."""

    code = 0xC03A0029


class TrackingOff(DiskError):
    """Nobody has switched change tracking on: ERROR_VHD_CHANGE_TRACKING_DISABLED."""

    code = 0xC03A002A


class TrackingLost(DiskError):
    """The id is well formed and nothing is known of it: ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION.

    What a disk answers that was restored, converted, or moved without its
    tracking files, and for an id of another disk (hyperv-backup-api.md 2.3 step 6).
    """

    code = 0xC03A0030
