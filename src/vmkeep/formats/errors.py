"""What can be wrong with a disk file, each with the place and the rule."""

from typing import ClassVar

from vmkeep.errors import ExitCode, Retry, VmkeepError


class FormatError(VmkeepError):
    """A disk file cannot be trusted or understood; never raised for a mere suspicion.

    The message names the file and what it means for the user; ``offset`` (bytes
    into the file, None where no single place is to blame) and ``rule`` (section
    of the specification) tell an expert where to look.
    """

    code = "FM000"

    def __init__(
        self, message: str, *, file: str, offset: int | None = None, rule: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, file=file, offset=offset, rule=rule)
        self.file = file
        self.offset = offset
        self.rule = rule


class NotADisk(FormatError):
    """The file is not a virtual disk of a format vmkeep reads."""

    code = "FM001"
    default_hint = "Give a VHD, VHDX, AVHDX or raw disk file."


class UnsupportedDisk(FormatError):
    """The file is recognised, but uses something vmkeep refuses to guess about."""

    code = "FM002"
    default_hint = "Convert the disk to VHDX with the tool that made it."


class CorruptDisk(FormatError):
    """The file breaks a rule of its format; reading on could return wrong bytes."""

    code = "FM003"
    exit_code: ClassVar[ExitCode] = ExitCode.MISMATCH
    default_hint = "Run `vmkeep disk check` on the file and restore it from an earlier restore point."


class TruncatedDisk(CorruptDisk):
    """The file ends before what its own tables promise."""

    code = "FM004"
    default_hint = "Copy the file again; the copy was cut or is still being written."


class ParentMissing(FormatError):
    """A differencing disk names a parent that is not among the files given."""

    code = "FM005"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Put the parent file into the same folder, under the name it had on the host."


class ParentMismatch(FormatError):
    """The parent found was written after the child was made, or is another disk."""

    code = "FM006"
    exit_code: ClassVar[ExitCode] = ExitCode.MISMATCH
    default_hint = "Find the parent as it was when the child was made; merging these two would corrupt data."


class SourceChanged(FormatError):
    """The file was written, replaced or cut while it was being read."""

    code = "FM007"
    retry: ClassVar[Retry] = Retry.LATER
    default_hint = (
        "Stop what writes to the file (shut the VM down or export it again), then repeat the backup."
    )


class SourceUnreadable(FormatError):
    """The operating system refused to open or read the file."""

    code = "FM008"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Check that the file exists, that you may read it, and that its medium is healthy."


class TargetUnwritable(FormatError):
    """A disk file cannot be created or written where it was asked for."""

    code = "FM009"
    retry: ClassVar[Retry] = Retry.AFTER_CURE
    default_hint = "Choose a place with enough free space where you may write."
