"""twistd, with a journal whose segments are short and condensed often: ``launcher.py SEGMENT SNAPSHOT ...``.

Both are in bytes; what follows are twistd's own arguments. It is run as a file, so that the daemon sees
neither a variable nor an option that an operator's daemon would not see.
"""

import sys

_segment, _snapshot = map(int, sys.argv[1:3])
del sys.argv[1:3], sys.path[0]

from twisted.scripts.twistd import run  # noqa: E402 - the first place to look for modules was this folder

from taskqd.engine import retention  # noqa: E402
from taskqd.storage.journal import compaction, journal  # noqa: E402

journal.SEGMENT_BYTES = _segment
compaction.MIN_SEALED_BYTES = _snapshot
compaction.CHECK_INTERVAL = 0.05
retention.CHECK_INTERVAL = 0.05
# However large the last snapshot is, the next one does not wait for as much again.
setattr(journal.Journal, "snapshot_bytes", property(lambda _: 0, lambda _, __: None))  # noqa: B010 - for mypy
run()
