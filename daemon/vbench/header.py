"""Putting boards on programmers: only what has the header for it fits."""

from vbench.emulated import EmulatedBoard, EmulatedProgrammer
from vbench.swd import SwdSocket
from vbench.target import AvrTarget

__all__ = ["put_on_header"]


def put_on_header(programmer: EmulatedProgrammer, board: AvrTarget | EmulatedBoard, at: float, *, name: str) -> None:
    """Put a board on a programmer.

    :param name: what the programmer is called in messages.
    Raises ``ValueError`` where a board is already, and for a board with another kind of header.
    """
    socket = programmer.socket
    if isinstance(socket, SwdSocket):
        chip = None if isinstance(board, AvrTarget) else board.swd
        if chip is None:
            raise ValueError(f"{name} is a debug probe, and this board has no SWD header")
        socket.insert(chip, at)
        return
    target = board if isinstance(board, AvrTarget) else board.target
    if target is None:
        raise ValueError(f"{name} is an ISP programmer, and this board has no ISP header")
    socket.insert(target, at)
