"""The commands of ``taskq``, one function a verb; each returns the exit code with which it ends.

What they take is in ``arguments``, and what the options mean in docs/protocol.md §3.
"""
