"""Optional, faster replacements for parts of Twisted."""
