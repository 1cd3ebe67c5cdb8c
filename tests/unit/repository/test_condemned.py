"""Condemnations: a record nobody can read condemns its pack, and says nothing of damage."""

import pytest

from tests.repositories import make_repository
from vmkeep.repository.box import close_box
from vmkeep.repository.condemned import condemned_packs, damaged_packs

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 100_000], ids=lambda content: content[:9].decode()
)
def test_condemnation_that_cannot_be_understood_counts_as_absent_for_damage(content: bytes) -> None:
    repository = make_repository()
    name = f"condemned/{'ab' * 16}"
    repository.store.put(name, close_box(repository.ring, name, content))
    assert damaged_packs(repository.store, repository.ring) == frozenset()
    assert condemned_packs(repository.store) == {b"\xab" * 16}
