"""``taskqd-runner`` and ``python -m taskqd.runner``: the runner, as the daemon starts it."""

import sys


def main() -> None:
    """Run the runner without pyOpenSSL.

    Twisted imports it, if it is installed, for sockets with TLS, of which a runner has none. It takes a
    quarter of the CPU time of a start, and 13 MB.
    """
    sys.modules["OpenSSL"] = None  # type: ignore[assignment] # an import raises ImportError
    from taskqd.runner.main import main as run  # noqa: PLC0415 - this imports Twisted

    run()


if __name__ == "__main__":
    main()
