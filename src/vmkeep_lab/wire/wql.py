"""WQL: read a query, and decide which instances it means.

The grammar is the part of WQL that data queries use: SELECT, ASSOCIATORS OF, REFERENCES OF
(learn.microsoft.com/windows/win32/wmisdk/wql-sql-for-wmi). Strings compare without case, as WMI's do.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NoReturn

from vmkeep_lab.cim import WBEM_E_INVALID_QUERY, CimValue, Instance, WmiError
from vmkeep_lab.schema import CimClass, CimType
from vmkeep_lab.wire import times

MAX_QUERY: Final = 16_384
_MAX_DEPTH: Final = 64

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?))"""
    r"""|(?P<sign><>|!=|<=|>=|=|<|>|\(|\)|,|\*)|(?P<word>\w+))""",
    re.DOTALL,
)
_ABOUT: Final = re.compile(
    r"\s*(?P<what>ASSOCIATORS|REFERENCES)\s+OF\s*"
    r"\{(?P<path>(?:[^{}\"']|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*)\}\s*"
    r"(?:WHERE\s+(?P<where>.*))?",
    re.IGNORECASE | re.DOTALL,
)
_ABOUT_TERM: Final = re.compile(r"\s*(?:(\w+)\s*=\s*(\w+)|(\w+))")

Literals = str | int | float | bool | None


@dataclass(frozen=True)
class Comparison:
    """``property sign literal``; the sign is ``= <> < > <= >= LIKE ISA``."""

    name: str
    sign: str
    literal: Literals


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    inside: "Condition"


@dataclass(frozen=True)
class Both:
    """Two conditions joined."""

    word: Literal["AND", "OR"]
    left: "Condition"
    right: "Condition"


Condition = Comparison | Not | Both


@dataclass(frozen=True)
class Select:
    """``SELECT names FROM class WHERE condition``; no names means all."""

    class_name: str
    names: tuple[str, ...] = ()
    condition: Condition | None = None


@dataclass(frozen=True)
class About:
    """``ASSOCIATORS OF {path}`` or ``REFERENCES OF {path}`` with its terms, names in lower case."""

    path: str
    references: bool
    terms: dict[str, str] = field(default_factory=dict)


def read(query: str) -> Select | About:
    """Read a query; WmiError where it is none."""
    if len(query) > MAX_QUERY:
        _refuse("the query is too long")
    if found := _ABOUT.fullmatch(query):
        return About(
            found["path"].strip(), found["what"].upper() == "REFERENCES", _terms(found["where"] or "")
        )
    return _Reader(query).select()


_TERMS: Final = frozenset(
    {"assocclass", "resultclass", "role", "resultrole", "requiredqualifier", "requiredassocqualifier"}
)


def _terms(where: str) -> dict[str, str]:
    terms: dict[str, str] = {}
    place = 0
    where = where.rstrip()
    while place < len(where):
        found = _ABOUT_TERM.match(where, place)
        if not found:
            _refuse(f"cannot read {where[place : place + 40]!r}")
        name, value, flag = found.groups()
        if name and name.lower() in _TERMS:
            terms[name.lower()] = value
        elif flag and flag.lower() in {"classdefsonly", "schemaonly", "keysonly"}:
            terms[flag.lower()] = ""
        else:
            _refuse(f"unknown term {found[0].strip()!r}")
        place = found.end()
    return terms


class _Reader:
    """A reader of SELECT, by recursive descent."""

    def __init__(self, query: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        query = query.rstrip(" \t\r\n;")
        while place < len(query):
            found = _TOKEN.match(query, place)
            if not found:
                _refuse(f"cannot read {query[place : place + 40].strip()!r}")
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            place = found.end()
        self._place = 0
        self._depth = 0

    def select(self) -> Select:
        """Read the whole query."""
        self._expect("SELECT")
        names: list[str] = []
        if not self._taken("*"):
            names.append(self._word())
            while self._taken(","):
                names.append(self._word())
        self._expect("FROM")
        class_name = self._word()
        condition = self._either() if self._taken("WHERE") else None
        if self._place != len(self._tokens):
            _refuse(f"nothing may follow, but {self._tokens[self._place][1]!r} does")
        return Select(class_name, tuple(names), condition)

    def _either(self) -> Condition:
        left = self._all()
        while self._taken("OR"):
            left = Both("OR", left, self._all())
        return left

    def _all(self) -> Condition:
        left = self._one()
        while self._taken("AND"):
            left = Both("AND", left, self._one())
        return left

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            _refuse("too many parentheses")
        try:
            if self._taken("NOT"):
                return Not(self._one())
            if self._taken("("):
                inside = self._either()
                self._expect(")")
                return inside
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Condition:
        kind, _ = self._ahead()
        if kind in {"string", "number"}:
            # WQL also takes the literal first.
            literal = self._literal()
            sign = self._sign()
            turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign)
            return Comparison(self._word(), turned, literal)
        name = self._word()
        if self._taken("IS"):
            negated = self._taken("NOT")
            self._expect("NULL")
            return Comparison(name, "<>" if negated else "=", None)
        if self._taken("NOT"):
            self._expect("LIKE")
            return Not(Comparison(name, "LIKE", self._text()))
        if self._taken("LIKE"):
            return Comparison(name, "LIKE", self._text())
        if self._taken("ISA"):
            return Comparison(name, "ISA", self._text())
        return Comparison(name, self._sign(), self._literal())

    def _sign(self) -> str:
        kind, text = self._next()
        if kind != "sign" or text in {"(", ")", ",", "*"}:
            _refuse(f"{text!r} does not compare")
        return "<>" if text == "!=" else text

    def _literal(self) -> Literals:
        kind, text = self._next()
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        if kind == "number":
            if "." in text:
                return float(text)
            return int(text, 16) if "x" in text.lower() else int(text)
        known: dict[str, Literals] = {"TRUE": True, "FALSE": False, "NULL": None}
        if text.upper() not in known:
            _refuse(f"{text!r} is no constant")
        return known[text.upper()]

    def _text(self) -> str:
        literal = self._literal()
        if not isinstance(literal, str):
            _refuse("a string is needed")
        return literal

    def _ahead(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "the end")

    def _next(self) -> tuple[str, str]:
        token = self._ahead()
        if token[0] == "end":
            _refuse("the query ends too early")
        self._place += 1
        return token

    def _word(self) -> str:
        kind, text = self._next()
        if kind != "word":
            _refuse(f"{text!r} is no name")
        return text

    def _taken(self, text: str) -> bool:
        kind, ahead = self._ahead()
        if kind in {"word", "sign"} and ahead.upper() == text:
            self._place += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._taken(text):
            _refuse(f"{text} is missing before {self._ahead()[1]!r}")


