"""Build request envelopes, and check that a reply is the answer to what was asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.errors import HostNonsense
from vmkeep.host.wsman.names import ADDRESSING, ANONYMOUS, IDENTITY, PREFIXES, SOAP
from vmkeep.host.wsman.reading import content_of, parsed
from vmkeep.host.wsman.writing import attribute, escaped

MAX_ENVELOPE: Final = 500 * 1024  # what Windows allows since 2012; it silently takes less where it must

_DECLARATIONS: Final = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in PREFIXES.items())


class Effect(Enum):
    """What a request does to the host, and so what is lost with its answer."""

    READS = "nothing: it may be sent again"
    TAKES = "hands out what it answers, once: a lost answer is a lost part"
    ACTS = "something: a lost answer leaves it unknown what"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request before it is put into an envelope; ``body`` and ``selectors`` are XML."""

    action: str
    resource: str
    effect: Effect
    body: str = ""
    selectors: str = ""
    options: Mapping[str, str] | None = None

    @property
    def title(self) -> str:
        """Say what is asked, for errors: ``Get of Msvm_ComputerSystem``."""
        asked, _, verb = self.action.rpartition("/")
        subject = self.resource.rpartition("/")[2]
        return f"{subject}.{verb}" if asked == self.resource else f"{verb} of {subject}"


def envelope(request: Request, url: str, message_id: str, timeout_s: float) -> str:
    """Return the request's envelope, addressed to ``url``."""
    options = "".join(
        f"<w:Option Name={attribute(name)}>{escaped(value)}</w:Option>"
        for name, value in (request.options or {}).items()
    )
    option_set = f'<w:OptionSet s:mustUnderstand="true">{options}</w:OptionSet>' if options else ""
    # The locales must not be mandatory: a host that lacks one would refuse (wsman-wire.md section 2).
    return (
        f"<s:Envelope {_DECLARATIONS}><s:Header>"
        f"<a:To>{escaped(url)}</a:To>"
        f'<w:ResourceURI s:mustUnderstand="true">{escaped(request.resource)}</w:ResourceURI>'
        f'<a:ReplyTo><a:Address s:mustUnderstand="true">{ANONYMOUS}</a:Address></a:ReplyTo>'
        f'<a:Action s:mustUnderstand="true">{escaped(request.action)}</a:Action>'
        f'<w:MaxEnvelopeSize s:mustUnderstand="true">{MAX_ENVELOPE}</w:MaxEnvelopeSize>'
        f"<a:MessageID>{message_id}</a:MessageID>"
        f'<w:Locale xml:lang="en-US" s:mustUnderstand="false"/>'
        f'<p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>'
        f"<w:OperationTimeout>PT{timeout_s:.3f}S</w:OperationTimeout>"
        f"{option_set}{request.selectors}</s:Header><s:Body>{request.body}</s:Body></s:Envelope>"
    )


def identify_envelope() -> str:
    """Return the one envelope without addressing ([MS-WSMV] 3.1.4.1.23)."""
    return (
        f'<s:Envelope xmlns:s="{SOAP}" xmlns:wsmid="{IDENTITY}"><s:Header/>'
        f"<s:Body><wsmid:Identify/></s:Body></s:Envelope>"
    )


@dataclass(frozen=True)
class Answer:
    """A reply that was checked: the only child of its body, None where the body is empty."""

    body: Element | None

    @property
    def is_fault(self) -> bool:
        return self.body is not None and self.body.tag == f"{{{SOAP}}}Fault"

    def expect(self, tag: str) -> Element:
        """Return the body's child. Raises HostNonsense if it is another one."""
        if self.body is None or self.body.tag != tag:
            found = "nothing" if self.body is None else f"<{self.body.tag}>"
            raise HostNonsense(f"the body of a reply holds {found} and not <{tag}>.")
        return self.body


def read_identity(content: bytes) -> Answer:
    """Parse the reply to an Identify, which has no addressing. Raises HostNonsense."""
    return _answer(parsed(content, "the answer"))


def read_answer(content: bytes, message_id: str, action: str) -> Answer:
    """Parse a reply and check that it answers this message with this action.

    A fault may leave out which message it answers: the host did not always get to
    reading the header. Raises HostNonsense.
    """
    root = parsed(content, "the answer")
    answer = _answer(root)
    related = content_of(root.find(f"{{{SOAP}}}Header/{{{ADDRESSING}}}RelatesTo"))
    found = content_of(root.find(f"{{{SOAP}}}Header/{{{ADDRESSING}}}Action"))
    if related.lower() != message_id.lower() and (related or not answer.is_fault):
        raise HostNonsense(f"the answer relates to {related[:80]!r}, the request was {message_id}.")
    if not answer.is_fault and found != action + "Response":
        raise HostNonsense(f"the answer's action is {found[:200]!r} and not {action}Response.")
    return answer


def _answer(root: Element) -> Answer:
    bodies = root.findall(f"{{{SOAP}}}Body")
    if root.tag != f"{{{SOAP}}}Envelope" or len(bodies) != 1:
        raise HostNonsense(f"the answer is <{root.tag}> and not a SOAP 1.2 envelope with one body.")
    children = list(bodies[0])
    if len(children) > 1:
        raise HostNonsense(f"the body of the answer holds {len(children)} elements.")
    return Answer(children[0] if children else None)
