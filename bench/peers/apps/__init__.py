"""Applications of the peers. They run in the venv of the peers, and import only ``shell`` of this tree."""
