"""Runs one attempt of a job as a process and reports its outcome."""
