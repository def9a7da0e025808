"""``taskq top`` in parts: what is known, what keys mean, how it looks, who asks the daemon, and the terminal.

``state`` is what is known and selected, ``keys`` makes a key an act or a change of it, ``drawing`` makes it
lines. ``asking`` asks the daemon, in a thread of its own so that keys are heard while it does not answer.
``screen`` has the terminal, and puts them together.
"""
