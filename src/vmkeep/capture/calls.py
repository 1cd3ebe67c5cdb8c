"""Make a checkpoint, or a reference point of it, by a call that may be lost, and find what came of it.

Each of the two calls is one object that lives as long as its hold, and knows at any
moment what is to be looked for (decision 0017).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from vmkeep.capture.claims import (
    RECORD_S,
    Asked,
    Became,
    Claimed,
    Conversion,
    claim_checkpoint,
    claim_point,
    has_settled,
    went_by_conversion,
)
from vmkeep.capture.states import ASKED, ASKING, RELEASING, HoldLog, HoldState
from vmkeep.host.hyperv import (
    CheckpointUnidentified,
    CheckpointWish,
    Fate,
    HyperV,
    Owner,
    PowerState,
    ReferencePoint,
    Waiting,
    convert_checkpoint,
    create_checkpoint,
    list_recovery_checkpoints,
    list_surely,
    read_checkpoint,
    read_host_time,
    read_power_state,
)
from vmkeep.host.hyperv.checkpoints import CRASH
from vmkeep.host.hyperv.jobs import NOT_RUN
from vmkeep.host.wsman import ActionHappened, OutcomeUnknown
from vmkeep.model.facts import CheckpointFacts
from vmkeep.model.plan import VmRef

T = TypeVar("T")

_RUNNING: Final = 2
_ASK_AGAIN_S: Final = 5.0


class Creation:
    """The call that makes the checkpoint of a hold; ``power`` is the VM's state right before."""

    def __init__(self, host: HyperV, log: HoldLog, vm: VmRef, wish: CheckpointWish, owner: Owner) -> None:
        self._host = host
        self._log = log
        self._vm = vm
        self._wish = wish
        self._owner = owner
        self._fate = Fate(lambda job: log.note(ASKED, job=job, since=_spelled(self._since)))
        self._since: datetime | None = None
        self._known = tuple(c.id for c in list_recovery_checkpoints(host, vm.id))
        self.power: PowerState = read_power_state(host, vm.id)

    @property
    def is_crash_asked(self) -> bool:
        """Whether the guest is not to take part, although it runs."""
        return self._wish.consistency == CRASH and self.power.code == _RUNNING

    @property
    def asked(self) -> Asked:
        """The call as it was written down."""
        return Asked(self._vm.id, self._known, self._since, self._fate.job, self._fate.has_failed)

    def make(self) -> CheckpointFacts:
        """Announce the call, send it, and return its checkpoint with its disks.

        What the host does not name is claimed where that is certain enough. Raises the
        errors of the call; then :meth:`left` tells what it may have made all the same.
        """
        try:
            return _until_heard(self._host, self._fate, self._ask)
        except (OutcomeUnknown, ActionHappened, CheckpointUnidentified):
            found = self.left(self._host)
            if found.ours is None:
                raise
            return read_checkpoint(self._host, self._vm.id, found.ours.id)

    def left(self, host: HyperV) -> Claimed[CheckpointFacts]:
        """Find what the call has made although it failed; nothing, as a rule.

        Raises OutcomeUnknown while the host is still at it.
        """
        if not self._fate.may_have_run:
            return Claimed()
        if self._fate.has_failed:
            self._log.note(ASKED, job=self._fate.job, since=_spelled(self._since), failed=True)
        if not has_settled(host, self.asked, patient=True):
            raise OutcomeUnknown("the host is still making a checkpoint.")
        return claim_checkpoint(host, self.asked)

    def _ask(self) -> CheckpointFacts:
        self._announce()
        return create_checkpoint(
            self._host,
            self._vm.id,
            self._wish,
            known_before=self._known,
            name=self._vm.name,
            fate=self._fate,
        )

    def _announce(self) -> None:
        """Write down that the checkpoint is asked for now, by the host's time of just before.

        What is made soon after that time is ours (:mod:`claims`): a record that took long is
        followed by another. Should that take long, too, a checkpoint of ours is left to a person.
        This run itself goes by the time after the record, which others may have used.
        """
        for _ in range(2):
            started, since = self._host.clock.monotonic(), read_host_time(self._host)
            self._since = since
            if self._log.state is None:
                self._log.enter(
                    HoldState.PREPARED,
                    vm=self._vm.id,
                    owner=[self._owner.repository, self._owner.run],
                    known_checkpoints=list(self._known),
                    since=_spelled(since),
                    power=self.power.code,
                    level=self._wish.consistency,
                )
            else:
                self._log.note(ASKING, since=_spelled(since))
            if self._host.clock.monotonic() - started <= RECORD_S:
                break
        self._since = read_host_time(self._host) or self._since


