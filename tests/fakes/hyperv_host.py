"""A host that answers by tables: rows of WMI classes, and what its methods do.

It stands where the network would be (``Client(..., transport=host)``), and its XML
is written here from hyperv-backup-api.md section 5 and Annex A and from real
recordings, apart from the code under test. It knows no Hyper-V: what a method
does to the rows each test says itself.
"""

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from tests.clocks import FakeClock
from tests.fakes.wsman_host import NS, Question, Reply, fault
from vmkeep.host.hyperv import HyperV, Waiting
from vmkeep.host.wsman import Client, Endpoint
from vmkeep.host.wsman.connection import HttpReply
from vmkeep.secrets import Secret

V2: Final = "root/virtualization/v2"
_WMI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi"
_TRANSFER: Final = NS["x"]
_ENUMERATION: Final = NS["n"]
_ANONYMOUS: Final = f"{NS['a']}/role/anonymous"

NOT_FOUND: Final = 2150858752
ENVELOPE_TOO_LARGE: Final = 2150858824

_SELECT: Final = re.compile(r"SELECT (.+?) FROM (\w+)(?: WHERE (.+))?", re.DOTALL)
_REFERENCES: Final = re.compile(r"REFERENCES OF \{(\w+)\.(.+)\} WHERE ResultClass = (\w+)", re.DOTALL)
_INNERMOST: Final = re.compile(r"\(([^()]*)\)")
_CONDITION: Final = re.compile(r"(\w+) (=|<>|LIKE) '((?:[^'\\]|\\.)*)'", re.DOTALL)


@dataclass(frozen=True)
class Epr:
    """A reference, as a value of a row."""

    class_name: str
    keys: tuple[tuple[str, str], ...]

    def xml(self) -> str:
        selectors = "".join(f"<w:Selector Name={quoteattr(k)}>{escape(v)}</w:Selector>" for k, v in self.keys)
        return (
            f"<a:Address>{_ANONYMOUS}</a:Address><a:ReferenceParameters>"
            f"<w:ResourceURI>{_WMI}/{V2}/{self.class_name}</w:ResourceURI>"
            f"<w:SelectorSet>{selectors}</w:SelectorSet></a:ReferenceParameters>"
        )


Value = str | int | bool | None | datetime | Epr | Sequence["str | int"]
Row = dict[str, Value]


@dataclass(frozen=True)
class Called:
    """One method call as the host sees it: the texts of its inputs, references by their selectors."""

    method: str
    inputs: Mapping[str, Any]


Step = Reply | Callable[[Called], Reply]


def embedded(class_name: str, properties: Mapping[str, str | int | None]) -> str:
    """Spell an embedded instance the way a host does: null is a PROPERTY without a VALUE."""
    body = "".join(
        f"<PROPERTY NAME={quoteattr(name)} TYPE={quoteattr(_cim_type(value))}>"
        + ("" if value is None else f"<VALUE>{escape(str(value))}</VALUE>")
        + "</PROPERTY>"
        for name, value in properties.items()
    )
    return f"<INSTANCE CLASSNAME={quoteattr(class_name)}>{body}</INSTANCE>"


def _cim_type(value: str | int | None) -> str:
    return "uint64" if isinstance(value, int) else "string"


def returns(number: int, **outputs: Value) -> Callable[[Called], Reply]:
    """Answer a method with its number and out parameters, which come in alphabetical order."""

    def step(called: Called) -> Reply:
        class_name, _, method = called.method.partition(".")
        body = "".join(_element(name, value, "p:") for name, value in sorted(outputs.items()))
        return Reply(
            f'<p:{method}_OUTPUT xmlns:p="{_WMI}/{V2}/{class_name}">{body}'
            f"<p:ReturnValue>{number}</p:ReturnValue></p:{method}_OUTPUT>"
        )

    return step


def missing() -> Reply:
    """The fault of a Get for an object that is not there."""
    return fault(NOT_FOUND, "a:DestinationUnreachable")


