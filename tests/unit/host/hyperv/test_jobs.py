"""Waits for jobs: how they end, how long, what is said when they fail."""

from contextlib import suppress

import pytest

from tests.fakes.hyperv_host import Called, TableHost, embedded, returns
from tests.fakes.hyperv_rows import job, job_ref
from tests.fakes.wsman_host import Question, Reply, fault
from vmkeep.host.hyperv import errors
from vmkeep.host.hyperv.classes import DESTROY_CHECKPOINT, SETTINGS
from vmkeep.host.hyperv.jobs import Fate, Kind, Outcome, perform
from vmkeep.host.wsman import HostError, HostFault, HostUnreachable, OutcomeUnknown

pytestmark = pytest.mark.quick

DESTROY = "Msvm_VirtualSystemSnapshotService.DestroySnapshot"
ERROR = "Msvm_ConcreteJob.GetErrorEx"


def destroy(host: TableHost) -> Outcome:
    arguments = {"AffectedSnapshot": SETTINGS.ref("Microsoft:1")}
    return perform(host.hyperv(), DESTROY_CHECKPOINT, arguments, Kind.DESTROY, "the checkpoint").outcome


def started(host: TableHost, *states: dict[str, object]) -> None:
    """Let the call start a job that goes through these states, look by look."""
    host.on(DESTROY, returns(4096, Job=job_ref("J1")))
    looks = iter(states)

    def before(question: Question) -> None:
        if question.action.endswith("/Get"):
            changed = next(looks, None)
            if changed is not None:
                host.rows["Msvm_ConcreteJob"] = [job(**changed)]  # type: ignore[arg-type]

    host.before = before


def test_a_call_that_is_done_at_once_starts_no_wait() -> None:
    host = TableHost()
    host.on(DESTROY, returns(0))
    assert destroy(host) is Outcome.COMPLETED
    assert host.clock.slept == []


@pytest.mark.parametrize("under_way", [2, 3, 4, 5, 6, 12])
def test_each_unfinished_state_is_waited_for(under_way: int) -> None:
    host = TableHost()
    started(host, {"state": under_way}, {"state": under_way}, {"state": 7})
    assert destroy(host) is Outcome.COMPLETED
    assert len(host.clock.slept) == 2


def test_pauses_grow_to_five_seconds() -> None:
    host = TableHost()
    looks: list[dict[str, object]] = [{"state": 4}] * 12
    started(host, *looks, {"state": 7})
    destroy(host)
    # Annex B: min(5 s, 0.2 s * 1.5^n).
    assert host.clock.slept == pytest.approx([min(5.0, 0.2 * 1.5**n) for n in range(12)])


def test_whoever_listens_hears_of_each_look() -> None:
    host = TableHost()
    started(host, {"PercentComplete": 10}, {"PercentComplete": 60}, {"state": 7, "PercentComplete": 100})
    destroy(host)
    assert [wait.percent for wait in host.waits] == [None, 10, 60, 100]  # the first before the call
    assert host.waits[0].what == "remove the checkpoint"


def test_warnings_are_no_failure() -> None:
    host = TableHost()
    started(host, {"state": 32768, "ErrorDescription": "Achtung"})
    assert destroy(host) is Outcome.WARNED


def test_warnings_with_an_error_code_are_a_failure() -> None:
    host = TableHost()
    host.on(ERROR, returns(0, Errors=[]))
    started(host, {"state": 32768, "ErrorCode": 32775})
    with pytest.raises(errors.VmBusy):
        destroy(host)


@pytest.mark.parametrize("state", [8, 9, 10, 11, 99])
def test_other_ends_are_failures_judged_by_numbers(state: int) -> None:
    host = TableHost()
    host.on(ERROR, returns(0, Errors=[]))
    text = "ディスクの容量が不足しています。 (0x80070070)"
    started(host, {"state": state, "ErrorCode": 32768, "ErrorDescription": text})
    with pytest.raises(errors.HostOutOfSpace, match="0x80070070") as caught:
        destroy(host)
    assert caught.value.context["error_code"] == 32768
    assert caught.value.context["hresults"] == (0x80070070,)
    assert caught.value.context["host_text"] == text
    assert "容量" not in caught.value.message, "the host's sentence is a field, not our message"


def test_the_hresult_may_stand_in_the_details_only() -> None:
    host = TableHost()
    details = embedded(
        "Msvm_Error", {"MessageID": "12300", "Message": "... (0x8007052F)", "ErrorSource": None}
    )
    host.on(ERROR, returns(0, Errors=[details]))
    started(host, {"state": 10, "ErrorCode": 32768})
    with pytest.raises(errors.ServiceLogonMissing):
        destroy(host)


@pytest.mark.parametrize("answer", [fault(2150858771), returns(1), returns(0, Errors=["<nonsense"])])
def test_missing_details_do_not_hide_the_failure(answer: Reply) -> None:
    host = TableHost()
    host.on(ERROR, answer)
    started(host, {"state": 10, "ErrorCode": 32774})
    with pytest.raises(errors.VmBusy):
        destroy(host)


def test_a_job_that_vanished_says_nothing() -> None:
    host = TableHost()
    host.on(DESTROY, returns(4096, Job=job_ref("J1")))
    assert destroy(host) is Outcome.VANISHED


def test_a_started_job_without_an_address_says_nothing() -> None:
    host = TableHost()
    host.on(DESTROY, returns(4096, Job=None))
    assert destroy(host) is Outcome.VANISHED


def test_patience_ends_and_names_the_job() -> None:
    host = TableHost()
    started(host, {"state": 4})
    with pytest.raises(errors.JobOverdue, match="30 minutes") as caught:
        destroy(host)
    assert sum(host.clock.slept) == pytest.approx(Kind.DESTROY.limit_s)
    assert "J1" in str(caught.value.context["job"])


