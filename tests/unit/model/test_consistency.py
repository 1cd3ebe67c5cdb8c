"""The order of consistency levels, and what a user may ask for (design, section 3)."""

import pytest

from vmkeep.model.consistency import Consistency, Policy

pytestmark = pytest.mark.quick

BEST_FIRST = ["application", "filesystem", "saved", "off", "crash"]


def test_the_levels_are_ordered_best_first() -> None:
    assert [level.value for level in Consistency] == BEST_FIRST


@pytest.mark.parametrize("got", BEST_FIRST)
@pytest.mark.parametrize("required", BEST_FIRST)
def test_a_level_satisfies_what_is_not_better(got: str, required: str) -> None:
    # Only a VM that was shut down cleanly would satisfy every level, and `off` does not say that it was.
    expected = BEST_FIRST.index(got) <= BEST_FIRST.index(required)
    assert Consistency(got).satisfies(Consistency(required)) is expected


@pytest.mark.parametrize("text", ["preferred", "any", *(f"required:{level}" for level in BEST_FIRST)])
def test_a_policy_is_written_as_it_is_read(text: str) -> None:
    policy = Policy.parse(text, allow_interruption=True)
    assert str(policy) == text
    assert policy.allow_interruption
    assert (policy.level is not None) is text.startswith("required:")


@pytest.mark.parametrize(
    "text", ["", "required", "required:", "required:best", "any:crash", "Required:crash", "crash"]
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="required:application"):
        Policy.parse(text)


def test_interruption_is_off_unless_allowed() -> None:
    assert not Policy().allow_interruption and not Policy.parse("any").allow_interruption
