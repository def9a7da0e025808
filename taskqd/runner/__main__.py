"""``python -m taskqd.runner``: the runner, as the daemon starts it."""

from taskqd.runner.main import main

main()
