"""Why a Hyper-V host did not do what was asked, decided by its numbers and never by its sentences.

``context`` holds what a program may use: ``subject``, ``return_code`` or
``error_code``, ``hresults`` (from the job's texts, as numbers), ``job``, and
``host_text``, the host's own translated sentences, for display only.
"""

from typing import Self

from vmkeep.errors import ExitCode, Retry, VmkeepError


class HyperVError(VmkeepError):
    """Something about the VMs of a Hyper-V host."""

    code = "HV000"

    def with_facts_of(self, cause: VmkeepError) -> Self:
        """Take over the numbers and texts of the error behind this one."""
        self.context.update(cause.context)
        return self


# --- which VM, which object ---------------------------------------------------------


class VmNotFound(HyperVError):
    """The host has no VM of this name or id."""

    code = "HV001"
    default_hint = (
        "Capitals count in a name. The VM may have been renamed, removed or moved to another host; ids stay "
        "when names change."
    )


class VmAmbiguous(HyperVError):
    """More than one VM of the host has this name."""

    code = "HV002"
    exit_code = ExitCode.USAGE
    default_hint = "Names need not be unique in Hyper-V: give the id instead."


class CheckpointMissing(HyperVError):
    """A checkpoint is not there any more."""

    code = "HV003"
    default_hint = "Somebody removed it, or the VM with it; what was read from it is no restore point."


class NotOurs(HyperVError):
    """A checkpoint that should be changed is not the one that was looked at, or not a recovery checkpoint."""

    code = "HV004"
    default_hint = "vmkeep only touches recovery checkpoints of its own repository; look at it in Hyper-V."


class CheckpointUnidentified(HyperVError):
    """A checkpoint or reference point was made, but which one it is cannot be told for certain."""

    code = "HV005"
    retry = Retry.LATER
    default_hint = "One may have been left behind; `vmkeep sweep hyperv://HOST/VM --dry-run` looks for it."


class SettingIgnored(HyperVError):
    """The host reported success and changed nothing."""

    code = "HV006"
    retry = Retry.LATER
    default_hint = "Repeat; if it happens again, please report it with a trace made by --record."


# --- refusals and failures -----------------------------------------------------------


class OperationFailed(HyperVError):
    """The host tried and failed, and its codes do not say more."""

    code = "HV010"
    retry = Retry.LATER
    default_hint = "Look at the host's event log Microsoft-Windows-Hyper-V-VMMS-Admin at this time."


class VmBusy(HyperVError):
    """Another operation has the VM, or the VM is in no state for this one."""

    code = "HV011"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = (
        "Repeat in a few minutes: replication, a merge, a migration or another backup may be under way."
    )


class FileInUse(HyperVError):
    """A file of the VM is open elsewhere, and the host needs it for itself."""

    code = "HV012"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER
    default_hint = (
        "Find out what has it open (another backup, an antivirus program, a mounted disk), then repeat."
    )


class HostDenied(HyperVError):
    """The account may not do this in Hyper-V, or the VM may not open one of its files."""

    code = "HV013"
    exit_code = ExitCode.HOST_UNREACHABLE
    retry = Retry.AFTER_CURE
    default_hint = (
        "Make the account a member of Hyper-V Administrators; if the message names a file, the VM lacks its "
        'right to it: icacls FOLDER /grant "NT VIRTUAL MACHINE\\VM-ID":(OI)F'
    )


class NotSupported(HyperVError):
    """The host cannot do this with this VM."""

    code = "HV014"
    default_hint = (
        "Look for pass-through disks, shared disks and virtual Fibre Channel, and at the host's version."
    )


class RequestRefused(HyperVError):
    """The host takes a request for nonsense."""

    code = "HV015"
    default_hint = "This is a defect of vmkeep; please report it with a trace made by --record."


class CheckpointsDisabled(HyperVError):
    """The VM's own setting forbids checkpoints."""

    code = "HV016"
    retry = Retry.AFTER_CURE
    default_hint = "Enable checkpoints in the settings of the VM: Set-VM NAME -CheckpointType Production"


class GuestNotQuiesced(HyperVError):
    """The guest could not bring its applications or file systems to rest."""

    code = "HV017"
    retry = Retry.LATER
    default_hint = (
        "Look at the guest's event log (VSS, volsnap) or its hv_vss_daemon. After 0x800423F4 one more run "
        "may fail although the cause is gone; restarting vmicvss inside the guest prevents that."
    )


class HostOutOfSpace(HyperVError):
    """A volume of the host, or a shadow copy's area, is full."""

    code = "HV018"
    retry = Retry.AFTER_CURE
    default_hint = "Free space on the volumes that hold the VM's disks; remove nothing whose use is unknown."


class ServiceLogonMissing(HyperVError):
    """The host's virtual machines lost the right to log on as a service."""

    code = "HV019"
    retry = Retry.AFTER_CURE
    default_hint = (
        'Give "NT VIRTUAL MACHINE\\Virtual Machines" the right "Log on as a service" back (a group policy '
        "often takes it), then gpupdate on the host."
    )


class ChainAtRisk(HyperVError):
    """The VM runs on layers that its stored configuration may not know: nothing may be done to it now."""

    code = "HV020"
    default_hint = (
        "Do not restart, migrate or merge the VM, and do not restart VMMS: it may lose what the layers hold. "
        "Save the data from inside the guest first."
    )


class JobOverdue(HyperVError):
    """The host has not finished in the time it was given; it may go on by itself."""

    code = "HV021"
    retry = Retry.LATER
    default_hint = (
        "Look at the job in Hyper-V before you repeat; `vmkeep sweep` removes what it leaves behind."
    )


class ListsIncomplete(HyperVError):
    """The host says that something of a VM is missing, and lists nothing else of the VM either."""

    code = "HV023"
    retry = Retry.LATER
    default_hint = (
        "Its Hyper-V service may just be starting, or the account may not see the VM; repeat in a minute."
    )


class MergeUnfinished(HyperVError):
    """A removed checkpoint's layers were not merged back into the disks."""

    code = "HV022"
    retry = Retry.LATER
    default_hint = (
        "Close whatever has the disk files open; the host merges when it can. Events 19080 (done) and 19100 "
        "(failed) of Microsoft-Windows-Hyper-V-VMMS-Admin tell. Never merge or delete an AVHDX file by hand."
    )


# --- changed ranges ------------------------------------------------------------------


class ChangesUnknown(HyperVError):
    """The host cannot tell what changed on a disk, so all of it must be read."""

    code = "HV030"
    default_hint = "Nothing: the whole disk is read instead, and what differs is stored."


class TrackingLost(ChangesUnknown):
    """The host does not know the RCT identifier of the last restore point."""

    code = "HV031"
    default_hint = (
        "The disk was replaced, converted, moved or restored, or its .rct file is gone; all of it "
        "is read instead."
    )
