"""The interfaces of the parts of the runner."""

from collections.abc import Sequence

from twisted.internet.interfaces import IProcessProtocol
from zope.interface import Attribute


class ISessionProtocol(IProcessProtocol):
    """The protocol of a SessionProcess."""

    started = Attribute("The start time in clock ticks since boot if known; set before connectionMade.")
    rusage = Attribute("The resource usage (wait4(2)) if known; set before processExited.")

    def pipesOpened(descriptors: Sequence[int]) -> None:
        """Set the owner of the process's stdout and stderr, by their descriptors in this process.

        This is called before the process exists.
        """
