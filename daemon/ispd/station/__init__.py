"""Many slots at once: presence, gang, job queue, journal (floor 5)."""
