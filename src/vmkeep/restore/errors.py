"""Why something could not be brought back."""

from typing import ClassVar

from vmkeep.errors import ExitCode, Retry, VmkeepError


class RestoreError(VmkeepError):
    """Something about bringing data back."""

    code = "RS000"


class NoSuchDisk(RestoreError):
    """No disk of the restore point answers to this name, or more than one."""

    code = "RS001"
    default_hint = "`vmkeep show POINT` lists its disks by number and name."


class OneDiskNeeded(RestoreError):
    """A single file or stream can take one disk only."""

    code = "RS002"
    default_hint = "Choose one with --disk N, or give a folder to restore all of them."


class TargetRefused(RestoreError):
    """The place to restore to cannot be used."""

    code = "RS003"
    retry = Retry.AFTER_CURE
    default_hint = "Choose another place; existing files are never overwritten."


class MisleadingName(RestoreError):
    """The new file's name promises another format than the one asked for."""

    code = "RS004"
    exit_code: ClassVar[ExitCode] = ExitCode.USAGE
    default_hint = "Let name and format agree: a file named wrongly would be refused later."
