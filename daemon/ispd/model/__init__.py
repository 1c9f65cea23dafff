"""The vocabulary of the daemon: frozen dataclasses and enums, standard library only (floor 1)."""
