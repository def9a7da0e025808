"""Parsing addresses."""

import pytest

from taskqd.client import (
    parse_address,
)


@pytest.mark.parametrize(
    "text,path,host,port",
    [
        ("unix:/run/taskqd/taskq.sock", "/run/taskqd/taskq.sock", "", 0),
        ("unix:with:colon", "with:colon", "", 0),
        ("tcp:localhost:9500", "", "localhost", 9500),
        ("tcp:[::1]:9500", "", "::1", 9500),
        ("tls:localhost:9501", "", "localhost", 9501),
        ("ssl:[::1]:9501", "", "::1", 9501),
    ],
)
def test_parse_address_accepts_socket_path_or_host_and_port(
    text: str, path: str, host: str, port: int
) -> None:
    assert parse_address(text) == (text, path, host, port)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "unix:",
            "/run/taskq.sock",
            "tcp:localhost",
            "tcp::1:9500",
            "tcp:h:x",
            "tcp:h:0",
            "tcp:h:65536",
        ),
        *("tls:", "tls:localhost", "tls:::1:9501", "tlsx:h:1", ":h:1"),
    ],
)
def test_parse_address_rejects_other_forms_and_lists_the_valid_ones(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address unix:PATH, tcp:HOST:PORT or tls:HOST:PORT"):
        parse_address(text)
