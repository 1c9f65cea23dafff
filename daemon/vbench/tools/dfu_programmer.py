"""dfu-programmer 0.6.1, 0.7.2 and 1.1.0 for AVR chips, lies included.

Written after what its releases do (tags v0.6.1, v0.7.2, v1.1.0 of github.com/dfu-programmer/dfu-programmer), compared with
the programs themselves. Left out: chips that are no AVR, ``--debug``, the conversions of 1.1.0, and of the help all but its first line.
"""

from vbench.tools.dfu_programmer_new import NewCommands
from vbench.tools.dfu_programmer_old import OldCommands
from vbench.tools.dfu_programmer_usb import find_device
from vbench.tools.dfu_programmer_words import Words, read_words
from vbench.tools.machine import Process
from vbench.tools.usb_host import UsbHandle

__all__ = ["VERSIONS", "run"]

VERSIONS = ("0.6.1", "0.7.2", "1.1.0")
"""Those that are emulated; Debian 12 has the first."""
_DEVICE_ACCESS = 3


async def run(process: Process, version: str) -> int:
    """Run the program and return what its ``main`` returns."""
    words = read_words(process, version)
    if isinstance(words, int):
        return words
    handles: list[UsbHandle] = []
    try:
        return await _on_device(process, words, handles)
    finally:
        for handle in handles:
            await handle.close()


async def _on_device(process: Process, words: Words, handles: list[UsbHandle]) -> int:
    is_old = words.version == "0.6.1"
    flip = await find_device(process.bench, words, handles.append)
    if flip is None:
        process.err("dfu-programmer: no device present.\n")
        return 1 if is_old else _DEVICE_ACCESS
    if is_old:
        result = await OldCommands(process, words, flip).carry_out()
        is_leaving = words.command == "reset"
    else:
        commands = NewCommands(process, words, flip)
        result = await commands.carry_out()
        is_leaving = commands.is_leaving
    if not flip.handle.is_there and not is_leaving:
        process.err("dfu-programmer: failed to release interface 0.\n")
        return 1 if is_old else _DEVICE_ACCESS
    return result
