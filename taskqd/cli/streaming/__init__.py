"""Commands that keep a connection open: follow, watch, run, and submit --from-file."""
