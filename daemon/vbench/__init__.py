"""The virtual bench: emulated programmers, AVR targets and their faults, behind the daemon's own hardware seam.

Behaviour comes from data sheets and firmware sources, never from the daemon's codecs or drivers, so that a misreading
cannot cancel itself out. The daemon never imports this package.
"""
