"""Connections, and a handler for each verb."""
