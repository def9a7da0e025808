"""Formats values for people at a terminal."""
