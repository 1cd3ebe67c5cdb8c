"""Judge what a server's status number means ([MS-ERREF] 2.3.1); numbers decide, never texts."""

from enum import Enum
from typing import Final

from vmkeep.host.files.errors import (
    BadHostPath,
    FileDenied,
    FileInUse,
    FileMissing,
    HostFileError,
    HostReadFailed,
    LinkRefused,
    ShareDenied,
    ShareMissing,
)

BUFFER_OVERFLOW: Final = 0x8000_0005
NO_MORE_FILES: Final = 0x8000_0006
NOT_SUPPORTED: Final = 0xC000_00BB
INVALID_PARAMETER: Final = 0xC000_000D
INVALID_DEVICE_REQUEST: Final = 0xC000_0010
NO_SUCH_FILE: Final = 0xC000_000F
END_OF_FILE: Final = 0xC000_0011
BUFFER_TOO_SMALL: Final = 0xC000_0023
ACCESS_DENIED: Final = 0xC000_0022

# The file system does not answer this question at all.
UNANSWERED: Final = frozenset({NOT_SUPPORTED, INVALID_DEVICE_REQUEST, INVALID_PARAMETER})
# Only this handle is gone: closed by an administrator, or by the file system.
HANDLE_GONE: Final = frozenset(
    {
        0xC000_0008,  # INVALID_HANDLE
        0xC000_0128,  # FILE_CLOSED
        0xC000_0467,  # FILE_NOT_AVAILABLE: a cluster moves the volume
        0xC000_026E,  # VOLUME_DISMOUNTED
    }
)
# The connection or what was agreed on it is gone; a new one may do.
CONNECTION_GONE: Final = frozenset(
    {
        0xC000_00B5,  # IO_TIMEOUT
        0xC000_00C9,  # NETWORK_NAME_DELETED
        0xC000_0203,  # USER_SESSION_DELETED
        0xC000_0205,  # INSUFF_SERVER_RESOURCES
        0xC000_020C,  # CONNECTION_DISCONNECTED
        0xC000_020D,  # CONNECTION_RESET
        0xC000_0236,  # CONNECTION_REFUSED
        0xC000_035C,  # NETWORK_SESSION_EXPIRED
        0xC000_0466,  # SERVER_UNAVAILABLE
    }
)
IN_USE: Final = frozenset(
    {
        0xC000_0043,  # SHARING_VIOLATION
        0xC000_0054,  # FILE_LOCK_CONFLICT
    }
)


class Step(Enum):
    """What was asked for when the answer came."""

    SHARE = "use the share"
    OPEN = "open"
    READ = "read"


_SHARE: Final[dict[int, type[HostFileError]]] = {
    ACCESS_DENIED: ShareDenied,
    0xC000_00CC: ShareMissing,  # BAD_NETWORK_NAME
    0xC000_00CA: ShareDenied,  # NETWORK_ACCESS_DENIED
}
_FILE: Final[dict[int, type[HostFileError]]] = {
    ACCESS_DENIED: FileDenied,
    0xC000_0061: FileDenied,  # PRIVILEGE_NOT_HELD
    0xC000_A100: FileDenied,  # ENCRYPTED: EFS, and not by this account
    NO_SUCH_FILE: FileMissing,
    0xC000_0034: FileMissing,  # OBJECT_NAME_NOT_FOUND
    0xC000_003A: FileMissing,  # OBJECT_PATH_NOT_FOUND
    0xC000_0056: FileMissing,  # DELETE_PENDING
    0xC000_0225: FileMissing,  # NOT_FOUND
    0xC000_0103: FileMissing,  # NOT_A_DIRECTORY
    0xC000_00BA: BadHostPath,  # FILE_IS_A_DIRECTORY
    0xC000_0033: BadHostPath,  # OBJECT_NAME_INVALID
    0xC000_0039: BadHostPath,  # OBJECT_PATH_INVALID
    0xC000_003B: BadHostPath,  # OBJECT_PATH_SYNTAX_BAD
    0x8000_002D: LinkRefused,  # STOPPED_ON_SYMLINK
    0xC000_0257: LinkRefused,  # PATH_NOT_COVERED: behind a DFS link
    **dict.fromkeys(IN_USE, FileInUse),
}
_DFS_HINT: Final = "The path lies behind DFS; name the real server and share under `paths` of the host."


def explain_status(status: int, step: Step, name: str, share: str) -> HostFileError:
    """Return the leaf that says what the host's answer to this step means."""
    if step is Step.SHARE:
        leaf = _SHARE.get(status, HostReadFailed)
        return leaf(
            f"the host does not let {share!r} be used (status 0x{status:08X}).", share=share, status=status
        )
    leaf = _FILE.get(status, HostReadFailed)
    hint = _DFS_HINT if status == 0xC000_0257 else None
    return leaf(f"cannot {step.value} {name!r} (status 0x{status:08X}).", hint=hint, path=name, status=status)
