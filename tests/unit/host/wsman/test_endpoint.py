"""What a configuration may ask for, and that the password is in nothing that is printed."""

from pathlib import Path

import pytest

from vmkeep.errors import ExitCode
from vmkeep.host.wsman import Endpoint, EndpointUnusable
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"address": "hv01.lab.example"}, "https://hv01.lab.example:5986/wsman"),
        ({"address": "hv01", "transport": "http"}, "http://hv01:5985/wsman"),
        ({"address": "192.0.2.7", "port": 444}, "https://192.0.2.7:444/wsman"),
        ({"address": "2001:db8::7"}, "https://[2001:db8::7]:5986/wsman"),
    ],
)
def test_addresses(given: dict[str, object], url: str) -> None:
    assert Endpoint(**given).url == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"address": ""},
        {"address": "http://hv01"},
        {"address": "hv01/x"},
        {"address": "user@hv01"},
        {"address": "hv01\r\nX: y"},
        {"address": "hv01:5986"},
        {"address": "hv01", "transport": "ftp"},
        {"address": "hv01", "auth": "basic"},
        {"address": "hv01", "auth": "credssp"},
        {"address": "hv01", "port": 0},
        {"address": "hv01", "port": 65536},
        {"address": "hv01", "transport": "http", "ca_file": Path("ca.pem")},
        {"address": "hv01", "operation_timeout_s": 0},
        {"address": "hv01", "auth": "ntlm", "user": "LAB\\x"},
    ],
)
def test_what_is_unsafe_or_contradicts_itself_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(EndpointUnusable) as raised:
        Endpoint(**given)  # type: ignore[arg-type]
    assert raised.value.exit_code is ExitCode.USAGE


def test_a_password_is_not_shown() -> None:
    endpoint = Endpoint(address="hv01", user="LAB\\x", password=Secret("canary-7f3a"))
    assert "canary" not in repr(endpoint) + str(endpoint)
