"""``taskq top``: a full-screen view of queues and jobs.

``state`` has the data and the selection, ``keys`` maps keys to changes of the state and actions, ``render``
draws the state, ``poller`` queries the daemon in a thread, so that keys work while it does not reply, and
``screen`` controls the terminal and runs the main loop.
"""
