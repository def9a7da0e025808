"""Programs that measure; each tells what it measures and how it is run."""
