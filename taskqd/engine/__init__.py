"""The single writer: turns commands into events, makes them durable, applies them, acts on them."""
