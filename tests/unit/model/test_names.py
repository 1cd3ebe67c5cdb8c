"""Near names: capitals leave no doubt, other digits are another machine."""

import pytest

from vmkeep.model.names import did_you_mean, nearest

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "names", "near"),
    [
        ("Web-Server", ["ledger", "web-server"], ("web-server",)),
        ("WEB", ["Web", "web", "webb"], ("Web", "web")),  # which one only the reader knows
        ("web-servr", ["ledger", "web-server"], ("web-server",)),
        ("hv02", ["hv01", "hv20"], ()),
        ("hv2", ["hv02"], ()),
        ("nobody", ["web", "mail"], ()),
        ("STRASSE", ["straße"], ("straße",)),
        ("web", [], ()),
        ("", ["web"], ()),
    ],
)
def test_what_may_be_meant(text: str, names: list[str], near: tuple[str, ...]) -> None:
    assert nearest(text, names) == near


def test_at_most_three_are_told_each_in_quotes() -> None:
    names = ["web-a", "web-b", "web-c", "web-d"]
    asked = did_you_mean("web-e", names)
    assert asked.startswith("; did you mean '") and asked.endswith("'?")
    assert asked.count("'web-") == 3 and " or 'web-" in asked
    assert did_you_mean("mail", names) == ""


def test_endless_names_cost_nothing() -> None:
    assert nearest("a" * 1_000_000, ["a" * 300, *(f"vm {n}" for n in range(100_000))]) == ()
