"""Paging: contexts, sizes, ends, and telling the host that nobody reads on."""

from contextlib import closing

import pytest

from tests.fakes.wsman_host import NS, Reply, fault
from tests.fakes.wsman_script import Breaking, Scripted
from vmkeep.host.wsman import (
    Client,
    ConnectionLost,
    Endpoint,
    EnumerationLost,
    EnvelopeTooLarge,
    HostNonsense,
    HostTimedOut,
    Instance,
    Ref,
)

pytestmark = pytest.mark.quick

V2 = "root/virtualization/v2"
URI = f"http://schemas.microsoft.com/wbem/wsman/1/wmi/{V2}/Msvm_X"


def items(*numbers: int) -> str:
    return "".join(f'<q:Msvm_X xmlns:q="{URI}"><q:Id>{number}</q:Id></q:Msvm_X>' for number in numbers)


def first(inside: str, context: str | None, *, ended: bool = False) -> str:
    """An optimised first page: Items and EndOfSequence in WS-Management's namespace."""
    known = "" if context is None else f"<n:EnumerationContext>{context}</n:EnumerationContext>"
    end = "<w:EndOfSequence/>" if ended else ""
    return f"<n:EnumerateResponse>{known}<w:Items>{inside}</w:Items>{end}</n:EnumerateResponse>"


def page(inside: str, context: str | None, *, ended: bool = False) -> str:
    known = "" if context is None else f"<n:EnumerationContext>{context}</n:EnumerationContext>"
    end = "<n:EndOfSequence/>" if ended else ""
    return f"<n:PullResponse>{known}<n:Items>{inside}</n:Items>{end}</n:PullResponse>"


def ids(found: list[Instance]) -> list[int]:
    return [item.integer("Id") for item in found]


def client(script: Scripted) -> Client:
    return Client(Endpoint(address="hv01"), script.clock, transport=script)


@pytest.mark.parametrize("context", [None, ""])
def test_one_page(context: str | None) -> None:
    script = Scripted([first(items(1, 2), context, ended=True)])
    asking = client(script)
    assert ids(list(asking.enumerate("Msvm_X", V2))) == [1, 2]
    assert asking.requests == 1
    asked = script.asked[0].root
    assert asked.find(".//n:Enumerate/w:OptimizeEnumeration", NS) is not None
    assert int(asked.findtext(".//n:Enumerate/w:MaxElements", "", NS)) > 1
    assert script.asked[0].header("w:ResourceURI") == URI


def test_the_context_is_the_newest() -> None:
    script = Scripted(
        [
            first(items(1), "c1"),
            page(items(2), "c2"),
            page(items(3), "c3"),
            page(items(4), None, ended=True),
        ]
    )
    assert ids(list(client(script).enumerate("Msvm_X", V2))) == [1, 2, 3, 4]
    sent = [question.root.findtext(".//n:Pull/n:EnumerationContext", None, NS) for question in script.asked]
    assert sent == [None, "c1", "c2", "c3"]
    sizes = [question.root.findtext(".//n:Pull/n:MaxElements", None, NS) for question in script.asked[1:]]
    assert all(size is not None and int(size) > 1 for size in sizes)


def test_a_server_that_does_not_optimise() -> None:
    bare = "<n:EnumerateResponse><n:EnumerationContext>c</n:EnumerationContext></n:EnumerateResponse>"
    script = Scripted([bare, page(items(1), None, ended=True)])
    assert ids(list(client(script).enumerate("Msvm_X", V2))) == [1]


def test_a_projection_is_a_query_on_the_whole_namespace() -> None:
    script = Scripted([first("<w:XmlFragment><Id>7</Id></w:XmlFragment>", None, ended=True)])
    found = list(client(script).enumerate("Msvm_X", V2, properties=("Id",), where="Id < 9 AND Name = 'a&b'"))
    assert ids(found) == [7]
    assert found[0].class_name == "Msvm_X"
    assert script.asked[0].header("w:ResourceURI") == URI.replace("Msvm_X", "*")
    query = script.asked[0].root.find(".//n:Enumerate/w:Filter", NS)
    assert query is not None
    assert query.get("Dialect") == "http://schemas.microsoft.com/wbem/wsman/1/WQL"
    assert query.text == "SELECT Id FROM Msvm_X WHERE Id < 9 AND Name = 'a&b'"


