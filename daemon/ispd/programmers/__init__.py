"""Programmers: one file each, found by scanning this package (floor 3)."""
