"""Read a list from a host page by page, and tell the host when nobody wants the rest."""

from collections.abc import Generator
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.envelope import Answer, Effect, Request
from vmkeep.host.wsman.errors import EnvelopeTooLarge, HostError, HostNonsense, HostTimedOut
from vmkeep.host.wsman.exchange import Exchange
from vmkeep.host.wsman.names import ENUMERATE, ENUMERATION, PULL, RELEASE, WSMAN
from vmkeep.host.wsman.reading import content_of
from vmkeep.host.wsman.writing import escaped

# Without a number the host sends one item a page (recorded); with a large one its envelope's
# size is the limit. A host that counts too much into one envelope is asked for half.
_ITEMS_A_PAGE: Final = 4000
_LONGEST_CONTEXT: Final = 64 * 1024
_MOST_EMPTY_PAGES: Final = 60  # in a row: an hour of a host that finds nothing

_NAMES: Final = (ENUMERATION, WSMAN)  # an optimised first page uses the second for Items and EndOfSequence


class _Pages:
    """One enumeration: the context that the next page needs, and how many items to ask for."""

    def __init__(self, exchange: Exchange, uri: str, wanted: str) -> None:
        self._exchange = exchange
        self._uri = uri
        self._wanted = wanted
        self._items = _ITEMS_A_PAGE
        self.context = ""

    def first(self) -> list[Element]:
        """Begin, and return the first page."""
        while True:
            body = (
                f"<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>{self._items}</w:MaxElements>"
                f"{self._wanted}</n:Enumerate>"
            )
            try:
                answer = self._ask(ENUMERATE, body, Effect.READS)
            except EnvelopeTooLarge:
                self._halve()
                continue
            return self._page(answer, "EnumerateResponse")

    def next(self) -> list[Element]:
        """Return the next page; slow pages are waited for, too large ones asked for in halves."""
        for _ in range(_MOST_EMPTY_PAGES):
            body = (
                f"<n:Pull><n:EnumerationContext>{escaped(self.context)}</n:EnumerationContext>"
                f"<n:MaxElements>{self._items}</n:MaxElements></n:Pull>"
            )
            try:
                page = self._page(self._ask(PULL, body, Effect.TAKES), "PullResponse")
            except EnvelopeTooLarge:
                self._halve()
            except HostTimedOut:
                continue  # the host's own fault: nothing was ready, and the context stands
            else:
                if page or not self.context:
                    return page
        raise HostTimedOut(f"{self._exchange.url} sends no items and no end.", host=self._exchange.url)

    def release(self) -> None:
        """Tell the host to forget the rest."""
        body = f"<n:Release><n:EnumerationContext>{escaped(self.context)}</n:EnumerationContext></n:Release>"
        self._ask(RELEASE, body, Effect.READS)

    def _ask(self, action: str, body: str, effect: Effect) -> Answer:
        return self._exchange.ask(Request(action=action, resource=self._uri, effect=effect, body=body))

    def _halve(self) -> None:
        if self._items == 1:
            raise EnvelopeTooLarge(
                f"one single item of {self._uri.rpartition('/')[2]} does not fit into an envelope of "
                f"{self._exchange.url}.",
                hint='Allow larger ones on the host: winrm set winrm/config @{MaxEnvelopeSizekb="500"}',
                host=self._exchange.url,
            )
        self._items //= 2

    def _page(self, answer: Answer, expected: str) -> list[Element]:
        body = answer.expect(f"{{{ENUMERATION}}}{expected}")
        context = content_of(body.find(f"{{{ENUMERATION}}}EnumerationContext"))
        if len(context) > _LONGEST_CONTEXT:
            raise HostNonsense(f"{self._exchange.url} sends a context of {len(context)} characters.")
        ended = any(body.find(f"{{{name}}}EndOfSequence") is not None for name in _NAMES)
        items = [item for name in _NAMES for found in body.findall(f"{{{name}}}Items") for item in found]
        if not ended and not context:
            raise HostNonsense(f"{self._exchange.url} sends neither the end of a list nor how to go on.")
        self.context = "" if ended else context
        return items


def enumerate_items(exchange: Exchange, uri: str, wanted: str) -> Generator[Element, None, None]:
    """Yield the items of an enumeration; ``wanted`` is the filter's XML, empty for all.

    Closed early, it releases the enumeration on the host. After ConnectionLost or
    EnumerationLost what was yielded is right, but not all: the list is read anew.
    """
    pages = _Pages(exchange, uri, wanted)
    items = pages.first()
    try:
        yield from items
        while pages.context:
            yield from pages.next()
    except GeneratorExit:
        _release(pages)
        raise


def _release(pages: _Pages) -> None:
    try:
        if pages.context:
            pages.release()
    except HostError:
        # The host forgets the list by itself after EnumerationTimeoutms; whoever stops
        # reading has what he wanted, and no use for an error.
        return
