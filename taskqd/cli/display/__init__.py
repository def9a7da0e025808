"""How the command shows values to a person at a terminal."""
