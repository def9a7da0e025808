"""The first line of a script, which names the program that runs it: ``#!INTERPRETER [ARGUMENT]``.

It is read as the kernel reads it (execve(2)), and the interpreter is started by name, so a script also runs
from a file system that is mounted noexec. What the kernel would refuse is refused here in words: programs
that start others (sh, setpriv, nice) would run the script by /bin/sh then, without a word.
"""

HEAD_BYTES = 256
"""The kernel looks at this many bytes of a file (BINPRM_BUF_SIZE)."""


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors begin a UTF-8 text with it; the kernel does not know it, and sh would run the script."""


class BadScript(Exception):
    """A script has a first line by which it cannot be run; the text says why, behind "its script"."""


def interpreter(head: bytes) -> tuple[str, ...]:
    """Return what runs a script, a program and up to one argument; nothing where that is the shell.

    ``head`` has the first HEAD_BYTES of the script. Raises BadScript.
    """
    line, end, _ = head.partition(b"\n")
    if b"\0" in line:
        kind = "a program (ELF)" if line.startswith(b"\x7fELF") else "no text"
        raise BadScript(f"is {kind}: submit a command that runs the file instead")
    if line.startswith(BYTE_ORDER_MARK + b"#!"):
        raise BadScript("has a byte order mark in front of its #!: save it as UTF-8 without one")
    if not line.startswith(b"#!"):
        return ()
    if not end and len(head) >= HEAD_BYTES:
        raise BadScript(f"has a first line of more than {HEAD_BYTES - 1} bytes: the system reads no more")
    if line.endswith(b"\r"):
        name = _text(line[2:-1].strip())
        raise BadScript(
            f"names the interpreter {name!r} with a carriage return behind it: save it with line ends of "
            "LF, not of CR LF"
        )
    program, *rest = line[2:].replace(b"\t", b" ").strip().split(b" ", 1)
    if not program:
        raise BadScript("names no interpreter behind its #!")
    if b"/" not in program:
        name = _text(program)
        raise BadScript(
            f"names the interpreter {name} without its directory: write #!/usr/bin/env {name}, or its path"
        )
    return (_text(program), *(_text(argument.strip()) for argument in rest))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
