"""Try every kind of call that a run makes on a host, changing nothing, and say what each attempt shows.

One :class:`Check` for each thing tried, in the order in which they depend on
each other. What a check ``fact`` says is fit for anybody's eyes: codes, numbers,
our own words. Names of VMs, paths and the host's own texts stand in ``detail``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vmkeep.cli.host_clock import MOST_SKEW_S, skew_s, skew_told
from vmkeep.cli.host_folders import examine_folders
from vmkeep.cli.host_verdicts import Check, confirmed, failed, judged, refuted, skipped, unknown
from vmkeep.clock import Clock
from vmkeep.errors import VmkeepError
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.host.hyperv import (
    HyperV,
    HyperVError,
    Inventory,
    TrackingLost,
    changed_ranges,
    list_reference_points,
    read_disk_file,
    take_inventory,
)
from vmkeep.host.hyperv.errors import HostDenied
from vmkeep.host.wsman import (
    Client,
    ClocksDisagree,
    EndpointUnusable,
    HostError,
    HostNonsense,
    HostNotTrusted,
    HostUnreachable,
    KerberosMissing,
    LoginImpossible,
    LoginRefused,
    RightMissing,
)
from vmkeep.model.facts import DiskFacts

Entry = Literal["reach", "trust", "protocol", "login"]

# Windows Server 2016: the first with recovery checkpoints, reference points and RCT.
_FIRST_BUILD: Final = 14393
_BUDGET: Final = 40
# An RCT identifier that no host has given out; it has the form of a real one.
_NEVER_GIVEN: Final = "rctX:00000000:0000:0000:00000000:00000000:00000000"
_DISKS_TRIED: Final = 3

# At which step of getting in an error strikes; what came before has worked.
_STRIKES_AT: Final[Mapping[type[HostError], Entry]] = {
    HostUnreachable: "reach",
    HostNotTrusted: "trust",
    HostNonsense: "protocol",
    ClocksDisagree: "login",
    LoginRefused: "login",
    LoginImpossible: "login",
    RightMissing: "login",
}
_ENTRY: Final[Mapping[Entry, str]] = {
    "reach": "the port of WinRM answers",
    "trust": "the certificate proves that it is the host",
    "protocol": "what answers speaks WS-Management",
    "login": "the account may log in",
}
_READING: Final = "the account may list VMs (Get, Enumerate)"
_INVOKING: Final = "the account may call methods (Invoke)"
_AFTER_ENTRY: Final[Mapping[str, str]] = {
    "read-wmi": _READING,
    "invoke": _INVOKING,
    "files": "the files of the VMs can be read",
}


@dataclass(frozen=True)
class Examined:
    """A host as far as it let us in."""

    checks: tuple[Check, ...]
    requests: int


def examine(
    client: Client, files: HostFiles, paths: PathMap, clock: Clock, watch: Callable[[str], None]
) -> Examined:
    """Try everything, in order; ``watch`` hears what is being tried now. Nothing on the host is changed.

    Raises EndpointUnusable and KerberosMissing; everything else that goes wrong is a check's outcome.
    """
    watch("getting in")
    checks = list(_getting_in(client))
    if checks[-1].name == "login" and checks[-1].state == "confirmed":
        checks += examine_inside(HyperV(client, clock), files, paths, watch)
    else:
        checks += [skipped(name, means, "vmkeep did not get in") for name, means in _AFTER_ENTRY.items()]
    return Examined(tuple(checks), client.requests)


def examine_inside(
    host: HyperV, files: HostFiles, paths: PathMap, watch: Callable[[str], None]
) -> Iterator[Check]:
    """Yield what a host shows that has let us in."""
    watch("reading the inventory")
    before = host.client.requests
    try:
        inventory = take_inventory(host)
    except (HostError, HyperVError) as error:
        yield failed("read-wmi", _READING, error)
        for name in ("invoke", "files"):
            yield skipped(name, _AFTER_ENTRY[name], "the VMs could not be listed")
        return
    yield from _about_inventory(inventory, host.client.requests - before)
    yield from _about_host(inventory, host.clock)
    watch("calling methods that read")
    yield from _about_methods(host, inventory)
    yield _disk_ids(inventory)
    yield _ide(inventory)
    yield from examine_folders(inventory.vms, files, paths, watch)


def _getting_in(client: Client) -> Iterator[Check]:
    """One question that needs no right in WMI; where it fails tells how far vmkeep came."""
    is_https = client.endpoint.transport == "https"
    fact, error = "", None
    try:
        identity = client.identify()
        fact = f"{identity.vendor}, {identity.version}"
    except (EndpointUnusable, KerberosMissing):
        raise
    except HostError as caught:
        error = caught
    stop = None if error is None else _step_of(error, is_https=is_https)
    for name, means in _ENTRY.items():
        if error is not None and name == stop:
            yield failed(name, means, error, is_final=True)
            return
        if name == "trust" and not is_https:
            yield skipped(name, means, "http has no certificate; messages are sealed with the login's key")
        else:
            yield confirmed(name, means, fact if name == "protocol" else "")


def _step_of(error: HostError, *, is_https: bool) -> Entry:
    # A certificate that is not valid yet is told as a matter of clocks.
    if isinstance(error, ClocksDisagree) and "verify_code" in error.context and is_https:
        return "trust"
    return next((step for kind, step in _STRIKES_AT.items() if isinstance(error, kind)), "protocol")


def _about_inventory(inventory: Inventory, requests: int) -> Iterator[Check]:
    count = f"{len(inventory.vms)} VMs in {requests} requests"
    # Row 41: had projected properties come in another form, there would be no inventory.
    yield confirmed("read-wmi", _READING, count, beliefs=(41,))
    yield judged(
        "budget",
        f"an inventory takes at most {_BUDGET} requests",
        is_so=requests <= _BUDGET,
        fact=f"{requests} requests",
        hint="The host hands out small pages; a run takes longer, nothing else. Please report it.",
        needed=False,
    )
    means = "the host lists all classes that a plan looks at"
    if inventory.unanswered:
        yield refuted(
            "classes",
            means,
            f"not listed: {', '.join(sorted(inventory.unanswered))}",
            detail=" ".join(inventory.unanswered.values()),
            hint="What they tell counts as unknown, so plans promise less. "
            "Grant the account the rights of docs/rights.md#the-namespaces-of-wmi.",
            needed=False,
        )
    else:
        yield confirmed("classes", means)


_CIMV2: Final = r"Let the account read root\cimv2 (docs/rights.md); without that no VM is taken."


def _about_host(inventory: Inventory, clock: Clock) -> Iterator[Check]:
    host = inventory.host
    means = f"the host's Windows is build {_FIRST_BUILD} (Windows Server 2016) or later"
    if host.build is None:
        yield refuted("version", means, "the host does not tell its build", hint=_CIMV2)
    else:
        yield judged(
            "version",
            means,
            is_so=host.build >= _FIRST_BUILD,
            fact=f"build {host.build}",
            hint="Older hosts have neither recovery checkpoints nor RCT; vmkeep cannot protect their VMs.",
        )
    means = "the host runs Windows Server"
    if host.edition is None:
        yield refuted("edition", means, "the host does not tell its edition", hint=_CIMV2)
    else:
        is_server = host.edition == "server"
        yield judged(
            "edition",
            means,
            is_so=is_server,
            fact="Windows Server" if is_server else "a workstation edition (Windows 10 or 11)",
            hint="vmkeep protects VMs of Windows Server; Windows 10 and 11 are not supported as hosts.",
        )
    means = f"both clocks agree to {MOST_SKEW_S // 60} minutes"
    skew = skew_s(host, clock)
    if skew is None:
        yield unknown("clock", means, "the host does not tell its time", needed=False)
    else:
        yield judged(
            "clock",
            means,
            is_so=abs(skew) <= MOST_SKEW_S,
            fact=skew_told(skew),
            hint="Repair NTP on the machine that is wrong; Kerberos refuses more than five minutes, and "
            "times of restore points would mislead.",
            needed=False,
        )
    yield _free_space(inventory)


def _free_space(inventory: Inventory) -> Check:
    means = "what is free on the volumes of the VMs' disks is known"
    vms = [vm for vm in inventory.vms if any(disk.path for disk in vm.disks)]
    dark = [vm for vm in vms if vm.free_bytes_for_growth is None]
    if not vms:
        return skipped("free-space", means, "no VM has a disk file")
    if dark:
        return unknown(
            "free-space",
            means,
            f"not for {len(dark)} of {len(vms)} VMs",
            detail=", ".join(vm.vm.name for vm in dark),
            hint="vmkeep cannot stop in time when a volume fills up. "
            "Grant reading of Win32_Volume: docs/rights.md#the-namespaces-of-wmi.",
        )
    beliefs = (57,) if any("\\clusterstorage\\" in path.lower() for path in _paths(inventory)) else ()
    return confirmed("free-space", means, f"for {len(vms)} VMs", beliefs=beliefs)


def _paths(inventory: Inventory) -> Iterator[str]:
    return (disk.path for vm in inventory.vms for disk in vm.disks if disk.path)


def _about_methods(host: HyperV, inventory: Inventory) -> Iterator[Check]:
    """Ask the image service about a disk: it needs the right to invoke, and changes nothing."""
    yield _reference_points(host, inventory)
    image_means = "the image service tells what a disk file is"
    rct_means = "the image service refuses RCT identifiers that it never gave out"
    disks = _virtual_disks(inventory)[:_DISKS_TRIED]
    if not disks:
        yield unknown("invoke", _INVOKING, "no VM has a disk file that could be asked about")
        yield skipped("image-service", image_means, "there is no disk file")
        yield skipped("rct", rct_means, "there is no disk file")
        return
    refusal: VmkeepError | None = None
    for disk in disks:
        assert disk.path is not None, "chosen for having one"
        try:
            found = read_disk_file(host, disk.path)
        except (HostError, HyperVError) as error:
            refusal = error
            if isinstance(error, RightMissing | HostDenied):
                break
            continue
        yield confirmed("invoke", _INVOKING, "GetVirtualHardDiskSettingData was run")
        yield confirmed(
            "image-service", image_means, f"a {found.format or 'unknown'} disk of {found.virtual_size} bytes"
        )
        yield _tracking(host, disk.path, found.virtual_size, rct_means)
        return
    assert refusal is not None, "at least one disk was asked about"
    if isinstance(refusal, HyperVError) and not isinstance(refusal, HostDenied):
        # The method itself has answered, so it may be called.
        yield confirmed("invoke", _INVOKING, "GetVirtualHardDiskSettingData was run")
        yield failed("image-service", image_means, refusal)
    else:
        yield failed("invoke", _INVOKING, refusal)
        yield skipped("image-service", image_means, "methods cannot be called")
    yield skipped("rct", rct_means, "no disk could be asked about")


def _virtual_disks(inventory: Inventory) -> Sequence[DiskFacts]:
    """Return the VMs' own disk files, those of VMs that are off first: nothing else uses them.

    By id, since names are others in a trace that is replayed.
    """
    vms = sorted(inventory.vms, key=lambda vm: (vm.state != "off", vm.vm.id))
    return [disk for vm in vms for disk in vm.disks if disk.path and disk.kind != "passthrough"]


def _reference_points(host: HyperV, inventory: Inventory) -> Check:
    means = "reference points can be listed"
    if not inventory.vms:
        return skipped("reference-points", means, "the host has no VM")
    try:
        found = list_reference_points(host, min(vm.vm.id for vm in inventory.vms))
    except (HostError, HyperVError) as error:
        return failed("reference-points", means, error)
    return confirmed("reference-points", means, f"{len(found)} on the first VM")


def _tracking(host: HyperV, path: str, size: int, means: str) -> Check:
    """Ask for the changes since a moment that never was: the way in which that is refused is believed."""
    try:
        changed_ranges(host, path, _NEVER_GIVEN, size)
    except TrackingLost as error:
        numbers = [str(error.context[key]) for key in ("return_code", "error_code") if error.context.get(key)]
        return confirmed("rct", means, f"refused with {', '.join(numbers) or 'an HRESULT'}", beliefs=(52,))
    except (HostError, HyperVError) as error:
        return failed("rct", means, error, needed=False, beliefs=(52,))
    return refuted(
        "rct",
        means,
        "an identifier that was never given out got an answer",
        hint="Do not rely on RCT on this host, and report this: increments could miss changes.",
        needed=False,
        beliefs=(52,),
    )


def _disk_ids(inventory: Inventory) -> Check:
    """Compare the ids of disks with the form they are believed to have."""
    means = "ids of disks have the form that ties a checkpoint's disks to its VM's"
    disks = [disk for vm in inventory.vms for disk in vm.disks]
    unread = {told for vm in inventory.vms for told in vm.unread_disks}
    if not disks and not inventory.unassigned:
        return skipped("disk-ids", means, "no VM has a disk")
    strange = [disk for disk in disks if disk.label == disk.slot]
    empty = sum(not vm.disks for vm in inventory.vms)
    return judged(
        "disk-ids",
        means,
        is_so=not strange and not inventory.unassigned,
        fact=f"{len(disks)} disks, {len(strange)} of another form; {empty} VMs without a disk; "
        f"{len(inventory.unassigned)} disks of no known VM",
        detail=", ".join([*(disk.setting for disk in strange), *inventory.unassigned, *sorted(unread)]),
        hint="Please report this: a VM may have a disk that vmkeep does not find.",
        beliefs=(49,),
    )


def _ide(inventory: Inventory) -> Check:
    means = "generation 1 VMs have the IDE controller that is known"
    first = [vm for vm in inventory.vms if vm.generation == 1 and vm.disks]
    if not first:
        return skipped("ide", means, "no VM of generation 1 has a disk")
    # A generation 1 VM starts from IDE only; one that starts from the network may have no disk there.
    known = sum(any(disk.label.startswith("ide ") for disk in vm.disks) for vm in first)
    return judged(
        "ide",
        means,
        is_so=known > 0,
        fact=f"{len(first)} VMs of generation 1, {known} with a disk at it",
        hint="Only labels of disks are wrong; please report it.",
        needed=False,
        beliefs=(50,),
    )
