"""Groups of job statuses (docs/protocol.md §2)."""

PENDING = ("PENDING",)
RUNNING = ("RUNNING",)
LIVE = ("PENDING", "RUNNING")
FINISHED = ("COMPLETED", "FAILED", "CANCELLED")
ALL = (*LIVE, *FINISHED)