# --- which instances a condition means -------------------------------------------------


def check(condition: Condition | None, kind: CimClass) -> None:
    """Refuse a condition on properties that the class does not have, or that are arrays."""
    match condition:
        case Comparison(name, _, literal) if not name.startswith("__"):
            spelled = kind.property_name(name)
            if spelled is None:
                _refuse(f"{kind.name} has no property {name}")
            if kind.properties[spelled].is_array and literal is not None:
                _refuse(f"{spelled} is an array")
        case Not(inside):
            check(inside, kind)
        case Both(_, left, right):
            check(left, kind)
            check(right, kind)


def holds(condition: Condition | None, kind: CimClass, instance: Instance) -> bool:
    """Tell whether an instance of that class is meant."""
    match condition:
        case None:
            return True
        case Not(inside):
            return not holds(inside, kind, instance)
        case Both("AND", left, right):
            return holds(left, kind, instance) and holds(right, kind, instance)
        case Both(_, left, right):
            return holds(left, kind, instance) or holds(right, kind, instance)
        case Comparison(name, sign, literal):
            return _compares(name, sign, literal, kind, instance)
    raise AssertionError(condition)


def _compares(name: str, sign: str, literal: Literals, kind: CimClass, instance: Instance) -> bool:
    if name.upper() == "__CLASS":
        value: CimValue = kind.name
        if sign == "ISA":
            return kind.is_a(str(literal))
        typed = CimType("string")
    else:
        spelled = kind.property_name(name) or name
        value = instance.values.get(spelled)
        typed = kind.property_type(spelled)
    if literal is None or value is None:
        # Null equals null only; other comparisons with null hold for nothing.
        same = value is None and literal is None
        return (sign == "=") == same if literal is None and sign in {"=", "<>"} else False
    if sign == "LIKE":
        return isinstance(value, str) and bool(_pattern(str(literal)).fullmatch(value))
    return _ordered(sign, *_comparable(value, literal, typed))


def _comparable(value: CimValue, literal: Literals, typed: CimType) -> tuple[object, object]:
    """Return both sides as values that Python compares; WmiError where they cannot be compared."""
    if not isinstance(value, bool | int | datetime | timedelta | str):
        _refuse(f"a {typed.name} does not compare")
    if isinstance(value, bool):
        wanted = literal if isinstance(literal, bool) else _boolean(literal)
        return value, wanted
    if isinstance(value, int):
        if isinstance(literal, str):
            try:
                return value, int(literal)
            except ValueError:
                _refuse(f"{literal!r} is no {typed.name}")
        return value, literal
    if isinstance(value, datetime | timedelta):
        try:
            moment = times.read_cim(str(literal))
        except ValueError:
            _refuse(f"{literal!r} is no datetime")
        if isinstance(value, datetime) != isinstance(moment, datetime):
            _refuse("a time and an interval do not compare")
        return value, moment
    return value.lower(), str(literal).lower()


def _boolean(literal: Literals) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if str(literal).lower() not in known:
        _refuse(f"{literal!r} is no boolean")
    return known[str(literal).lower()]


_SIGNS: Final[dict[str, Callable[[int], bool]]] = {
    "=": lambda order: order == 0,
    "<>": lambda order: order != 0,
    "<": lambda order: order < 0,
    ">": lambda order: order > 0,
    "<=": lambda order: order <= 0,
    ">=": lambda order: order >= 0,
}


def _ordered(sign: str, left: object, right: object) -> bool:
    if sign not in _SIGNS:
        _refuse(f"{sign} does not compare these")
    return _SIGNS[sign]((left > right) - (left < right))  # type: ignore[operator]


def _pattern(like: str) -> re.Pattern[str]:
    """Return the expression that a LIKE pattern means: ``%``, ``_``, ``[a-z]``, ``[^a-z]``."""
    parts: list[str] = []
    place = 0
    while place < len(like):
        sign = like[place]
        end = like.find("]", place + 1) if sign == "[" else -1
        if sign == "%":
            # Two in a row mean the same as one, and would only cost time.
            parts.append(".*" if not parts or parts[-1] != ".*" else "")
        elif sign == "_":
            parts.append(".")
        elif end > 0:
            inside = (
                re.escape(like[place + 1 : end]).replace(r"\-", "-").replace(r"\^", "^").replace("=", "-")
            )
            parts.append(f"[{inside}]")
            place = end
        else:
            parts.append(re.escape(sign))
        place += 1
    try:
        return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)
    except re.error as error:
        raise WmiError(WBEM_E_INVALID_QUERY, f"cannot read the pattern {like[:80]!r}") from error


def _refuse(message: str) -> NoReturn:
    raise WmiError(WBEM_E_INVALID_QUERY, message)