def test_associations_are_asked_for_by_query() -> None:
    script = Scripted([first(items(1), None, ended=True)])
    vm = Ref(V2, "Msvm_ComputerSystem", {"Name": "A\\B"})
    assert ids(list(client(script).references(vm, "Msvm_X"))) == [1]
    query = script.asked[0].root.findtext(".//n:Enumerate/w:Filter", None, NS)
    assert query == r'REFERENCES OF {Msvm_ComputerSystem.Name="A\\B"} WHERE ResultClass = Msvm_X'


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_stopping_early_releases(taken: int) -> None:
    rest = [page(items(3, 4), "c2")] if taken == 3 else []
    script = Scripted([first(items(1, 2), "c1"), *rest, ""])
    with closing(client(script).enumerate("Msvm_X", V2)) as found:
        assert ids([next(found) for _ in range(taken)]) == list(range(1, taken + 1))
    last = script.asked[-1]
    assert last.action.endswith("/Release")
    assert last.root.findtext(".//n:Release/n:EnumerationContext", None, NS) == ("c1" if taken < 3 else "c2")


def test_what_is_read_to_its_end_is_not_released() -> None:
    script = Scripted([first(items(1), "c1"), page(items(2), None, ended=True)])
    assert len(list(client(script).enumerate("Msvm_X", V2))) == 2
    assert [question.action.rpartition("/")[2] for question in script.asked] == ["Enumerate", "Pull"]


def test_a_release_that_fails_is_nobodys_concern() -> None:
    script = Scripted([first(items(1), "c1"), fault(2150858779)])
    with closing(client(script).enumerate("Msvm_X", V2)) as found:
        next(found)
    assert len(script.asked) == 2


def test_pages_that_do_not_fit_are_asked_for_in_halves() -> None:
    too_large = fault(2150858824, "w:EncodingLimit")
    script = Scripted(
        [too_large, too_large, first(items(1), "c1"), too_large, page(items(2), None, ended=True)]
    )
    assert ids(list(client(script).enumerate("Msvm_X", V2))) == [1, 2]
    sizes = [
        int(
            question.root.findtext(".//w:MaxElements", "", NS)
            or question.root.findtext(".//n:MaxElements", "", NS)
        )
        for question in script.asked
    ]
    assert sizes == [4000, 2000, 1000, 1000, 500]


def test_one_item_that_does_not_fit_is_said_so() -> None:
    script = Scripted([fault(2150858824, "w:EncodingLimit")] * 20)
    with pytest.raises(EnvelopeTooLarge, match="one single item of Msvm_X") as raised:
        list(client(script).enumerate("Msvm_X", V2))
    assert "MaxEnvelopeSizekb" in raised.value.hint
    assert len(script.asked) == 12  # 4000 halved down to 1


def test_a_slow_page_is_waited_for() -> None:
    slow = fault(2150858793, "w:TimedOut")
    script = Scripted([first("", "c1"), slow, slow, page("", "c1"), page(items(1), None, ended=True)])
    assert ids(list(client(script).enumerate("Msvm_X", V2))) == [1]


def test_waiting_has_an_end() -> None:
    script = Scripted([first("", "c1"), *[fault(2150858793, "w:TimedOut")] * 100])
    with pytest.raises(HostTimedOut):
        list(client(script).enumerate("Msvm_X", V2))
    assert len(script.asked) < 100


def test_a_lost_page_is_not_skipped() -> None:
    lost = ConnectionLost("broke")
    script = Breaking([], [first(items(1), "c1"), page(items(3), None, ended=True)])
    found = client(script).enumerate("Msvm_X", V2)
    assert next(found).integer("Id") == 1
    script.errors = [lost]
    with pytest.raises(ConnectionLost):
        next(found)
    assert script.sent == 2  # neither the page nor a Release was asked for once more


def test_a_page_that_is_late_counts_as_lost() -> None:
    script = Breaking([], [first(items(1), "c1"), page(items(3), None, ended=True)])
    found = client(script).enumerate("Msvm_X", V2)
    next(found)
    script.errors = [HostTimedOut("no answer in time")]
    with pytest.raises(ConnectionLost):
        next(found)


def test_a_forgotten_list_is_said_so() -> None:
    script = Scripted([first(items(1), "c1"), fault(2150858779, "n:InvalidEnumerationContext")])
    with pytest.raises(EnumerationLost):
        list(client(script).enumerate("Msvm_X", V2))


@pytest.mark.parametrize(
    "answer",
    [
        "<n:PullResponse/>",
        "<n:EnumerateResponse/>",
        first("<x/>", None, ended=True),
        first(items(1), "c" * 70_000),
        Reply(first(items(1), None, ended=True), action="urn:other"),
    ],
)
def test_pages_that_are_none(answer: str | Reply) -> None:
    with pytest.raises(HostNonsense):
        list(client(Scripted([answer])).enumerate("Msvm_X", V2))
