"""The state in memory: a fold of the events, which decides which job may start next."""
