"""The commands of ``taskq``, one function per command; each returns the exit code.

Options are defined in ``parameters`` and ``job_options``; docs/protocol.md §3 explains them.
"""
