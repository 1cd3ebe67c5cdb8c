"""Take away what dead runs of this repository left on a host, and bury those of which nothing is left.

A run is dead when the journal says so (:mod:`vmkeep.repository.journal`). What it
left is told by its own records; a record of another host is not judged from here.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vmkeep import stopping
from vmkeep.capture.states import HOLDING, HoldState
from vmkeep.capture.sweep import NOT_HERE, NOTHING_SAID, Note, Said, Swept, nothing_noted, short_id, sweep
from vmkeep.clock import WatchedClock
from vmkeep.errors import VmkeepError
from vmkeep.host.hyperv import HyperV, Owner
from vmkeep.repository.errors import RunAlive
from vmkeep.repository.journal import Journal, Record
from vmkeep.repository.repository import Repository

HOST: Final = "host"
"""The key of the host's own name in the first record of a run."""
SOURCE: Final = "source"
"""The key of what was protected there, as an address with the configured name of the host."""


@dataclass(frozen=True)
class Cleared:
    """What became of one dead run: ``swept`` on the host, and whether the run is ``buried``.

    ``why`` says why not; the next run and the next sweep look again. ``elsewhere`` is the
    host it worked on, as far as that is known, where nothing of it is on this one. ``is_nowhere``:
    a person's word that its host exists no more, or its VM, closes it.
    """

    run: str
    vm: str
    swept: tuple[Swept, ...] = field(default=())
    buried: bool = False
    why: str = ""
    elsewhere: str = ""
    is_nowhere: bool = False


@dataclass(frozen=True)
class Question:
    """Something that only a person can tell whose it is, and the command for either answer."""

    swept: Swept
    ours: str
    not_ours: str

    def __str__(self) -> str:
        return f"{self.ours} removes the {self.swept.what} as ours; {self.not_ours} leaves it for good"


def questions(cleared: Iterable[Cleared], source: str, repository: Repository) -> list[Question]:
    """Return what a person has to decide of dead runs, and how; ``source`` is the host's address."""
    begin = f"vmkeep sweep {shlex.quote(source)} --repo {shlex.quote(repository.store.address)}"
    asked = {each.id: each for one in cleared for each in one.swept if each.is_asked}
    return [
        Question(each, f"{begin} --ours {short_id(each.id)}", f"{begin} --not-ours {short_id(each.id)}")
        for each in asked.values()
    ]


def owner_of(repository: Repository, run: str) -> Owner:
    """Return the mark of a run of this repository."""
    return Owner(repository.parameters.repository.hex(), run)


def still_owed(vm_name: str) -> str:
    """Say what is left on the host while dead runs of a VM are not all buried."""
    return f"what an unfinished run of {vm_name} made is not all removed yet"


@dataclass(frozen=True)
class HostNames:
    """A host, as the configuration calls it, and as it calls itself; None where it does not tell."""

    configured: str
    computer: str | None


@contextmanager
def stoppable(host: HyperV) -> Iterator[HyperV]:
    """Let a signal that is held back end whatever a sweep waits for.

    There it may stop anywhere: it writes down what it is about to do, and is repeated.
    """
    with host.client.looking(stopping.look):
        yield replace(host, clock=WatchedClock(host.clock, stopping.look))


def clear_leftovers(
    host: HyperV,
    here: HostNames,
    repository: Repository,
    journal: Journal,
    dead: Sequence[Sequence[Record]],
    durable: Collection[str],
    said: Said = NOTHING_SAID,
) -> list[Cleared]:
    """Sweep and bury each dead run of one VM, oldest first; what fails is told, not raised.

    ``journal`` is that of the run that found them, which has claimed the VM.
    ``durable`` names the reference points that stored tracking rests on.
    Raises RunAlive when a run has come back.
    """
    cleared = []
    for records in sorted(dead, key=lambda records: records[0].time):
        cleared.append(_clear_one(host, here, repository, journal, list(records), durable, said))
        journal.renew()
    return cleared


def _clear_one(
    host: HyperV,
    here: HostNames,
    repository: Repository,
    journal: Journal,
    records: list[Record],
    durable: Collection[str],
    said: Said,
) -> Cleared:
    def note(step: str, detail: Mapping[str, Any]) -> None:
        records.append(journal.add_to(records, step, detail))

    found = look_at(host, here, repository, journal, tuple(records), durable, note, said)
    if not found.why:
        journal.bury(records)
    return replace(found, buried=not found.why)


