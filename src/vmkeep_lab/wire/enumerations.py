"""WS-Enumeration: Enumerate, Pull, Release, their contexts, filters and limits."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree.ElementTree import Element

from vmkeep_lab import clock
from vmkeep_lab.cim import WBEM_E_INVALID_QUERY, Instance, WmiError
from vmkeep_lab.wire import wql
from vmkeep_lab.wire.addresses import Target
from vmkeep_lab.wire.faults import (
    CANNOT_PROCESS_FILTER,
    ENUMERATION_MODE,
    FILTER_DIALECT,
    INVALID_ENUMERATION_CONTEXT,
    MAX_ENVELOPE_SIZE_EXCEEDED,
    PULL_DIFFERS,
    SCHEMA_VALIDATION,
    WQL_URI,
    Provenance,
    SoapFault,
    WmiFault,
)
from vmkeep_lab.wire.names import (
    ADDRESSING,
    ASSOCIATION_FILTER,
    BINDING,
    ENUMERATE,
    ENUMERATION,
    PULL,
    RELEASE,
    SELECTOR_FILTER,
    WQL,
    WSMAN,
    tag,
)
from vmkeep_lab.wire.provider import Provider
from vmkeep_lab.wire.queries import Association, Queries, reference_to
from vmkeep_lab.wire.settings import Settings
from vmkeep_lab.wire.soap import Reply, Request
from vmkeep_lab.wire.values import Values

Mode = Literal["Object", "EnumerateEPR", "EnumerateObjectAndEPR"]

# What an envelope costs before the first item: headers, prefixes, a context, all with room to spare.
_ENVELOPE_BYTES: Final = 1_536


@dataclass
class _Context:
    """An enumeration under way: what is left, and how it must be pulled."""

    owner: str
    fingerprint: tuple[str, int, str]
    items: Iterator[str]
    waiting: str | None = None
    used: float = 0.0


class Enumerations:
    """The enumerations of one service. Safe to use from several threads."""

    def __init__(self, provider: Provider, values: Values, settings: Settings) -> None:
        self._provider = provider
        self._values = values
        self._queries = Queries(provider)
        self._settings = settings
        self._lock = threading.Lock()
        self._contexts: dict[str, _Context] = {}

    def answer(self, request: Request, owner: str) -> Reply:
        """Answer Enumerate, Pull or Release."""
        return {ENUMERATE: self._enumerate, PULL: self._pull, RELEASE: self._release}[request.action](
            request, owner
        )

    # --- the three operations ---------------------------------------------------------

    def _enumerate(self, request: Request, owner: str) -> Reply:
        body = _body(request, "Enumerate")
        mode = _mode(body)
        target = self._values.addresses.target(request.resource_uri)
        found, write = self._found(request, target, body)
        context = _Context(owner, request.fingerprint, self._items(found, write, mode))
        context.waiting = next(context.items, None)
        if body.find(tag(WSMAN, "OptimizeEnumeration")) is None:
            name = self._keep(context)
            inside = f"<n:EnumerationContext>{name}</n:EnumerationContext>"
            return _reply("Enumerate", inside)
        items = self._take(context, _count(body.find(tag(WSMAN, "MaxElements"))), request.max_envelope_bytes)
        if context.waiting is None:
            # Items and EndOfSequence change their namespace here; the context is left empty.
            inside = f"<n:EnumerationContext/><w:Items>{items}</w:Items><w:EndOfSequence/>"
        else:
            name = self._keep(context)
            inside = f"<n:EnumerationContext>{name}</n:EnumerationContext><w:Items>{items}</w:Items>"
        return _reply("Enumerate", inside)

    def _pull(self, request: Request, owner: str) -> Reply:
        body = _body(request, "Pull")
        name = _context_name(body)
        context = self._claim(name, owner)
        try:
            if context.fingerprint != request.fingerprint:
                raise SoapFault(PULL_DIFFERS, "The Pull differs from its Enumerate.")
            count = _count(body.find(tag(ENUMERATION, "MaxElements")))
            items = self._take(context, count, request.max_envelope_bytes)
        except SoapFault:
            self._put_back(name, context)
            raise
        if context.waiting is None:
            return _reply("Pull", f"<n:Items>{items}</n:Items><n:EndOfSequence/>")
        fresh = self._keep(context)
        return _reply(
            "Pull", f"<n:EnumerationContext>{fresh}</n:EnumerationContext><n:Items>{items}</n:Items>"
        )

    def _release(self, request: Request, owner: str) -> Reply:
        self._claim(_context_name(_body(request, "Release")), owner)
        return Reply(f"{RELEASE}Response", "", "enumeration")

    # --- contexts -----------------------------------------------------------------------

    def _keep(self, context: _Context) -> str:
        """Give an enumeration a new name; the old one, if any, is gone."""
        name = f"uuid:{str(uuid.uuid4()).upper()}"
        self._put_back(name, context)
        return name

    def _put_back(self, name: str, context: _Context) -> None:
        context.used = clock.monotonic()
        with self._lock:
            self._contexts[name] = context

    def _claim(self, name: str, owner: str) -> _Context:
        """Take an enumeration; others see it again only when it is put back."""
        oldest = clock.monotonic() - self._settings.enumeration_timeout_ms / 1000
        with self._lock:
            for each in [key for key, context in self._contexts.items() if context.used < oldest]:
                del self._contexts[each]
            found = self._contexts.get(name)
            if found is None or found.owner != owner:
                raise SoapFault(INVALID_ENUMERATION_CONTEXT, "The enumeration context is not valid.")
            return self._contexts.pop(name)

    # --- items -----------------------------------------------------------------------------

    def _take(self, context: _Context, count: int, max_envelope_bytes: int) -> str:
        """Take up to so many items, as many as the envelope holds."""
        room = max_envelope_bytes - _ENVELOPE_BYTES
        taken: list[str] = []
        while context.waiting is not None and len(taken) < min(count, self._settings.max_batch_items):
            room -= len(context.waiting.encode())
            if room < 0:
                if not taken:
                    raise SoapFault(MAX_ENVELOPE_SIZE_EXCEEDED, "One item is larger than the envelope.")
                break
            taken.append(context.waiting)
            context.waiting = next(context.items, None)
        return "".join(taken)

    def _items(self, found: list[Instance], write: Callable[[Instance], str], mode: Mode) -> Iterator[str]:
        for each in found:
            if mode == "Object":
                yield write(each)
                continue
            kind = self._provider.schema.find(each.namespace, each.class_name)
            endpoint = self._values.addresses.endpoint(reference_to(kind, each))
            yield endpoint if mode == "EnumerateEPR" else f"<w:Item>{write(each)}{endpoint}</w:Item>"

    # --- filters -----------------------------------------------------------------------------

    def _found(
        self, request: Request, target: Target, body: Element
    ) -> tuple[list[Instance], Callable[[Instance], str]]:
        """Return the instances an Enumerate means, and how each is written."""
        given = body.find(tag(WSMAN, "Filter"))
        if given is None:
            given = body.find(tag(ENUMERATION, "Filter"))
        if given is None:
            if target.kind is None:
                raise SoapFault(CANNOT_PROCESS_FILTER, "The filter is missing.")
            return list(self._provider.instances(target.namespace, target.kind.name)), self._values.instance
        dialect = given.get("Dialect", "")
        if dialect == WQL:
            if target.kind is not None:
                raise SoapFault(WQL_URI, "With a WQL filter the resource URI ends in an asterisk.")
            return self._queried(target.namespace, given.text or "")
        if dialect == ASSOCIATION_FILTER:
            return self._queries.associated(self._association(target, given)), self._values.instance
        if dialect == SELECTOR_FILTER:
            return self._selected(request, target, given), self._values.instance
        raise SoapFault(FILTER_DIALECT, "The filter dialect is not available.")

    def _queried(self, namespace: str, text: str) -> tuple[list[Instance], Callable[[Instance], str]]:
        try:
            query = wql.read(text)
            if isinstance(query, wql.About):
                return self._queries.about(namespace, query), self._values.instance
            found, names = self._queries.select(namespace, query)
        except WmiError as error:
            raise WmiFault(error, Provenance(namespace, "ExecQuery", text)) from error
        if not names:
            return found, self._values.instance
        return found, lambda each: self._values.fragment(each, names)

    def _association(self, target: Target, given: Element) -> Association:
        asked = given[0] if len(given) else given
        if asked.tag not in {tag(BINDING, "AssociatedInstances"), tag(BINDING, "AssociationInstances")}:
            raise SoapFault(CANNOT_PROCESS_FILTER, "The filter names neither instances nor associations.")
        object_ = asked.find(tag(BINDING, "Object"))
        if object_ is None:
            raise SoapFault(CANNOT_PROCESS_FILTER, "The filter names no object.")
        wrapped = object_.find(tag(ADDRESSING, "EndpointReference"))
        source = self._values.addresses.read_inside_property(
            object_ if wrapped is None else wrapped, target.namespace
        )

        def term(name: str) -> str:
            return (asked.findtext(tag(BINDING, name)) or "").strip()

        return Association(
            source,
            references=asked.tag == tag(BINDING, "AssociationInstances"),
            association_class=term("AssociationClassName"),
            result_class=term("ResultClassName"),
            role=term("Role"),
            result_role=term("ResultRole"),
        )

    def _selected(self, request: Request, target: Target, given: Element) -> list[Instance]:
        """Return the instances whose properties equal the selectors, which need not be keys."""
        if target.kind is None:
            raise SoapFault(CANNOT_PROCESS_FILTER, "A selector filter needs the URI of a class.")
        selectors = self._values.addresses.read_selectors(given.find(tag(WSMAN, "SelectorSet")))
        condition: wql.Condition | None = None
        seen: set[str] = set()
        for name, value in selectors:
            spelled = target.kind.property_name(name)
            # No duplicates, arrays, times, references or quotes ([MS-WSMV] 3.1.4.1.13).
            if (
                spelled is None
                or spelled in seen
                or not isinstance(value, str)
                or '"' in value
                or "'" in value
            ):
                raise SoapFault(CANNOT_PROCESS_FILTER, f"The selector {name[:80]} cannot be filtered by.")
            kind = target.kind.properties[spelled]
            if kind.is_array or kind.name in {"datetime", "reference", "object"}:
                raise SoapFault(CANNOT_PROCESS_FILTER, f"The selector {name[:80]} cannot be filtered by.")
            seen.add(spelled)
            one = wql.Comparison(spelled, "=", value)
            condition = one if condition is None else wql.Both("AND", condition, one)
        query = wql.Select(target.kind.name, (), condition)
        try:
            return self._queries.select(target.namespace, query)[0]
        except WmiError as error:
            if error.code != WBEM_E_INVALID_QUERY:
                raise
            raise SoapFault(CANNOT_PROCESS_FILTER, error.message) from error


def _body(request: Request, name: str) -> Element:
    if request.body is None or request.body.tag != tag(ENUMERATION, name):
        raise SoapFault(SCHEMA_VALIDATION, f"The body is not n:{name}.")
    return request.body


def _reply(name: str, inside: str) -> Reply:
    return Reply(
        f"{ENUMERATION}/{name}Response", f"<n:{name}Response>{inside}</n:{name}Response>", "enumeration"
    )


def _context_name(body: Element) -> str:
    return (body.findtext(tag(ENUMERATION, "EnumerationContext")) or "").strip()


def _count(element: Element | None) -> int:
    """Return MaxElements; left out it means one (DSP0226 R8.2.3)."""
    if element is None:
        return 1
    text = (element.text or "").strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise SoapFault(SCHEMA_VALIDATION, "MaxElements is a positive number.")
    return int(text)


def _mode(body: Element) -> Mode:
    text = (body.findtext(tag(WSMAN, "EnumerationMode")) or "").strip()
    if text == "EnumerateEPR":
        return "EnumerateEPR"
    if text == "EnumerateObjectAndEPR":
        return "EnumerateObjectAndEPR"
    if text:
        raise SoapFault(ENUMERATION_MODE, "The enumeration mode is not supported.")
    return "Object"
