"""ispd: a daemon that flashes every board on every ISP programmer of a workstation, and records each one."""
