"""What a Hyper-V host shows about itself and its VMs; what is unknown is None and counts as the worse.

The words of the plan (``vmkeep plan --facts``), and beside them what tells one
VM, disk or checkpoint from another. Sizes in bytes; ids as the host writes them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from vmkeep.model.plan import VmRef

Edition = Literal["server", "client"]
VmState = Literal["running", "off", "saved", "paused", "critical"]
CheckpointSetting = Literal["production", "production_only", "standard", "disabled"]
ComponentState = Literal["ok", "degraded", "no_contact", "lost_contact", "incompatible", "disabled"]
GuestFamily = Literal["windows", "linux", "other"]
ReplicationMode = Literal["none", "primary", "replica", "test_replica", "extended_replica"]
DiskKind = Literal["vhdx", "vhd", "vhd_set", "shared_vhdx", "passthrough"]
Operation = Literal["merge", "export", "migrate", "backup"]
CheckpointKind = Literal["user", "recovery", "replica", "other"]


@dataclass(frozen=True)
class HostFacts:
    """One host: ``now`` is its own clock, ``booted`` tells a restart from a pause."""

    name: str | None = None
    build: int | None = None
    edition: Edition | None = None
    clustered: bool | None = None
    now: datetime | None = None
    booted: datetime | None = None


@dataclass(frozen=True)
class GuestFacts:
    """What the operating system inside a VM lets the host know."""

    family: GuestFamily | None = None
    name: str | None = None
    vss_writers: bool | None = None
    dynamic_disks: bool | None = None
    unsnappable_filesystems: tuple[str, ...] | None = None
    iscsi_volumes: bool | None = None


@dataclass(frozen=True)
class ReplicationFacts:
    """The part a VM plays in Hyper-V Replica; ``busy``: an initial copy, a resync or a failover runs."""

    mode: ReplicationMode | None = None
    busy: bool | None = None


@dataclass(frozen=True)
class DiskFacts:
    """One attached disk as the host configures it.

    ``slot`` is where it is attached, the same in the VM and in each of its
    checkpoints; ``label`` says that for people (``scsi 0:1``). ``path`` is the
    host's path of the file the VM writes to, or of the frozen one in a checkpoint.
    ``disk_id`` (VirtualDiskId) and ``virtual_size`` cost a request for each disk,
    and stay None until they are asked for.
    """

    slot: str
    label: str
    setting: str
    kind: DiskKind | None = None
    path: str | None = None
    disk_id: str | None = None
    virtual_size: int | None = None


@dataclass(frozen=True)
class ConfigurationFiles:
    """Where a VM's or checkpoint's configuration lies: all files in ``folder`` that begin with ``stem``."""

    folder: str
    stem: str


@dataclass(frozen=True)
class CheckpointFacts:
    """One checkpoint of a VM; ``parent`` is another one's ``id``, None at the root of the tree."""

    id: str
    vm_id: str
    name: str
    kind: CheckpointKind
    notes: tuple[str, ...] = ()
    parent: str | None = None
    created: datetime | None = None
    configuration: ConfigurationFiles | None = None
    disks: tuple[DiskFacts, ...] = ()
    unread_disks: tuple[str, ...] = ()


@dataclass(frozen=True)
class VmFacts:
    """One VM of a host.

    ``unread_disks`` tells of media that are, or may be, the VM's and that nobody
    could place (the host's id, and the file): while there are any, ``disks`` are
    not known to be all. The same holds for each checkpoint.

    ``state_code`` and ``phase_code`` are the host's own numbers (EnabledState,
    OperationalStatus[1]) behind ``state`` and ``operation_in_progress``; a state
    that is only passed through (starting, saving) has a code and no word.
    ``setting`` and ``parent`` identify the realised configuration and the
    checkpoint it stands on; ``last_applied`` the one last reverted to.
    """

    vm: VmRef
    state: VmState | None = None
    state_code: int | None = None
    generation: Literal[1, 2] | None = None
    configuration_version: str | None = None
    checkpoint_setting: CheckpointSetting | None = None
    backup_component: ComponentState | None = None
    heartbeat: ComponentState | None = None
    guest: GuestFacts = field(default_factory=GuestFacts)
    checkpoint_files_on_same_volume: bool | None = None
    replication: ReplicationFacts = field(default_factory=ReplicationFacts)
    disks: tuple[DiskFacts, ...] = ()
    unread_disks: tuple[str, ...] = ()
    checkpoints: tuple[CheckpointFacts, ...] = ()
    parent: str | None = None
    last_applied: str | None = None
    foreign_recovery_checkpoint: bool | None = None
    operation_in_progress: Operation | None = None
    phase_code: int | None = None
    free_bytes_for_growth: int | None = None
    configuration: ConfigurationFiles | None = None
    setting: str | None = None
