"""What a store may refuse, each with the name concerned and the way out."""

import errno
from typing import ClassVar, Final

from vmkeep.errors import ExitCode, Retry, VmkeepError


class StoreError(VmkeepError):
    """A store cannot do what was asked; nothing half-done is visible in it."""

    code = "OS000"


class ObjectMissing(StoreError):
    """No object has this name."""

    code = "OS001"
    default_hint = "Run `vmkeep repo check` on the repository; another process may have removed the object."


class ObjectExists(StoreError):
    """The name already holds other content, and objects are never overwritten."""

    code = "OS002"
    default_hint = "Run `vmkeep repo check`; something else than vmkeep may be writing to this place."


class ObjectShort(StoreError):
    """The object ends before the range asked for."""

    code = "OS003"
    exit_code: ClassVar[ExitCode] = ExitCode.MISMATCH
    default_hint = "Run `vmkeep repo check` on the repository; the object was cut after it was stored."


class BadObjectName(StoreError):
    """The name is not one that every back end can keep."""

    code = "OS004"
    default_hint = "This is a defect of vmkeep or of the repository's content; please report the name."


class StoreMissing(StoreError):
    """Nothing is at the address."""

    code = "OS005"
    exit_code: ClassVar[ExitCode] = ExitCode.REPOSITORY_MISSING
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = (
        "Check the address and that the disk or share is mounted; `vmkeep repo init` makes a new one."
    )


class StoreReadOnly(StoreError):
    """The store can be read but refuses to be written."""

    code = "OS006"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Give the account that runs vmkeep the right to write there, or mount the place writable."


class StoreFull(StoreError):
    """The store has no room for the object; nothing of it is kept."""

    code = "OS007"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Free space or raise the quota there, then start the command again."


class StoreUnavailable(StoreError):
    """The store gave no answer, or an error that may pass; the request may or may not have been done."""

    code = "OS008"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = "Check the disk, the mount or the network, then start the command again."


class StoreUnsupported(StoreError):
    """The store lacks something without which restore points would not be safe in it."""

    code = "OS009"
    exit_code: ClassVar[ExitCode] = ExitCode.BUSY
    default_hint = "Keep the repository in another place, for example a folder on ext4, XFS, Btrfs or NTFS."


class StoreForbidden(StoreError):
    """The store refuses to let the object be read."""

    code = "OS010"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Give the account that runs vmkeep the right to read everything in the store."


class ObjectUnreadable(StoreError):
    """An object is there and cannot be read, while the store itself answers."""

    code = "OS011"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = "Look at the health of the disk below the store, and run `vmkeep repo check`."


# RLIMIT_FSIZE and the largest file of a file system answer EFBIG: no room for this object either.
_FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
# A sector that is gone, a checksum of the file system, a mode: what may be wrong with one file alone.
OF_ONE_FILE: Final = _DENIED | {errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}
# Another process has the file open in a way that forbids this; Windows says EACCES for it.
_WINDOWS_IN_USE: Final = frozenset({32, 33})


def explain_os_error(error: OSError, action: str, *, address: str, writing: bool) -> StoreError:
    """Return the leaf that says what the operating system's answer means here.

    ``action`` completes "cannot ..."; absence (ENOENT) is the caller's to judge.
    """
    reason = (error.strerror or type(error).__name__).lower()
    message = f"cannot {action} in {address!r}: {reason}."
    leaf: type[StoreError] = StoreUnavailable
    if getattr(error, "winerror", None) in _WINDOWS_IN_USE:
        leaf = StoreUnavailable
    elif error.errno in _FULL:
        leaf = StoreFull
    elif error.errno == errno.EROFS:
        leaf = StoreReadOnly
    elif error.errno in _DENIED:
        leaf = StoreReadOnly if writing else StoreForbidden
    elif error.errno == errno.ENAMETOOLONG:
        leaf = BadObjectName
    return leaf(message, address=address, errno=error.errno)
