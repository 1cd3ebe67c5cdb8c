"""Which restore point a text means: id, prefix, latest, VM, VM@latest, VM@TIME."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tests.clocks import FakeClock
from tests.repositories import manifest_of
from vmkeep.model.plan import VmRef
from vmkeep.repository.errors import PointAmbiguous, PointNotFound, Tampered
from vmkeep.repository.listing import Listing, SealedPoint, Tombstone

pytestmark = pytest.mark.quick

START = datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC)
WEB, DB = VmRef("11111111-aaaa", "web"), VmRef("22222222-bbbb", "db")


def _point(vm: VmRef, point_id: str, number: int, after: timedelta) -> SealedPoint:
    point = manifest_of(vm, [], FakeClock(START + after))(point_id)
    name = f"points/{vm.id}/{START + after:%Y%m%dT%H%M%SZ}-{point_id}"
    return SealedPoint(replace(point, number=number), name, bytes([number]) * 32)


def _after(sealed: SealedPoint, previous: SealedPoint) -> SealedPoint:
    return replace(sealed, point=replace(sealed.point, previous=(previous.name, previous.digest)))


def _damage(listing: Listing, *lost: SealedPoint) -> Listing:
    """Return what is listed when the manifests of some points do not verify."""
    problems = tuple(Tampered(f"the object {one.name} is damaged.", object=one.name) for one in lost)
    return replace(
        listing,
        points=tuple(s for s in listing.points if s not in lost),
        problems=listing.problems + problems,
    )


W1 = _point(WEB, "aaaa1111" + "0" * 24, 1, timedelta())
W2 = _point(WEB, "aaaa2222" + "0" * 24, 2, timedelta(hours=5))
D1 = _point(DB, "bbbb1111" + "0" * 24, 1, timedelta(days=1))
W3 = _point(WEB, "cccc1111" + "0" * 24, 3, timedelta(days=2, microseconds=5))


def _listing(*points: SealedPoint) -> Listing:
    return Listing(tuple(sorted(points, key=lambda s: s.point.time)), (), ())


LISTING = _listing(W1, W2, D1, W3)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (W2.point.id, W2), (W2.point.id.upper(), W2), ("aaaa1", W1), ("AAAA2", W2), ("bbbb", D1),
        ("latest", W3), ("web", W3), ("web@latest", W3), ("db", D1), ("db@latest", D1),
        (WEB.id, W3), (f"{DB.id}@latest", D1), (f"{WEB.id}@2026-03-01T10", W1),
        ("web@2026-03-03", W3), ("web@2026-03-01T10:00:00Z", W1), ("web@2026-03-01 10:00", W1),
        ("web@2026-03-01T10:00:00+00:00", W1), ("web@2026-03-01T17:00:00+02:00", W2),
        ("web@2026-03-01T15", W2), ("web@2026-03-03T10:00:00.000005Z", W3), ("web@2026-03-03T10:00:00Z", W3),
        ("db@2026", D1),
    ],
)  # fmt: skip
def test_meant(text: str, meant: SealedPoint) -> None:
    assert LISTING.find(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web@",
        "dddd",
        "nobody",
        "nobody@latest",
        "web@2027",
        "web@noon",
        "@latest",
        "Web",
        "0" * 32,
        "latest@web",
    ],
)
def test_not_found(text: str) -> None:
    with pytest.raises(PointNotFound, match=text or "''"):
        LISTING.find(text)


@pytest.mark.parametrize("text", ["aaa", "aaaa", "web@2026-03-01", "web@2026"])
def test_ambiguous(text: str) -> None:
    with pytest.raises(PointAmbiguous):
        LISTING.find(text)


def test_empty_repository() -> None:
    with pytest.raises(PointNotFound):
        _listing().find("latest")


def test_full_id_wins_over_longer_ones() -> None:
    # Ids are all of one length; a VM may be called like one.
    called = _point(VmRef("33333333-cccc", W1.point.id), "dddd" * 8, 1, timedelta(days=9))
    assert _listing(W1, called).find(W1.point.id) == W1


def test_vm_called_like_the_beginning_of_an_id_is_ambiguous() -> None:
    called = _point(VmRef("33333333-cccc", "aaaa1"), "dddd" * 8, 1, timedelta(days=9))
    with pytest.raises(PointAmbiguous):
        _listing(W1, called).find("aaaa1")


def test_point_that_is_meant_twice_is_meant_once() -> None:
    called = _point(VmRef("33333333-cccc", "dddd"), "dddd" * 8, 1, timedelta(days=9))
    assert _listing(W1, called).find("dddd") == called


def test_two_vms_of_one_name_need_the_id() -> None:
    twin = _point(VmRef("44444444-dddd", "web"), "eeee" * 8, 1, timedelta(days=9))
    for text in ("web", "web@latest", "web@2026-03-01T10"):
        with pytest.raises(PointAmbiguous):
            _listing(W1, twin).find(text)
    assert _listing(W1, twin).find("44444444-dddd") == twin


def test_vm_with_an_at_sign_in_its_name() -> None:
    odd = _point(VmRef("55555555-eeee", "mail@home"), "ffff" * 8, 1, timedelta(days=9))
    listing = _listing(W1, odd)
    for text in ("mail@home", "mail@home@latest", "mail@home@2026-03-10"):
        assert listing.find(text) == odd


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("web@latest", "web@latest"), ("web@2026-03-03", "web@2026-03-03"), ("latest", "latest"),
        (f"{WEB.id}@latest", f"{WEB.id}@latest"),
    ],
)  # fmt: skip
def test_a_vm_called_like_a_point_of_another_is_ambiguous(name: str, text: str) -> None:
    called = _point(VmRef("33333333-cccc", name), "dddd" * 8, 1, timedelta(days=1, hours=1))
    listing = _listing(W1, W2, D1, W3, called)
    with pytest.raises(PointAmbiguous):
        listing.find(text)
    # Both can still be told apart.
    assert listing.find(f"{name}@latest") == listing.find(called.point.vm.id) == called
    assert listing.find("web") == W3


def test_a_vm_called_latest_whose_newest_is_the_latest_of_all_is_meant_once() -> None:
    called = _point(VmRef("33333333-cccc", "latest"), "dddd" * 8, 1, timedelta(days=9))
    assert _listing(W1, called).find("latest") == called


def test_of_two_meanings_the_one_without_a_point_is_none() -> None:
    called = _point(VmRef("33333333-cccc", "web@2027"), "dddd" * 8, 1, timedelta(days=9))
    assert _listing(W1, W3, called).find("web@2027") == called


def test_a_damaged_point_of_either_meaning_is_named() -> None:
    called = _point(VmRef("33333333-cccc", "web@latest"), "dddd" * 8, 1, timedelta(days=9))
    with pytest.raises(Tampered, match="cccc1111"):
        _damage(_listing(W1, W3, called), W3).find("web@latest")


@pytest.mark.parametrize("text", ["{}", "{}@latest", "{}@2026-03-02"])
def test_the_id_of_a_vm_is_found_in_capitals_too(text: str) -> None:
    assert LISTING.find(text.format("22222222-BBBB")) == D1
    # A name keeps its letters: two VMs may differ in them alone.
    with pytest.raises(PointNotFound):
        LISTING.find(text.format("DB"))


def test_latest_of_a_vm_goes_by_number() -> None:
    # The clock was a year ahead when the second point was made, and was then set right.
    ahead = _point(WEB, "9999" * 8, 2, timedelta(days=365))
    right = _point(WEB, "8888" * 8, 3, timedelta(days=1))
    assert _listing(W1, ahead, right).find("web") == right


def test_latest_of_all_is_the_last_of_each_vms_newest_by_number() -> None:
    # A clock far ahead must not stay the latest for ever.
    ahead = _point(WEB, "9999" * 8, 2, timedelta(days=365))
    right = _point(WEB, "8888" * 8, 3, timedelta(hours=1))
    assert _listing(W1, ahead, right).find("latest") == right
    assert _listing(W1, ahead, right, D1).find("latest") == D1
    assert _listing(W1, ahead, D1).find("latest") == ahead


def test_damaged_newest_is_refused_though_its_time_is_before_an_older_ones() -> None:
    ahead = _point(WEB, "9999" * 8, 2, timedelta(days=365))
    right = _after(_point(WEB, "8888" * 8, 3, timedelta(hours=1)), ahead)
    listing = _damage(_listing(W1, ahead, right, D1), right)
    for text in ("web", "web@latest", "latest"):
        with pytest.raises(Tampered, match="8888"):
            listing.find(text)
    assert listing.find("db") == D1


def test_damaged_older_point_is_in_nobodys_way_though_its_time_lies_ahead() -> None:
    ahead = _point(WEB, "9999" * 8, 2, timedelta(days=365))
    right = _after(_point(WEB, "8888" * 8, 3, timedelta(hours=1)), ahead)
    listing = _damage(_listing(W1, ahead, right), ahead)
    for text in ("web", "web@latest", "latest"):
        assert listing.find(text) == right


def test_two_damaged_older_points_are_in_nobodys_way() -> None:
    chain = [_point(WEB, f"{number}" * 32, number, timedelta(hours=number)) for number in (1, 2, 3, 4)]
    chain = [chain[0], *(_after(one, before) for before, one in pairwise(chain))]
    listing = _damage(_listing(*chain), chain[1], chain[2])
    assert listing.find("web") == listing.find("latest") == chain[3]
    with pytest.raises(Tampered):
        _damage(_listing(*chain), chain[2], chain[3]).find("web")


def test_a_predecessor_that_is_nowhere_is_a_gap() -> None:
    second = _after(W2, W1)
    third = _after(W3, second)
    assert _listing(W1, second, third, D1).gaps == ()
    (gap,) = _listing(W1, third, D1).gaps
    assert gap.context["object"] == second.name and second.name in gap.message
    # It tells only of the VM concerned, and the newest point is still what it was.
    assert [g.message for g in _listing(W1, third, D1).gaps_beside(third)] == [gap.message]
    assert _listing(W1, third, D1).gaps_beside(D1) == []
    assert _listing(W1, third, D1).find("latest") == third
    stone = Tombstone(second.name, WEB.id, 2, second.digest)
    assert replace(_listing(W1, third), forgotten=(stone,)).gaps == ()
    assert _damage(_listing(W1, second, third), second).gaps == (), "that is a problem already"