class Converting:
    """The call that turns the checkpoint of a hold, which ``creation`` made, into a reference point."""

    def __init__(self, host: HyperV, log: HoldLog, checkpoint: CheckpointFacts, creation: Creation) -> None:
        self._host = host
        self._log = log
        self._checkpoint = checkpoint
        self._fate = Fate(lambda job: log.note(ASKED, job=job))
        disks = sum(disk.kind != "passthrough" for disk in checkpoint.disks)
        self._announced = Conversion(
            Asked(checkpoint.vm_id, (), None),
            checkpoint.id,
            disks,
            creation.is_crash_asked,
            creation.asked.job,
        )

    @property
    def conversion(self) -> Conversion:
        """The call as it was written down."""
        asked = replace(self._announced.asked, job=self._fate.job, has_failed=self._fate.has_failed)
        return replace(self._announced, asked=asked)

    @property
    def may_have_run(self) -> bool:
        """Whether a reference point may have come of it, or may still come."""
        return self._fate.may_have_run

    def make(self) -> ReferencePoint:
        """Announce the call, send it, and return the reference point that the host names.

        Raises the errors of the call; then :meth:`left` tells what it may have made all the same.
        """
        return _until_heard(self._host, self._fate, self._ask)

    def left(self, host: HyperV, became: Became | None = None) -> Claimed[ReferencePoint]:
        """Find the reference point of a call that failed, or whose end nobody heard; none, as a rule.

        To be asked before the checkpoint is removed; else ``became`` says how it went. Waits until
        the call has ended, and a lost one can begin no more. Raises OutcomeUnknown while the host is
        still at it, CheckpointUnidentified where nobody can tell whose a new point is.
        """
        if not self.may_have_run:
            return Claimed()
        if self._fate.has_failed:
            self._log.note(ASKED, job=self._fate.job, failed=True)
        is_gone = went_by_conversion(host, self.conversion, patient=True)
        became = became or (Became.GONE if is_gone else Became.THERE)
        found = claim_point(host, self.conversion, became)
        if found.doubtful:
            ids = tuple(point.id for point in found.doubtful)
            raise CheckpointUnidentified(
                f"whether one of these reference points is ours nobody knows: {', '.join(ids)}.",
                candidates=ids,
            )
        return found

    def _ask(self) -> ReferencePoint:
        known = self._announce()
        return convert_checkpoint(self._host, self._checkpoint, known_before=known, fate=self._fate)

    def _announce(self) -> tuple[str, ...]:
        """Write down that the checkpoint is converted now; return the reference points there are."""
        known: tuple[str, ...] = ()
        for _ in range(2):
            known = tuple(point.id for point in list_surely(self._host, self._checkpoint.vm_id))
            started, since = self._host.clock.monotonic(), read_host_time(self._host)
            asked = Asked(self._checkpoint.vm_id, known, since)
            self._announced = replace(self._announced, asked=asked)
            self._log.note(
                RELEASING,
                checkpoint=self._checkpoint.id,
                how="convert",
                known_points=list(known),
                since=_spelled(since),
                disks=self._announced.disks,
            )
            if self._host.clock.monotonic() - started <= RECORD_S:
                break
        return known


def _until_heard(host: HyperV, fate: Fate, ask: Callable[[], T]) -> T:
    """Ask again while the host certainly has not heard; each time is announced anew."""
    started = host.clock.monotonic()
    while True:
        try:
            return ask()
        except NOT_RUN:
            waited = host.clock.monotonic() - started
            if fate.may_have_run or waited >= host.silence_s:
                raise
        host.watch(Waiting("hear of the host again", waited))
        host.clock.sleep(_ASK_AGAIN_S)


def _spelled(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
