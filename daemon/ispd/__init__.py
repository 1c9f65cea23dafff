"""ispd: a daemon that flashes every board on every programmer of a workstation, and records each one."""
