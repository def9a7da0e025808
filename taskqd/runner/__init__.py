"""The runner: a small process that runs jobs and outlives the daemon."""
