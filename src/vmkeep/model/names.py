"""Find the name that somebody may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Final

_MOST_NAMES: Final = 5000
_LONGEST_NAME: Final = 256
_LIKENESS: Final = 0.75
_MOST_TOLD: Final = 3


def nearest(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that ``text`` may be a slip for, likeliest first; empty if none is like it.

    Those that differ in capitals only leave no doubt: only they are returned then. A name
    with other digits is another machine's, not a slip.
    """
    known = tuple(islice((name for name in dict.fromkeys(names) if len(name) <= _LONGEST_NAME), _MOST_NAMES))
    wanted = text[:_LONGEST_NAME].casefold()
    same = tuple(name for name in known if name.casefold() == wanted)
    if same:
        return same[:_MOST_TOLD]
    folded: dict[str, list[str]] = {}
    for name in known:
        if _digits(name) == _digits(wanted):
            folded.setdefault(name.casefold(), []).append(name)
    near = get_close_matches(wanted, folded, n=_MOST_TOLD, cutoff=_LIKENESS)
    return tuple(name for each in near for name in folded[each])[:_MOST_TOLD]


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """Return the end of a sentence that asks for the nearest names; empty if none is near."""
    near = nearest(text, names)
    if not near:
        return ""
    *others, last = map(repr, near)
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
