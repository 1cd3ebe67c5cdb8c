"""Plan a run over files that already lie still: an exported VM, or loose disks."""

from typing import Final

from vmkeep.model.consistency import Consistency, Policy, Reason
from vmkeep.model.plan import MOST_DAMAGE, FolderFacts, Increment, Plan

DISKS_LEFT_OUT: Final = "disks-left-out"


def decide_folder(
    facts: FolderFacts, policy: Policy, *, has_earlier_point: bool, changes_given: bool
) -> Plan:
    """Choose what a folder or disk source can promise, and say why not more.

    Nobody can tell from the files alone whether the VM was shut down, saved or
    cut off when they were copied, so the promise is ``crash``.
    """
    promise = Consistency.CRASH
    reasons = _reasons(facts, changes_given=changes_given)
    if policy.level is not None and not promise.satisfies(policy.level):
        reasons.append(
            Reason(
                "policy-not-met",
                f"The policy requires {policy.level.value}.",
                "The run is refused; nothing is taken.",
                "Lower the policy with --consistency preferred, or run against the host.",
            )
        )
        return Plan("refuse", None, None, "full", tuple(reasons))
    increment: Increment = "declared" if changes_given else "compare" if has_earlier_point else "full"
    return Plan("go", "folder", promise, increment, tuple(reasons))


def _reasons(facts: FolderFacts, *, changes_given: bool) -> list[Reason]:
    """Say of each fact that lowers what the point is worth, or leaves something out, what it does."""
    reasons = [
        Reason(
            "files-only",
            "The source is a set of files; how the VM was brought to rest before they were copied "
            "is not recorded.",
            "The point is promised as crash-consistent, although it may be better.",
            "Run the backup against the host (hyperv://NAME/VM), which can prove more.",
        )
    ]
    if facts.layers:
        reasons.append(
            Reason(
                "layers-merged",
                f"{len(facts.layers)} files are parents of differencing disks: {', '.join(facts.layers)}.",
                "Each disk is kept as the guest saw it last; the states of its lower layers are not kept "
                "separately.",
                "Back up the lower files one by one with disk:FILE if their states matter.",
            )
        )
    if changes_given and facts.unproven:
        reasons.append(
            Reason(
                "disk-unproven",
                f"No identifier shows that {', '.join(facts.unproven)} is the disk in the parent restore "
                "point: it has another one, or none, as raw disks have.",
                "If these are not the same disk, everything outside the declared ranges is wrong; so "
                "a sample of it is compared with the source.",
                "Check --parent; leave --changes away to have everything read.",
            )
        )
    if facts.damage:
        at_least = "at least " if len(facts.damage) >= MOST_DAMAGE else ""
        reasons.append(
            Reason(
                "disk-file-damaged",
                f"The structures of the disk files hold {at_least}{len(facts.damage)} errors; "
                f"the first: {facts.damage[0]}",
                "The point holds what a guest reads from these files now, which may be wrong already.",
                "Look at `vmkeep disk check FILE`, and keep the points taken before the damage.",
            )
        )
    if facts.disguised:
        told = [f"{name!r} is {looks}" for name, looks in facts.disguised[:5]]
        reasons.append(
            Reason(
                DISKS_LEFT_OUT,
                f"{len(facts.disguised)} files look like disks and were left out: "
                + ", ".join(told)
                + (" and more." if len(facts.disguised) > 5 else "."),
                "What they hold is not in the point.",
                "Rename them to end in .vhdx, .vhd or .raw as they are, give each with disk:FILE, or convert "
                "what vmkeep does not read; files that are no disks of this VM belong elsewhere.",
            )
        )
    if facts.left_out:
        reasons.append(
            Reason(
                "files-left-out",
                f"{len(facts.left_out)} files are neither disks nor part of a VM: "
                + ", ".join(facts.left_out[:5])
                + (" and more." if len(facts.left_out) > 5 else "."),
                "They are not in the point.",
                "Keep them with a file backup program if they are needed.",
            )
        )
    return reasons
