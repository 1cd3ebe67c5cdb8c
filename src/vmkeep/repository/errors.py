"""What can be wrong with a repository, always naming the object concerned."""

from vmkeep.errors import ExitCode, Retry, VmkeepError


class RepositoryError(VmkeepError):
    """Something about a repository."""

    code = "RP000"


class NotARepository(RepositoryError):
    """There is no repository at this address."""

    code = "RP001"
    exit_code = ExitCode.REPOSITORY_MISSING
    default_hint = "Check the address, or create a repository there with `vmkeep repo init`."


class RepositoryTooNew(RepositoryError):
    """The repository was made by a newer vmkeep."""

    code = "RP002"
    exit_code = ExitCode.BUSY
    default_hint = "Update vmkeep; this version would not understand what it reads."


class RepositoryExists(RepositoryError):
    """A repository or other files are already at the place where one should be made."""

    code = "RP003"
    default_hint = "Choose an empty place, or use the repository that is there."


class WrongKey(RepositoryError):
    """The password opens none of the repository's keys."""

    code = "RP004"
    exit_code = ExitCode.WRONG_KEY
    retry = Retry.AFTER_CURE
    default_hint = "Check the password (and the keyboard layout), or use the recovery key."


class Tampered(RepositoryError):
    """A stored object is damaged, forged, or lies under a name that is not its own."""

    code = "RP005"
    exit_code = ExitCode.MISMATCH
    default_hint = (
        "Run `vmkeep repo check --read-data all` and keep the store as it is until you know the extent."
    )


class Unreadable(Tampered):
    """A stored object is there and cannot be read: until it can, it is worth no more than a damaged one."""

    code = "RP017"
    retry = Retry.LATER
    default_hint = "Look at the health of the disk below the repository, and run `vmkeep repo check`."


class NotAllowed(Unreadable):
    """A stored object is there, and the user who runs vmkeep may not read it."""

    code = "RP018"
    exit_code = ExitCode.FAILED
    retry = Retry.AFTER_CURE
    default_hint = "Give the user who runs vmkeep the right to read the whole repository."


class ObjectLost(RepositoryError):
    """Something a restore point needs is not in the repository any more."""

    code = "RP006"
    exit_code = ExitCode.MISMATCH
    default_hint = (
        "Run `vmkeep repo check`; the next run of the VM stores what is missing again if the source has it."
    )


class RolledBack(RepositoryError):
    """The repository shows an older state than this machine has seen, or is another one than it saw there."""

    code = "RP007"
    exit_code = ExitCode.MISMATCH
    default_hint = "If the store was rolled back on purpose, repeat with --accept-rollback."


class PointNotFound(RepositoryError):
    """No restore point answers to this name."""

    code = "RP008"
    default_hint = "`vmkeep points` lists what is there."


class PointAmbiguous(RepositoryError):
    """More than one restore point answers to this name."""

    code = "RP009"
    default_hint = "Give the id, or more digits of the id or time; `vmkeep points` lists them."


class RunAlive(RepositoryError):
    """Another run of the same VM is under way."""

    code = "RP010"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = "Wait for it to end, then repeat."


class KeyRefused(RepositoryError):
    """A key object asks for more memory or time than a reader grants."""

    code = "RP012"
    exit_code = ExitCode.MISMATCH
    default_hint = "Restore the key object from a copy of the repository, or use another key."


class NoSuchKey(RepositoryError):
    """No key, or more than one, answers to this id."""

    code = "RP014"
    default_hint = "`vmkeep repo key list` shows their ids."


class KeyInUse(RepositoryError):
    """The key is the one the repository was opened with."""

    code = "RP015"
    default_hint = "Open the repository with another key to remove this one."


class PublishRefused(RepositoryError):
    """The decision about a restore point was taken elsewhere, again and again."""

    code = "RP013"
    retry = Retry.LATER
    default_hint = "Something else writes into `seals/`; find out what before you repeat the run."


class RunBuried(RepositoryError):
    """Another run of the same VM took this one for dead; it ends without a restore point."""

    code = "RP016"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = (
        "Repeat the run. If it happens again, find out what kept this machine or the store from "
        "answering for half an hour, or whose clock jumps."
    )