def look_at(
    host: HyperV,
    here: HostNames,
    repository: Repository,
    journal: Journal,
    records: Sequence[Record],
    durable: Collection[str],
    note: Note | None = None,
    said: Said = NOTHING_SAID,
) -> Cleared:
    """Sweep what one dead run left, or without ``note`` only look; ``why`` is empty when nothing is left.

    ``said``: what a person has decided of things that nobody else can tell.
    """
    first = records[0]
    run, vm = first.run, first.vm.name
    lost_of = None if journal.is_whole(records) else first.vm.id
    if lost_of is None and not has_held(records):
        return Cleared(run, vm)
    steps = [(record.step, record.detail) for record in records]
    worked = _worked_on(records, here)
    try:
        owner = owner_of(repository, run)
        with stoppable(host) as host:
            swept = sweep(
                host,
                steps,
                owner,
                durable=durable,
                dry_run=note is None,
                marked_only=worked.is_elsewhere,
                is_its_host=worked.is_here,
                note=note or nothing_noted,
                said=said,
                lost_of=lost_of,
            )
    except RunAlive:
        raise
    except (VmkeepError, OSError) as error:
        return Cleared(run, vm, why=f"what it left cannot be looked for: {error}")
    if _is_nothing_here(worked, swept):
        why = "" if run in said.hosts_gone else worked.where_to_look(run)
        return Cleared(run, vm, swept, why=why, elsewhere=worked.host, is_nowhere=True)
    left = [each for each in swept if not each.is_clean and each.outcome != "would be removed"]
    return Cleared(run, vm, swept, why="; ".join(_said(each) for each in left))


def has_held(records: Sequence[Record]) -> bool:
    """Tell whether a run was about to change anything on a host."""
    steps = {state.value for state in HoldState} | HOLDING
    return any(record.step in steps for record in records)


@dataclass(frozen=True)
class _Worked:
    """The host a run worked on, as its records name it, or empty; neither flag where nobody can tell."""

    host: str
    is_here: bool = False
    is_elsewhere: bool = False

    def where_to_look(self, run: str) -> str:
        """Say where the run may have left something, and how a person closes it."""
        if self.is_elsewhere:
            place, gone = (
                f"it worked on the host {self.host!r}, and nothing of it is here",
                "it exists no more",
            )
        elif self.host:
            place = f"it worked on the host {self.host!r}, which may be another one, and its VM is not here"
            gone = "that or the VM exists no more"
        else:
            place = "on which host it worked cannot be read, and its VM is not here"
            gone = "that or the VM exists no more"
        return f"{place}; sweep that host, or, if {gone}, this one with --host-gone {run}"


def _worked_on(records: Sequence[Record], here: HostNames) -> _Worked:
    """Return the host a run worked on: by its own name, else by the configured one.

    Hosts of two sites may have one name of their own, and replicas of a VM one id: this host it is
    for certain only if both names are its, and another one if either is another's.
    """
    begun: Mapping[str, object] = next((r.detail for r in records if SOURCE in r.detail), {})
    computer, source = str(begun.get(HOST) or ""), str(begun.get(SOURCE, ""))
    configured = source.removeprefix("hyperv://").partition("/")[0]
    is_configured_so = configured == here.configured
    if computer and here.computer:
        if computer.lower() != here.computer.lower():
            return _Worked(computer, is_elsewhere=True)
        return _Worked(configured, is_here=is_configured_so, is_elsewhere=not is_configured_so)
    return _Worked(configured, is_elsewhere=bool(configured) and not is_configured_so)


def _is_nothing_here(worked: _Worked, swept: Sequence[Swept]) -> bool:
    """Tell whether a host has nothing of a run, and that is no proof: it may be on the run's own host."""
    if not worked.is_elsewhere:
        return any(each.why == NOT_HERE for each in swept)
    # A VM that moved takes its checkpoint and its points along; one of the same id elsewhere does not.
    things = [each for each in swept if each.what in ("checkpoint", "reference point")]
    return not things and all(each.outcome != "failed" for each in swept)


def _said(swept: Swept) -> str:
    return f"{swept.what} {swept.id}: {(swept.why or swept.outcome).rstrip('.')}"
