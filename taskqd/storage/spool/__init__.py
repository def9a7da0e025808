"""The spool: the input that jobs read and the output that they write."""
