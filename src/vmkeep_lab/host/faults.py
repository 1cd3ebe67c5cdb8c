"""What a test makes go wrong on the host, and how often."""

from dataclasses import dataclass, field
from enum import StrEnum

from vmkeep_lab.host.codes import Returned


class At(StrEnum):
    """Where a fault can strike (failures.md 6)."""

    CREATE_CALL = "create-call"  # CreateSnapshot returns the code at once
    CREATE_JOB = "create-job"  # its job fails
    CREATE_LATE = "create-late"  # its job fails after the checkpoint was made, which stays
    CONVERT_CALL = "convert-call"
    CONVERT_JOB = "convert-job"
    CONVERT_LATE = "convert-late"  # its job fails after the checkpoint became a reference point
    DESTROY_CALL = "destroy-call"
    DESTROY_JOB = "destroy-job"
    REFERENCE_JOB = "reference-job"  # DestroyReferencePoint's and CreateReferencePoint's
    RENAME_CALL = "rename-call"
    RENAME_IGNORED = "rename-ignored"  # success, and nothing changed (section 5.3: silent no-ops exist)
    MERGE = "merge"
    CHANGES_UNKNOWN = "changes-unknown"  # the RCT id is not known
    CHANGES_EMPTY = "changes-empty"  # nothing changed, it says (failures.md 4.4, rct_silent_gap)
    CHANGES_INFLATED = "changes-inflated"  # everything changed, it says
    CHANGES_STUCK = "changes-stuck"  # ProcessedByteLength 0
    CHANGES_JOB = "changes-job"  # 4096 and a storage job, without the ranges (section 5.4)
    HOST_ERROR = "host-error"  # anything at all is refused with the fault's hresult, a WMI error


@dataclass
class Fault:
    """One thing that goes wrong ``times`` times, on one VM or (empty) on any.

    ``code`` is a method's or a job's, ``hresult`` what the text of a job's error carries, ``reason`` the key
    of a text.
    """

    at: At
    times: int = 1
    vm: str = ""
    code: int = int(Returned.FAILED)
    hresult: int = 0x80004005
    reason: str = "unspecified"


@dataclass
class Faults:
    """The faults still to come; each strikes in turn."""

    waiting: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        self.waiting.append(fault)

    def take(self, at: At, vm_id: str = "") -> Fault | None:
        """Return the fault that strikes here now, counted down, or None."""
        for each in self.waiting:
            if each.at is at and each.vm in ("", vm_id):
                each.times -= 1
                if each.times <= 0:
                    self.waiting.remove(each)
                return each
        return None
