"""Why a file of a host cannot be read, each with the path concerned and the way out."""

from typing import ClassVar

from vmkeep.errors import ExitCode, Retry, VmkeepError


class HostFileError(VmkeepError):
    """A file of the host cannot be read; nothing on the host was changed."""

    code = "HF000"


class HostUnreachable(HostFileError):
    """The host's file service gives no answer, or was lost and did not come back in time."""

    code = "HF001"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = (
        "Check address and smb_port of the host in the configuration, its firewall (TCP 445) and the network."
    )


class LoginRefused(HostFileError):
    """The host's file service does not accept the account."""

    code = "HF002"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = (
        "Check user and password of the host; vmkeep does not try again, so that no account gets locked."
    )


class ProtectionImpossible(HostFileError):
    """The host offers no connection that is signed or encrypted as vmkeep needs it."""

    code = "HF003"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = (
        "Give a real account, not guest; let the host offer SMB signing and, if required, encryption."
    )


class DialectUnsupported(HostFileError):
    """The host speaks only a version of SMB that is too old to be trusted."""

    code = "HF004"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Enable SMB 2.1 or later on the host; SMB 1 and 2.0 are never used."


class ShareDenied(HostFileError):
    """The account may not use the share."""

    code = "HF005"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = (
        "Administrative shares need a local administrator with a full token; or share the folder for the "
        "account with read access and name that share under `paths` of the host."
    )


class FileDenied(HostFileError):
    """The account may use the share, but not read this file or folder."""

    code = "HF006"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Give the account the right to read in the access list of the file and its folders."


class FileMissing(HostFileError):
    """The host has no file or folder of this name."""

    code = "HF007"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Check the path, and `paths` of the host if the folder is shared under another name."


class FileInUse(HostFileError):
    """Another program on the host holds the file so that nobody else may read it."""

    code = "HF008"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = (
        "A running VM, a merge, a virus scanner or another program holds it; try again when it has let go."
    )


class AnotherFile(HostFileError):
    """What the path leads to now is not the file that was opened, or it was written meanwhile."""

    code = "HF009"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = (
        "Nothing read from it is kept; repeat the run when nothing replaces or merges the VM's files."
    )


class HostReadFailed(HostFileError):
    """The host reports that it cannot read the file: its disk, its network or its memory failed."""

    code = "HF010"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = "Look at the host's event log (disk, NTFS, ReFS) before you try again."


class BadHostPath(HostFileError):
    """The text is not the path of a file that can be opened safely."""

    code = "HF011"
    default_hint = (
        "Paths are absolute, with a drive letter or \\\\server\\share, without `..`, streams or device names."
    )


class PathNotMapped(HostFileError):
    """The path leads to another server, and nothing says that the account may be shown to it."""

    code = "HF012"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = (
        "Add a line to `paths` of the host, for example '\\\\server\\share' = 'smb://server/share'."
    )


class BadPathMap(HostFileError):
    """A line of `paths` cannot be meant."""

    code = "HF013"
    exit_code: ClassVar[ExitCode] = ExitCode.USAGE
    default_hint = "Write 'C:\\VMs' = 'smb://HOST/Share' or 'C:\\VMs' = 'file:///mnt/vms'."


class FileTooLarge(HostFileError):
    """The file or folder holds more than anything of its kind."""

    code = "HF014"
    default_hint = "Look at it on the host; if it is what it seems to be, please report its size."


class LinkRefused(HostFileError):
    """The path runs through a link, which could lead anywhere."""

    code = "HF015"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Name the folder the link leads to under `paths` of the host."


class AnswerUntrusted(HostFileError):
    """An answer was not signed or encrypted as agreed, or breaks the rules of SMB; nothing of it was used."""

    code = "HF016"
    exit_code: ClassVar[ExitCode] = ExitCode.HOST_UNREACHABLE
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Somebody or something between vmkeep and the host alters what is sent; look for it."


class ShareMissing(HostFileError):
    """The host has no share of this name, or the folder a path is mapped to is not there."""

    code = "HF017"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Share the folder on the host, mount it here, or correct `paths` of the host."
