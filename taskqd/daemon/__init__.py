"""Builds everything, starts it and stops it; the plugin of twistd."""
