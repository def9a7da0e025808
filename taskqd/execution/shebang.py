"""The first line of a script, which names its interpreter: ``#!INTERPRETER [ARGUMENT]``.

It is parsed as the kernel parses it (execve(2)). The interpreter is started by name, so that a script also
runs from a file system mounted noexec. Scripts that the kernel would refuse are refused with an explanation:
sh, setpriv and nice would silently run them by /bin/sh.
"""

HEAD_SIZE = 256
"""The bytes of a file that the kernel reads for this (BINPRM_BUF_SIZE)."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors begin a UTF-8 text with it; the kernel does not know it, and sh would run the script."""


class BadScript(Exception):
    """A script that cannot be run because of its first line; the text says why, to follow "its script"."""


def parse_shebang(head: bytes) -> tuple[str, ...]:
    """Return a script's interpreter and up to one argument, nothing if the shell runs it.

    ``head`` has the first HEAD_SIZE bytes of the script. Raises BadScript.
    """
    line, end, _ = head.partition(b"\n")
    if b"\0" in line:
        kind = "a program (ELF)" if line.startswith(b"\x7fELF") else "no text"
        raise BadScript(f"is {kind}: submit a command that runs the file instead")
    if line.startswith(BYTE_ORDER_MARK + b"#!"):
        raise BadScript("has a byte order mark before its #!: save it as UTF-8 without one")
    if not line.startswith(b"#!"):
        return ()
    if not end and len(head) >= HEAD_SIZE:
        raise BadScript(f"has a first line of more than {HEAD_SIZE - 1} bytes: the system reads no more")
    if line.endswith(b"\r"):
        name = _decode(line[2:-1].strip())
        raise BadScript(
            f"names the interpreter {name!r} with a carriage return behind it: save it with LF line ends, "
            "not CR LF"
        )
    program, *rest = line[2:].replace(b"\t", b" ").strip().split(b" ", 1)
    if not program:
        raise BadScript("names no interpreter after its #!")
    if b"/" not in program:
        name = _decode(program)
        raise BadScript(
            f"names the interpreter {name} without its directory: write #!/usr/bin/env {name}, or its path"
        )
    return (_decode(program), *(_decode(argument.strip()) for argument in rest))


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