def cut(host: TableHost, seconds: float, action: str = "/Get") -> None:
    """Let nothing answer for a while, from the first such question on."""
    began: list[float] = []

    def before(question: Question) -> None:
        if question.action.endswith(action):
            began.append(host.clock.monotonic())
            if host.clock.monotonic() - began[0] < seconds:
                raise HostUnreachable("nobody answers.")

    host.before = before


def test_a_minute_of_silence_is_outlived() -> None:
    host = TableHost()
    host.on(DESTROY, returns(4096, Job=job_ref("J1")))
    host.rows["Msvm_ConcreteJob"] = [job(state=7)]
    cut(host, 60)
    assert destroy(host) is Outcome.COMPLETED
    assert host.clock.slept


def test_an_hour_of_silence_is_not() -> None:
    host = TableHost()
    host.on(DESTROY, returns(4096, Job=job_ref("J1")))
    cut(host, 3600)
    with pytest.raises(HostUnreachable):
        destroy(host)


def test_a_call_that_never_left_is_made_again() -> None:
    host = TableHost()
    host.on(DESTROY, returns(0))
    cut(host, 60, "/DestroySnapshot")
    assert destroy(host) is Outcome.COMPLETED
    assert len(host.calls) == 1


def test_a_call_whose_answer_was_lost_is_never_made_again() -> None:
    host = TableHost()
    host.on(DESTROY, Reply("<s:nonsense/>"))
    with pytest.raises(OutcomeUnknown):
        destroy(host)
    assert len(host.calls) == 1


def test_a_fault_with_a_known_hresult_becomes_its_error() -> None:
    host = TableHost()
    host.on(DESTROY, fault(0x80070020))
    with pytest.raises(errors.FileInUse, match="0x80070020"):
        destroy(host)


def test_another_fault_stays_the_hosts_own() -> None:
    host = TableHost()
    host.on(DESTROY, fault(0x80041001))
    with pytest.raises(HostFault):
        destroy(host)


def test_a_refusal_is_judged_by_its_code() -> None:
    host = TableHost()
    host.on(DESTROY, returns(32775))
    with pytest.raises(errors.VmBusy, match="32775, invalid state"):
        destroy(host)


def test_a_listener_may_end_the_wait() -> None:
    class Enough(Exception):
        pass

    host = TableHost()
    started(host, {"state": 4})
    speaking = host.hyperv()

    def stop(_: object) -> None:
        raise Enough

    with pytest.raises(Enough):
        perform(
            type(speaking)(speaking.client, speaking.clock, stop),
            DESTROY_CHECKPOINT,
            {"AffectedSnapshot": SETTINGS.ref("Microsoft:1")},
            Kind.DESTROY,
            "it",
        )


class Interrupted(BaseException):
    """Somebody ends the process's patience, at the worst moment."""


def _interrupt(_: object) -> None:
    raise Interrupted


@pytest.mark.parametrize("answer", [returns(32775), fault(0x80070032), fault(0x80041008)])
def test_what_was_refused_has_not_run(answer: Reply) -> None:
    host, fate = TableHost(), Fate()
    host.on(DESTROY, answer)
    with pytest.raises((errors.HyperVError, HostError)):
        make(host, fate)
    assert (fate.may_have_run, fate.job) == (False, None)


def test_what_never_arrived_has_not_run() -> None:
    host, fate = TableHost(), Fate()
    cut(host, 3600, "/DestroySnapshot")
    with pytest.raises(HostUnreachable):
        make(host, fate)
    assert not fate.may_have_run


# The remote procedure call failed; WBEM_E_FAILED; a file is open elsewhere.
@pytest.mark.parametrize(
    "answer",
    [
        *(Reply("<s:nonsense/>"), returns(0), fault(0x800706BE), fault(0x80041001), fault(0x80070020)),
        *(returns(32768), returns(32771), returns(32772), returns(99)),  # failed, unknown, timed out, what?
    ],
)
def test_what_was_sent_may_have_run_whoever_heard_of_it(answer: Reply) -> None:
    host, fate = TableHost(), Fate()
    host.on(DESTROY, answer)
    with suppress(OutcomeUnknown, HostFault, errors.HyperVError):
        make(host, fate)
    assert (fate.may_have_run, fate.job) == (True, None)


def test_a_call_that_was_stopped_in_the_middle_may_have_run() -> None:
    host, fate = TableHost(), Fate()
    host.on(DESTROY, returns(4096, Job=job_ref("J1")))
    host.before = _interrupt
    with pytest.raises(Interrupted):
        make(host, fate)
    assert fate.may_have_run


def test_the_job_is_told_before_anything_else_can_fail() -> None:
    host, told = TableHost(), list[str]()
    fate = Fate(told.append)
    host.on(ERROR, returns(0, Errors=[]))
    started(host, {"state": 10, "ErrorCode": 32774})
    with pytest.raises(errors.VmBusy):
        make(host, fate)
    assert (fate.may_have_run, fate.job, told) == (True, "j1", ["J1"]), "it may have made something first"


def make(host: TableHost, fate: Fate) -> None:
    arguments = {"AffectedSnapshot": SETTINGS.ref("Microsoft:1")}
    perform(host.hyperv(), DESTROY_CHECKPOINT, arguments, Kind.DESTROY, "the checkpoint", fate)


def test_what_is_called_is_what_annex_a_says() -> None:
    host = TableHost()
    seen: list[Called] = []

    def step(called: Called) -> Reply:
        seen.append(called)
        return returns(0)(called)

    host.on(DESTROY, step)
    destroy(host)
    assert seen == [Called(DESTROY, {"AffectedSnapshot": {"InstanceID": "Microsoft:1"}})]
