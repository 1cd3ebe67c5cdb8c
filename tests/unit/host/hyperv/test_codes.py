"""Numbers decide, in any language; sentences never do."""

import pytest

from vmkeep.errors import Retry
from vmkeep.host.hyperv import errors
from vmkeep.host.hyperv.codes import HRESULTS, RETURN_CODES, hresults_in, judge, refusal

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The process cannot access the file ... (0x80070020).", (0x80070020,)),
        ("ファイルにアクセスできません。(0x80070020)", (0x80070020,)),
        ("Fehler -0x800423F2; siehe 0X800423f2 und (0x80070005)", (0x800423F2, 0x80070005)),
        ("wrong digits 0x8007002 and 0x800700201", ()),
        ("success codes count for nothing: 0x0004230A", ()),
        ("id a0x80070020 is part of a word", ()),
        ("", ()),
    ],
)
def test_hresults_are_found_in_any_language(text: str, numbers: tuple[int, ...]) -> None:
    assert hresults_in([text]) == numbers


# hyperv-backup-api.md section 2.2 and failures.md 3.3.
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, errors.NotSupported),
        (2, errors.OperationFailed),
        (4, errors.RequestRefused),
        (5, errors.VmBusy),
        (32768, errors.OperationFailed),
        (32769, errors.HostDenied),
        (32770, errors.NotSupported),
        (32773, errors.RequestRefused),
        (32774, errors.VmBusy),
        (32775, errors.VmBusy),
        (32778, errors.OperationFailed),
        (40000, errors.OperationFailed),
    ],
)
def test_return_codes_become_errors(code: int, error: type[errors.HyperVError]) -> None:
    made = refusal("cannot create the checkpoint of VM web", code)
    assert type(made) is error
    assert str(code) in made.message
    assert made.context["return_code"] == code
    assert made.hint


# failures.md 3.1 and 3.2, hyperv-backup-api.md 2.3 step 6 and 2.5.
@pytest.mark.parametrize(
    ("hresult", "error"),
    [
        (0x80070020, errors.FileInUse),
        (0x80070070, errors.HostOutOfSpace),
        (0x8007052F, errors.ServiceLogonMissing),
        (0x80070569, errors.ServiceLogonMissing),
        (0x800423F4, errors.GuestNotQuiesced),
        (0x80048102, errors.ChainAtRisk),
        (0xC03A0030, errors.TrackingLost),
        (0xC03A0029, errors.TrackingLost),
        (0xC03A002A, errors.TrackingLost),
    ],
)
def test_a_known_hresult_weighs_more_than_the_code(hresult: int, error: type[errors.HyperVError]) -> None:
    assert judge(32768, [hresult]).error is error
    assert judge(hresult).error is error, "some methods return the HRESULT itself"


def test_the_danger_to_the_chain_outweighs_everything() -> None:
    numbers = sorted(HRESULTS, reverse=True)
    assert judge(32775, numbers).error is errors.ChainAtRisk
    assert errors.ChainAtRisk.retry is Retry.NEVER


def test_an_unknown_hresult_leaves_the_decision_to_the_code() -> None:
    assert judge(32775, [0x8ABCDEF0]).error is errors.VmBusy


def test_each_row_has_words_and_a_hint() -> None:
    for meaning, error in [*RETURN_CODES.values(), *HRESULTS.values()]:
        assert meaning
        assert error.default_hint
