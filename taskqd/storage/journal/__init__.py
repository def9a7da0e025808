"""The journal: records as lines of text in segment files, which one daemon writes."""
