"""The demo that ``bin/demo`` runs: a real daemon, one job of each kind, a crash, and every result checked.

It needs only the standard library and the environment in which taskqd is installed.
"""
