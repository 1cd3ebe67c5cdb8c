"""Ours is told from strangers by the whole name, to the letter."""

import pytest

from vmkeep.host.hyperv import Owner

pytestmark = pytest.mark.quick

OURS = Owner("3f" * 16, "a1" * 16)


def test_a_mark_is_recognised() -> None:
    assert OURS.name == f"vmkeep {'3f' * 16} {'a1' * 16}"
    assert Owner.of(OURS.name) == OURS


@pytest.mark.parametrize(
    "name",
    [
        "",
        "web - (3/29/2026 - 12:31:00 AM)",
        "vmkeep",
        "vmkeep test before the update",
        OURS.name + " ",
        " " + OURS.name,
        OURS.name.upper(),
        OURS.name.replace(" ", "  "),
        OURS.name + "\n",
        f"vmkeep {'3f' * 16}",
        f"vmkeep {'3f' * 16} {'a1' * 16} 3",
        f"vmkeep {'3f' * 40} {'a1' * 16}",
    ],
)
def test_a_strangers_name_is_nobodys_mark(name: str) -> None:
    assert Owner.of(name) is None


def test_the_notes_say_who_made_it_and_how_it_goes_away() -> None:
    (note,) = OURS.notes
    assert OURS.run in note
    assert OURS.repository in note
    assert "vmkeep sweep" in note
    assert "Remove-VMCheckpoint" in note


@pytest.mark.parametrize(
    "ids", [("", "a1" * 16), ("3f" * 16, "x"), ("3F" * 16, "a1" * 16), ("3f 3f3f3f3f", "a1" * 16)]
)
def test_ids_that_could_be_mistaken_are_refused(ids: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot mark"):
        Owner(*ids)


def test_a_probe_belongs_to_no_repository_and_its_notes_say_how_it_goes_away() -> None:
    probe = Owner.of_probe("a1" * 16)
    assert Owner.of(probe.name) == probe
    assert probe.name == f"vmkeep {'0' * 32} {'a1' * 16}"
    (note,) = probe.notes
    assert probe.run in note
    assert "hosts check" in note
    assert "Remove-VMCheckpoint" in note
    assert "--repo" not in note
