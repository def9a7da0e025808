"""Times of the tests of schedules and time zones."""

from datetime import datetime, timezone

T = 1_700_000_000.0
"""A Tuesday: 2023-11-14 22:13:20 UTC."""
HOUR = 3600.0

# Clocks that are put forward and back: those of Central Europe, as a TZ string that needs no zone files.

SPRING = datetime(2026, 3, 29, 1, 0, tzinfo=timezone.utc).timestamp()
"""At 02:00 clocks show 03:00."""
AUTUMN = datetime(2026, 10, 25, 1, 0, tzinfo=timezone.utc).timestamp()
"""At 03:00 clocks show 02:00."""
