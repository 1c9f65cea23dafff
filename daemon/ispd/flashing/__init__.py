"""One unit on one slot: identify it, plan, write, verify, and say honestly how it ended (floor 4)."""
