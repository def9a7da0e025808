"""Measurements of taskqd and its peers. Each program says in its docstring how to run it."""
