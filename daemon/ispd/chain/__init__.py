"""Follow-up tools: each brings the firmware through one family of bootloaders, over the board's own USB port."""
