"""Data on disk: the journal of events, and the spool of input and output."""
