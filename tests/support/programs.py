"""The programs that some tests run, and their Debian packages.

A test marked ``@pytest.mark.needs("telnet")`` is skipped if telnet is missing, and fails if CI=true.
``python3 -m tests.support.programs`` prints the missing programs; ``--packages`` prints only the names of
the packages to install. It runs before anything is installed, so this module needs only Python.
"""

import shutil
import subprocess
import sys

PACKAGES = {
    "telnet": "inetutils-telnet",
    "nc": "netcat-openbsd",
    "socat": "socat",
    "convert": "imagemagick",
    "curl": "curl",
    "openssl": "openssl",
    "ping": "iputils-ping",
    "setsid": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "ps": "procps",
    "faketime": "faketime",
    "make": "make",
    "script": "bsdutils",
    "fish": "fish",
    "zsh": "zsh",
    "at": "at",
    "tmux": "tmux",
    "tsp": "task-spooler",
    "nq": "nq",
    "beanstalkd": "beanstalkd",
}


def is_there(program: str) -> bool:
    """Whether ``program`` is installed; a ``convert`` that is not ImageMagick's does not count."""
    found = shutil.which(program)
    if not found or program != "convert":
        return found is not None
    shown = subprocess.run([found, "-version"], capture_output=True, check=False)
    return b"ImageMagick" in shown.stdout


def missing() -> list[str]:
    """Return the programs of the table that are not installed."""
    return [program for program in PACKAGES if not is_there(program)]


def main(only_packages: bool) -> None:
    """Print the missing programs for a person, or their packages for ``apt-get install``."""
    programs = missing()
    packages = " ".join(PACKAGES[program] for program in programs)
    if only_packages:
        print(packages)
    elif programs:
        print(f"Tests that need these programs will be skipped: {' '.join(programs)}")
        print(f"  (on Debian: apt-get install {packages})")


if __name__ == "__main__":
    main("--packages" in sys.argv[1:])
