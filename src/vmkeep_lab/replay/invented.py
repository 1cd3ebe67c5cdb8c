"""Names that whoever was recorded made up, and what whoever asks now says in their place.

A program that makes a checkpoint gives it a name, of this very run, so that nobody can ask for it twice in
the same words (docs/trace.md, "Names that were made up").
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from vmkeep_lab.wire.markup import text

_PLACEHOLDER: Final = re.compile(r"name-\d+", re.ASCII)


class Invented:
    """What stands for what, by the names of the trace; grows with the questions."""

    def __init__(self, told: Callable[[str, int], bool]) -> None:
        """``told(text, number)`` says whether a reply before the exchange of this number holds a text."""
        self._told = told
        self._now: dict[str, str] = {}  # by the recorded name
        self._then: dict[str, str] = {}  # by the one that is used now

    def as_recorded(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return texts of a question in the words of the trace."""
        return tuple(self._then.get(each, each) for each in texts)

    def take(self, recorded: Sequence[str], given: Sequence[str], number: int) -> bool:
        """Learn the names in which two questions differ; False where they differ in more than such names.

        ``number`` is the exchange's of the recorded one. Nothing is learned unless all is understood.
        """
        pairs = {(one, other) for one, other in zip(recorded, given, strict=True) if one != other}
        names = [one for one, _ in pairs]
        if len(set(names)) < len(names) or not all(self._may_stand_for(*pair, number) for pair in pairs):
            return False
        self._now.update(pairs)
        self._then.update((other, one) for one, other in pairs)
        return True

    def _may_stand_for(self, recorded: str, given: str, number: int) -> bool:
        is_new = recorded not in self._now and given not in self._then
        return (
            is_new
            and given != ""
            and _PLACEHOLDER.fullmatch(recorded) is not None
            and not self._told(recorded, number)
        )

    def in_reply(self, reply: str) -> str:
        """Return a recorded reply in the names that are used now, where one is the whole of a text."""
        for recorded, given in self._now.items():
            reply = reply.replace(f">{recorded}<", f">{text(given)}<")
            reply = reply.replace(f"&gt;{recorded}&lt;", f"&gt;{text(text(given))}&lt;")
        return reply
