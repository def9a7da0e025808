"""Commands that stay connected: follow, watch, run, and submissions from a file."""
