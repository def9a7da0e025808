"""Run by the venv of the peers, each by itself; nothing here imports anything of ours but ``shell``."""
