"""First lines of scripts, valid and refused."""

import pytest

from taskqd.execution.shebang import HEAD_SIZE, BadScript, parse_shebang

NAMED = [
    (b"", ()),
    (b"echo hello\n", ()),
    (b"\xef\xbb\xbfecho hello\n", ()),
    (b"# !/bin/sh\n", ()),
    (b" #!/bin/sh\n", ()),
    (b"exit 0\n\x7fELF\0", ()),
    (b"x" * HEAD_SIZE, ()),
    (b"#!/bin/sh\n", ("/bin/sh",)),
    (b"#!/bin/sh", ("/bin/sh",)),
    (b"#! \t /bin/sh \t \necho", ("/bin/sh",)),
    (b"#!/usr/bin/env python3\n", ("/usr/bin/env", "python3")),
    (b"#!/usr/bin/env -S  python3  -u  \n", ("/usr/bin/env", "-S  python3  -u")),
    (b"#!/usr/bin/awk\t-f\n", ("/usr/bin/awk", "-f")),
    (b"#!./here\n", ("./here",)),
    (b"#!/caf\xe9\n", ("/caf\udce9",)),
    (b"#!/bin/sh\necho 1\r\n", ("/bin/sh",)),
]


@pytest.mark.parametrize("head, named", NAMED)
def test_parse_shebang_reads_the_line_as_the_kernel_does(head: bytes, named: tuple[str]) -> None:
    assert parse_shebang(head[:HEAD_SIZE]) == named


REFUSED = [
    (b"\x7fELF\x02\x01\x01\0\0\0", r"a program \(ELF\)"),
    (b"\0", "no text"),
    (b"MZ\x90\0\x03", "no text"),
    (b"#!/bin/sh\0\n", "no text"),
    (b"#!/bin/sh\r\n", "the interpreter '/bin/sh' with a carriage return"),
    (b"#!/usr/bin/env python3\r", "the interpreter '/usr/bin/env python3' with a carriage return"),
    (b"#!\n", "no interpreter"),
    (b"\xef\xbb\xbf#!/usr/bin/env python3\n", "a byte order mark"),
    (b"#! \t \n", "no interpreter"),
    (b"#!python3 -u\n", "python3 without its directory: write #!/usr/bin/env python3"),
    (b"#!/" + b"x" * HEAD_SIZE + b"\n", "more than 255 bytes"),
]


@pytest.mark.parametrize("head, why", REFUSED)
def test_parse_shebang_refuses_scripts_that_cannot_run(head: bytes, why: str) -> None:
    with pytest.raises(BadScript, match=why):
        parse_shebang(head[:HEAD_SIZE])
