"""A fake of the part of a reactor that watches descriptors for writing."""

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from zope.interface import implementer


@implementer(IReactorFDSet)
class Writers:
    """A reactor that only knows which descriptors it watches for writing; ``error`` is raised once."""

    def __init__(self) -> None:
        self.writers: list[IWriteDescriptor] = []
        self.error: OSError | None = None

    def addWriter(self, writer: IWriteDescriptor) -> None:
        if self.error is not None:
            raise self.error
        self.writers.append(writer)

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        self.writers.remove(writer)

    def addReader(self, reader: IReadDescriptor) -> None:
        raise NotImplementedError

    def removeReader(self, reader: IReadDescriptor) -> None:
        raise NotImplementedError

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        raise NotImplementedError

    def getReaders(self) -> list[IReadDescriptor]:
        raise NotImplementedError

    def getWriters(self) -> list[IWriteDescriptor]:
        return self.writers
