"""Keeps the blocks of schedules: stores new ones, merges secrets, removes old ones."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.errors import StoreFailed
from taskqd.model.schedule import Schedule, ScheduleBlocks
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, first_line_of, pack_secrets, unpack_secrets
from taskqd.storage.interfaces import ISpool


class ScheduleBlockStore:
    """Keeps the blocks of schedules in a spool."""

    _log = Logger()

    def __init__(self, spool: ISpool) -> None:
        self._spool = spool

    def merge_secrets(
        self, before: Schedule, spec: Spec, contents: Mapping[str, bytes], given: Iterable[str]
    ) -> Mapping[str, bytes]:
        """Return new blocks of a schedule; those with secrets have all that the new ``spec`` names.

        Of secrets, ``contents`` has only the new ones, whose names are ``given``. With other variables the
        block is written again, so that its size is known. Raises StoreFailed.
        """
        new, old = contents.get(SECRET_BLOCK), before.spec
        is_same = (spec.secrets, spec.env, spec.env_base64) == (old.secrets, old.env, old.env_base64)
        if new is None and (is_same or not spec.secrets):
            return contents
        values = self._secrets(before)
        if new is not None:
            values |= unpack_secrets(new, given)
        return {**contents, SECRET_BLOCK: pack_secrets({name: values[name] for name in spec.secrets})}

    def _secrets(self, schedule: Schedule) -> dict[str, str]:
        if not schedule.spec.secrets:
            return {}
        try:
            block = self._spool.read_schedule_block(schedule.blocks, SECRET_BLOCK)
            return unpack_secrets(block, schedule.spec.secrets)
        except (OSError, ValueError) as why:
            raise StoreFailed(
                f"schedule {schedule.id} cannot be changed: its secrets cannot be read: {why}; "
                "UNSCHEDULE it, and make another"
            ) from None

    async def store(
        self, blocks: ScheduleBlocks, spec: Spec, contents: Mapping[str, bytes], before: ScheduleBlocks
    ) -> Spec:
        """Make the blocks of a schedule durable; return its spec with their digest. Raises StoreFailed.

        Those that ``contents`` lacks are those of the blocks ``before``.
        """
        try:
            digest = await self._spool.store_schedule(blocks, contents, before)
        except OSError as why:
            await self.remove(blocks)
            raise StoreFailed(
                f"the script, stdin or secrets of the schedule cannot be written: {why}"
            ) from None
        script = contents.get("script")
        line = spec.script_line if script is None else first_line_of(script)
        return replace(spec, blocks=digest, script_line=line)

    def remove(self, blocks: ScheduleBlocks) -> "Deferred[None]":
        """Remove the files of blocks; what remains is removed at the next start."""
        if not blocks.names:
            return succeed(None)
        return self._spool.remove_schedule(blocks).addErrback(self._on_remove_failed, blocks.schedule)

    def _on_remove_failed(self, failure: Failure, number: int) -> None:
        failure.trap(OSError)
        self._log.warn(
            "files of schedule {number} are left for the next start: {why}", number=number, why=failure.value
        )
