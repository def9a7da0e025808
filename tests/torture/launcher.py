"""Runs twistd with short segments and frequent snapshots: ``launcher.py SEGMENT SNAPSHOT ...``.

Both are in bytes; twistd's arguments follow. It is run as a file, so that the daemon has the same variables
and options as a real one.
"""

import sys

_segment, _snapshot = map(int, sys.argv[1:3])
del sys.argv[1:3], sys.path[0]

from twisted.scripts.twistd import run  # noqa: E402 - sys.path[0] was this directory

from taskqd.engine import retention  # noqa: E402
from taskqd.storage.journal import compaction, journal  # noqa: E402

journal.SEGMENT_BYTES = _segment
compaction.MIN_SEALED_BYTES = _snapshot
compaction.CHECK_INTERVAL = 0.05
retention.CHECK_INTERVAL = 0.05
# The next snapshot does not depend on the size of the last one.
setattr(journal.Journal, "snapshot_bytes", property(lambda _: 0, lambda _, __: None))  # noqa: B010 - for mypy
run()