@dataclass
class TableHost:
    """The host: fill ``rows`` by class and ``methods`` by ``Class.Method``, then look at ``calls``.

    ``refused`` is by class, and by "REFERENCES OF" for such queries.

    A method's steps are used up one by one; the last one stays. ``before`` runs
    before each answer, so that a test can let things happen meanwhile.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, Reply] = field(default_factory=dict)
    methods: dict[str, deque[Step]] = field(default_factory=dict)
    calls: list[Called] = field(default_factory=list)
    waits: list[Waiting] = field(default_factory=list)
    before: Callable[[Question], None] = lambda question: None
    envelope_bytes: int = 500 * 1024
    sent_bytes: int = 0
    _pages: dict[str, list[str]] = field(default_factory=dict)

    def hyperv(self) -> HyperV:
        """Return the host as the code under test speaks to it."""
        endpoint = Endpoint(address="hv01", user="LAB\\tester", password=Secret("canary"))
        return HyperV(Client(endpoint, self.clock, transport=self), self.clock, self.waits.append)

    def on(self, method: str, *steps: Step) -> None:
        """Say what a method does, call by call."""
        self.methods[method] = deque(steps)

    def called(self, method: str) -> list[Called]:
        """Return the calls of one method so far."""
        return [call for call in self.calls if call.method.endswith(method)]

    # --- the network's side ---------------------------------------------------------

    def be_watched(self, look: Callable[[], None]) -> None:
        """It answers at once: there is nothing to look through."""

    def send(self, content: bytes, wait_s: float) -> HttpReply:
        question = Question(content.decode())
        self.before(question)
        reply = self._answer(question)
        answer = reply.envelope(question)
        self.sent_bytes += len(answer)
        return HttpReply(reply.status, answer)

    def close(self) -> None:
        return

    def _answer(self, question: Question) -> Reply:
        match question.action.removeprefix(f"{_TRANSFER}/").removeprefix(f"{_ENUMERATION}/"):
            case "Get":
                return self._get(question)
            case "Enumerate":
                return self._enumerate(question)
            case "Pull":
                return self._pull(question)
            case "Release":
                return Reply("")
            case action:
                return self._invoke(question, action)

    def _get(self, question: Question) -> Reply:
        class_name = question.header("w:ResourceURI").rpartition("/")[2]
        if class_name in self.refused:
            return self.refused[class_name]
        selectors = question.root.findall("s:Header/w:SelectorSet/w:Selector", NS)
        keys = {s.get("Name", ""): (s.text or "").lower() for s in selectors}
        for row in self.rows[class_name]:
            if all(str(row.get(name)).lower() == value for name, value in keys.items()):
                return Reply(_instance(class_name, row))
        return missing()

    def _enumerate(self, question: Question) -> Reply:
        wql = question.root.findtext(".//w:Filter", "", NS)
        if (about := _REFERENCES.fullmatch(wql)) is not None:
            return self._references(question, *about.groups())
        asked = _SELECT.fullmatch(wql)
        assert asked is not None, wql
        names, class_name, where = asked.groups()
        if class_name in self.refused:
            return self.refused[class_name]
        rows = [row for row in self.rows[class_name] if _fits(row, where)]
        return self._listed(question, [_fragment(row, names.split(",")) for row in rows])

    def _references(self, question: Question, class_name: str, keys: str, association: str) -> Reply:
        """Answer with the rows of an association that point to an object, whole: no projection was asked."""
        refusal = self.refused.get("REFERENCES OF") or self.refused.get(association)
        if refusal is not None:
            return refusal
        wanted = {name: value.lower() for name, value in re.findall(r'(\w+)="([^"]*)"', keys)}

        def is_end(value: Value) -> bool:
            return (
                isinstance(value, Epr)
                and value.class_name == class_name
                and {name: text.lower() for name, text in value.keys} == wanted
            )

        rows = [row for row in self.rows[association] if any(map(is_end, row.values()))]
        return self._listed(question, [_instance(association, row) for row in rows])

    def _listed(self, question: Question, items: list[str]) -> Reply:
        context = f"uuid:{len(self._pages)}"
        self._pages[context] = items
        page, ended = self._page(context, _most(question))
        rest = "" if ended else context
        return Reply(
            f"<n:EnumerateResponse><n:EnumerationContext>{rest}</n:EnumerationContext>"
            f"<w:Items>{page}</w:Items>{'<w:EndOfSequence/>' if ended else ''}</n:EnumerateResponse>"
        )

    def _pull(self, question: Question) -> Reply:
        context = question.root.findtext(".//n:EnumerationContext", "", NS)
        items, ended = self._page(context, _most(question))
        rest = "<n:EndOfSequence/>" if ended else ""
        head = "" if ended else f"<n:EnumerationContext>{context}</n:EnumerationContext>"
        return Reply(f"<n:PullResponse>{head}<n:Items>{items}</n:Items>{rest}</n:PullResponse>")

    def _page(self, context: str, most: int) -> tuple[str, bool]:
        """Take as many items as the question and the envelope allow."""
        waiting, taken, size = self._pages[context], 0, 2000
        while taken < min(most, len(waiting)):
            size += len(waiting[taken].encode())
            if size > self.envelope_bytes:
                break
            taken += 1
        page, self._pages[context] = waiting[:taken], waiting[taken:]
        return "".join(page), not self._pages[context]

    def _invoke(self, question: Question, action: str) -> Reply:
        class_name, _, method = action.removeprefix(f"{_WMI}/{V2}/").partition("/")
        body = question.root.find("s:Body", NS)
        assert body is not None
        called = Called(f"{class_name}.{method}", _inputs(body[0]))
        self.calls.append(called)
        steps = self.methods.get(called.method)
        assert steps, f"the test does not say what {called.method} does"
        step = steps.popleft() if len(steps) > 1 else steps[0]
        return step if isinstance(step, Reply) else step(called)


def _inputs(element: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for child in element:
        selectors = child.findall(".//w:Selector", NS)
        value = {s.get("Name", ""): s.text for s in selectors} if len(child) else child.text or ""
        found[child.tag.rpartition("}")[2]] = value
    return found


def _most(question: Question) -> int:
    asked = question.root.findtext(".//w:MaxElements", "", NS)
    return int(asked or question.root.findtext(".//n:MaxElements", "1", NS))


def _fits(row: Row, where: str | None) -> bool:
    """Tell whether a row fulfils conditions joined by AND, OR and parentheses; case means nothing."""

    def truth(found: re.Match[str]) -> str:
        return str(_holds(row, *found.groups()))

    # Each condition becomes True or False; what is left are words and parentheses.
    left = _CONDITION.sub(truth, where or "True")
    while (inner := _INNERMOST.sub(lambda found: str(_either(found[1])), left)) != left:
        left = inner
    return _either(left)


def _either(words: str) -> bool:
    """Return the truth of True and False joined by OR and AND, which binds tighter."""
    known = {"True": True, "False": False}
    parts = [part.strip() for either in words.split(" OR ") for part in either.split(" AND ")]
    assert set(parts) <= set(known), f"this host does not understand {words}"
    return any(all(known[part.strip()] for part in either.split(" AND ")) for either in words.split(" OR "))


def _holds(row: Row, name: str, sign: str, literal: str) -> bool:
    wanted = re.sub(r"\\(.)", r"\1", literal).lower()
    value = row.get(name)
    has = "" if value is None else str(value).lower()
    if sign == "LIKE":
        pattern = ".*".join(map(re.escape, wanted.split("%")))
        return re.fullmatch(pattern, has, re.DOTALL) is not None
    return has == wanted if sign == "=" else value is not None and has != wanted


def _instance(class_name: str, row: Row) -> str:
    """Spell a whole instance: properties in alphabetical order, the class's own namespace (recorded)."""
    uri = f"{_WMI}/{V2}/{class_name}"
    body = "".join(_element(name, value, "p:") for name, value in sorted(row.items()))
    return f'<p:{class_name} xmlns:p="{uri}" xsi:type="p:{class_name}_Type">{body}</p:{class_name}>'


def _fragment(row: Row, names: Iterable[str]) -> str:
    """Spell the answer to a projection: a fragment of properties without a namespace (believed)."""
    body = "".join(_element(name, row.get(name), "") for name in sorted(names))
    return f"<w:XmlFragment>{body}</w:XmlFragment>"


def _element(name: str, value: Value, prefix: str) -> str:
    tag = f"{prefix}{name}"
    match value:
        case None:
            return f'<{tag} xsi:nil="true"/>'
        case bool():
            return f"<{tag}>{'true' if value else 'false'}</{tag}>"
        case Epr():
            return f"<{tag}>{value.xml()}</{tag}>"
        case datetime():
            return f"<{tag}><cim:Datetime>{value.isoformat().replace('+00:00', 'Z')}</cim:Datetime></{tag}>"
        case str() | int():
            return f"<{tag}>{escape(str(value))}</{tag}>"
    return "".join(f"<{tag}>{escape(str(item))}</{tag}>" for item in value)
