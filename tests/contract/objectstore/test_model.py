"""Any sequence of requests does to a store what it does to a plain dictionary."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.objectstore.places import PLACES
from vmkeep.objectstore.errors import ObjectExists
from vmkeep.objectstore.store import ObjectWriter

pytestmark = pytest.mark.quick

names = st.sampled_from(["format", "packs/00/a", "packs/00/b", "packs/01/a", "packs-x", "seals/v/1"])
contents = st.sampled_from([b"", b"one", b"two", b"\0" * 5000])


class StoreAgainstDictionary(RuleBasedStateMachine):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.store = PLACES[kind](Path(self._folder.name)).store
        self.expected: dict[str, bytes] = {}
        self.writing: list[tuple[str, bytes, ObjectWriter]] = []

    def teardown(self) -> None:
        for _, _, writer in self.writing:
            writer.abort()
        self._folder.cleanup()

    @rule(name=names, content=contents)
    def put(self, name: str, content: bytes) -> None:
        self._expect_put(name, content, lambda: self.store.put(name, content))

    @rule(name=names, content=contents)
    def put_if_absent(self, name: str, content: bytes) -> None:
        assert self.store.put_if_absent(name, content) is (name not in self.expected)
        self.expected.setdefault(name, content)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.expected.pop(name, None)

    @precondition(lambda self: len(self.writing) < 3)
    @rule(name=names, pieces=st.lists(contents, max_size=3))
    def begin(self, name: str, pieces: list[bytes]) -> None:
        writer = self.store.create(name)
        for piece in pieces:
            writer.write(piece)
        self.writing.append((name, b"".join(pieces), writer))

    @precondition(lambda self: self.writing)
    @rule()
    def commit(self) -> None:
        name, content, writer = self.writing.pop()
        self._expect_put(name, content, writer.commit)

    @precondition(lambda self: self.writing)
    @rule()
    def abort(self) -> None:
        self.writing.pop()[2].abort()

    def _expect_put(self, name: str, content: bytes, request: Callable[[], None]) -> None:
        if self.expected.get(name, content) == content:
            request()
            self.expected[name] = content
        else:
            with pytest.raises(ObjectExists):
                request()

    @invariant()
    def holds_the_same(self) -> None:
        listed = [(info.name, info.size) for info in self.store.list("")]
        assert listed == sorted((name, len(content)) for name, content in self.expected.items())
        assert {name: self.store.get(name) for name, _ in listed} == self.expected


@pytest.mark.parametrize("kind", sorted(PLACES))
def test_a_store_behaves_like_a_dictionary(kind: str) -> None:
    class OfThisKind(StoreAgainstDictionary):
        def __init__(self) -> None:
            super().__init__(kind)

    run_state_machine_as_test(
        OfThisKind, settings=settings(max_examples=20, stateful_step_count=25, deadline=None)
    )
