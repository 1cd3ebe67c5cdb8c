"""Why a run did not take a restore point."""

from vmkeep.errors import ExitCode, Retry, VmkeepError


class RunRefused(VmkeepError):
    """The plan does not reach what the policy requires; nothing was taken."""

    code = "BK001"
    default_hint = "Lower the policy with --consistency preferred."


class VmOccupied(RunRefused):
    """An operation of the host has the VM, and did not end in time; nothing was taken."""

    code = "BK005"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = "Repeat when the host has ended it."


class ChangesUnusable(VmkeepError):
    """The declared changed ranges cannot belong to these disks."""

    code = "BK002"
    default_hint = "Leave --changes away: everything is read, and only differences are stored."


class RepositoryInsideSource(VmkeepError):
    """The repository lies inside the folder it should protect."""

    code = "BK003"
    default_hint = "Keep the repository on another disk, or at least outside the folder."


class AuditFailed(VmkeepError):
    """What is stored differs from the source read a second time; no restore point was made."""

    code = "BK004"
    exit_code = ExitCode.MISMATCH
    retry = Retry.NOW
    default_hint = (
        "The source changed although it was held, a transfer flipped a bit, or memory is faulty; run again, "
        "and if it happens twice look for the cause."
    )
