"""Settings, limits and default paths."""
