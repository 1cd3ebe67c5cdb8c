"""Whatever text goes in comes out, through XML, CIM-XML, object paths and WQL; judged by other readers."""

import re
from typing import Final
from xml.dom import minidom
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from vmkeep.host.wsman import EmbeddedClass, EmbeddedInstance, Method, Ref, quoted
from vmkeep.host.wsman.refs import read_reference, reference_xml
from vmkeep.host.wsman.writing import attribute, cdata, escaped

# All that XML 1.0 can carry (section 2.2).
TEXT: Final = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda c: c >= " " or c in "\t\n\r"
    )
) | st.sampled_from(["]]>", "]]]]>>", "<![CDATA[", "\r\n", "&amp;", '"', "'", "\\", '\\"', "a\r]]>\r"])
NAMES: Final = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
KEYS: Final = st.dictionaries(NAMES, TEXT, max_size=4).filter(
    lambda keys: len({name.lower() for name in keys}) == len(keys)
)
WMI: Final = (
    'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"'
)


@given(TEXT)
def test_content_attributes_and_cdata(text: str) -> None:
    xml = f"<x a={attribute(text)}><t>{escaped(text)}</t><c>{cdata(text)}</c></x>"
    root = ElementTree.fromstring(xml)
    assert root.get("a") == text
    assert root.findtext("t") == root.findtext("c") == text
    other = minidom.parseString(xml.encode("utf-8")).documentElement  # another reader over expat
    assert other is not None
    assert other.getAttribute("a") == text


@given(TEXT, st.lists(TEXT, max_size=4))
def test_cim_xml_inside_cdata(text: str, texts: list[str]) -> None:
    declared = EmbeddedClass("Msvm_X", {"One": "string", "Many": "string[]"})
    made = EmbeddedInstance(declared, {"One": text, "Many": texts})
    body = Method("Do", (("In", "string"),)).input_xml("urn:x", {"In": made})
    inner = ElementTree.fromstring(ElementTree.fromstring(body).findtext("{urn:x}In") or "")
    assert inner.findtext("PROPERTY[@NAME='One']/VALUE", "") == text
    array = inner.findall("PROPERTY.ARRAY[@NAME='Many']/VALUE.ARRAY/VALUE")
    assert [value.text or "" for value in array] == texts
    again = EmbeddedInstance.parse(made.cim_xml)
    assert (again.text("One"), again.texts("Many")) == (text, tuple(texts))
    assert again.cim_xml == made.cim_xml


@given(NAMES, KEYS)
def test_object_paths(class_name: str, keys: dict[str, str]) -> None:
    ref = Ref("root/virtualization/v2", class_name, keys)
    assert ref.path == spelled("root/virtualization/v2", class_name, keys)
    again = Ref.parse(ref.path)
    assert (again.class_name, dict(again.keys)) == (class_name, keys)
    assert again == ref == Ref.parse("\\\\HOST\\" + ref.path.replace("/", "\\", 2) if not keys else ref.path)


def spelled(namespace: str, class_name: str, keys: dict[str, str]) -> str:
    """The rule of the documentation in its own words: each backslash and each quote gets a backslash."""
    if not keys:
        return f"{namespace}:{class_name}=@"
    parts = []
    for name, value in keys.items():
        inside = "".join("\\" + character if character in '\\"' else character for character in value)
        parts.append(f'{name}="{inside}"')
    return f"{namespace}:{class_name}." + ",".join(parts)


@given(NAMES, KEYS, KEYS)
def test_endpoint_references(class_name: str, keys: dict[str, str], inner: dict[str, str]) -> None:
    ref = Ref("root/cimv2", class_name, {**keys, "Inner_": Ref("root/cimv2", "Win32_Y", inner)})
    xml = f"<x {WMI}>{reference_xml(ref)}</x>"
    found = read_reference(ElementTree.fromstring(xml))
    assert found == ref
    assert {name: value for name, value in found.keys.items() if name != "Inner_"} == keys


@given(TEXT)
def test_wql_literals(text: str) -> None:
    # WQL's lexer: a quote that no backslash precedes ends the literal, a backslash makes the next plain.
    literal = quoted(text)
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", literal, re.DOTALL)
    assert re.sub(r"\\(.)", r"\1", literal[1:-1], flags=re.DOTALL) == text
