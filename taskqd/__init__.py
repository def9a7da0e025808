"""A durable queue for shell commands: one daemon, a line protocol, a text journal."""

__version__ = "0.10.0"
