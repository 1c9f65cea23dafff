"""Real serial ports. The only module that knows pyserial and its asyncio transport.

Opening runs in a worker thread, because a wedged USB device can hold ``open`` or its line coding for seconds. A port is
taken for this process alone twice over: ``flock`` keeps other users of pyserial out, ``TIOCEXCL`` everyone else but
root. ``HUPCL`` is cleared, unless hanging up is asked for, so that closing does not drop DTR and the next open does not
reset an Uno.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import termios
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import serial
import serial_asyncio_fast

from ispd.errors import ErrorCode, LinkClosedError, TransportError
from ispd.transport.contract import BytePort, SerialSettings
from ispd.transport.holders import port_holders
from ispd.transport.port_table import topology_path

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["SerialPort", "open_serial_port"]

_SYSFS = Path("/sys")

_CFLAG = 2
"""Index of the control flags in what ``termios.tcgetattr`` returns."""

_NO_SUCH_IOCTL = frozenset({errno.ENOTTY, errno.EINVAL})
"""What a pseudo-terminal answers to modem line requests, and only these may pass."""

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO})
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


class _Tty(serial.Serial):
    """pyserial's port with reads and writes that never wait.

    Its own non-blocking ``write`` spins while the driver's buffer is full, which a wedged USB device would turn into a
    frozen event loop, and its ``read`` uses ``select``, which ends at descriptor 1023.
    """

    def read(self, size: int = 1) -> bytes:
        """Return what is there, at most ``size`` bytes. Raises ``SerialException`` on a hang-up."""
        try:
            data = os.read(self.fileno(), size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise serial.SerialException(error.errno, f"read failed: {error}") from error
        if not data:
            raise serial.SerialException(errno.EIO, "hang-up")
        return data

    def write(self, data: "ReadableBuffer", /) -> int | None:
        """Hand over as much as fits. Raises ``BlockingIOError`` where nothing does, ``SerialException`` on a hang-up."""
        try:
            return os.write(self.fileno(), data)
        except BlockingIOError:
            raise
        except OSError as error:
            raise serial.SerialException(error.errno, f"write failed: {error}") from error


class SerialPort(asyncio.Protocol):
    """A tty as a :class:`~ispd.transport.contract.BytePort`. Made by :func:`open_serial_port`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._lost = asyncio.Event()
        self._transport: serial_asyncio_fast.SerialTransport | None = None
        self._limiter = anyio.CapacityLimiter(1)

    @property
    def name(self) -> str:
        """Path of the port."""
        return self._name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("serial_asyncio_fast.SerialTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep what arrived and wake the reader."""
        self._buffer += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the hang-up says nothing but "gone"
        """Wake everyone who waits: the port is closed, by us or by a hang-up."""
        self._lost.set()
        self._news.set()

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the port, in order. Raises ``LinkClosedError`` once the port is gone.

        Written here and not by the transport, which after a full buffer never stops watching for room (0.16).
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            tty = self._open_tty()
            try:
                rest = rest[tty.write(rest) or 0 :]
            except BlockingIOError:
                await anyio.wait_writable(tty.fileno())
            except serial.SerialException as error:
                raise LinkClosedError(self._name) from error
        await anyio.lowlevel.cancel_shielded_checkpoint()

    async def receive(self) -> bytes:
        """Return the next bytes, at least one. Raises ``LinkClosedError`` once the port is gone and read empty."""
        while not self._buffer:
            self._open_tty()
            self._news.clear()
            await self._news.wait()
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived and was not received yet, without waiting."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def set_baud(self, baud: int) -> None:
        """Change the rate of both directions.

        Raises ``LinkClosedError`` once the port is gone, ``TransportError`` (invalid-parameter) for an impossible rate.
        """
        tty = self._open_tty()
        try:
            await anyio.to_thread.run_sync(setattr, tty, "baudrate", _checked_rate(baud), limiter=self._limiter)
        except (ValueError, OverflowError) as error:
            if _errno_of(error) in _GONE:  # pyserial takes any refusal of an unusual rate for a wrong rate
                raise LinkClosedError(self._name) from error
            raise TransportError(
                ErrorCode.INVALID_PARAMETER, f"{self._name} cannot run at {baud} baud", hint="use a standard rate"
            ) from error
        except (serial.SerialException, OSError, termios.error) as error:
            raise LinkClosedError(self._name) from error

    async def aclose(self) -> None:
        """Close the port without waiting for unsent bytes; never raises."""
        if self._transport is None or self._lost.is_set():
            return
        if not self._transport.is_closing():  # else a worker thread is closing it after a hang-up: not ours to touch
            if self._transport.serial is not None:
                _release(self._transport.serial.fileno())
            self._transport.abort()
        with anyio.CancelScope(shield=True):
            await self._lost.wait()

    def _open_tty(self) -> serial.Serial:
        """Return the tty; raises ``LinkClosedError`` where there is none any more."""
        if self._transport is None or self._transport.is_closing() or self._transport.serial is None:
            raise LinkClosedError(self._name)
        return self._transport.serial


async def open_serial_port(settings: SerialSettings) -> BytePort:
    """Open a tty for this process alone.

    Raises ``TransportError`` with ``port-not-found``, ``permission-denied``, ``port-busy`` or ``invalid-parameter``.
    """
    # a limiter of its own: ports that hang must not use up the threads that others need
    tty = await anyio.to_thread.run_sync(_open_tty, settings, limiter=anyio.CapacityLimiter(1))
    port = SerialPort(settings.port)
    await serial_asyncio_fast.connection_for_serial(asyncio.get_running_loop(), lambda: port, tty)
    await anyio.lowlevel.cancel_shielded_checkpoint()
    return port


def _open_tty(settings: SerialSettings) -> serial.Serial:
    """Open and set up the tty; runs in a worker thread."""
    with contextlib.suppress(OSError):  # a node that is not there is the next call's error
        _check_place(settings, Path(settings.port).stat().st_rdev)  # before: opening would reset the wrong Uno
    try:
        tty = _Tty(settings.port, _checked_rate(settings.baud), timeout=0, write_timeout=0, exclusive=True)
    except serial.SerialException as error:
        raise _open_error(settings.port, _errno_of(error)) from error
    except (ValueError, OverflowError) as error:
        raise TransportError(
            ErrorCode.INVALID_PARAMETER,
            f"{settings.port} cannot run at {settings.baud} baud",
            hint="use the baud rate the programmer's firmware was built for; ArduinoISP as shipped uses 19200",
        ) from error
    try:
        _check_place(settings, os.fstat(tty.fileno()).st_rdev)
        _set_up(tty, hangs_up=settings.hangs_up)
    except TransportError:
        tty.close()
        raise
    except (OSError, termios.error) as error:
        tty.close()
        raise _open_error(settings.port, error.args[0]) from error
    return tty


def _checked_rate(baud: int) -> int:
    """Return the rate; raises ``ValueError`` for 0, which to a tty means hanging up (B0), and below."""
    if baud < 1:
        raise ValueError(baud)
    return baud


def _check_place(settings: SerialSettings, device: int) -> None:
    """Raise ``TransportError`` where the kernel knows the tty at another place in the USB tree than asked for."""
    if settings.path is None:
        return
    entry = os.path.realpath(_SYSFS / "dev/char" / f"{os.major(device)}:{os.minor(device)}")
    place = topology_path(f"{entry}/")
    if place not in (None, settings.path.partition(":")[0]):
        raise TransportError(
            ErrorCode.PORT_NOT_FOUND,
            f"{settings.port} is at {place} now, no longer at {settings.path}",
            hint="wait a moment, or unplug the programmer and plug it in again",
        )


def _set_up(tty: serial.Serial, *, hangs_up: bool) -> None:
    """Claim the tty, keep or drop DTR when it is closed, assert both lines, and ask for short latency."""
    descriptor = tty.fileno()
    fcntl.ioctl(descriptor, termios.TIOCEXCL)
    attributes = termios.tcgetattr(descriptor)
    if hangs_up:
        attributes[_CFLAG] |= termios.HUPCL
    else:
        attributes[_CFLAG] &= ~termios.HUPCL
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    try:
        tty.dtr = True
        tty.rts = True
    except OSError as error:
        if error.errno not in _NO_SUCH_IOCTL:
            raise
    try:
        tty.set_low_latency_mode(low_latency_settings=True)
    except ValueError:
        # pyserial's word for "this driver has no such setting"; FTDI's has, and goes from 16 ms down to 1 ms
        return


def _release(descriptor: int) -> None:
    """Give up ``TIOCEXCL``: on a pseudo-terminal the mark outlives us as long as its other end is open."""
    try:
        fcntl.ioctl(descriptor, termios.TIOCNXCL)
    except OSError as error:
        if error.errno not in _GONE | _NO_SUCH_IOCTL:
            raise


def _errno_of(error: BaseException) -> int | None:
    """Return the error number behind pyserial's exception, which wraps some of them without one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        if isinstance(cause, termios.error):
            return cast("int", cause.args[0])
        cause = cause.__context__
    return None


def _open_error(port: str, number: int | None) -> TransportError:
    """Return the error an operator understands."""
    if number in _BUSY:
        return _busy_error(port)
    if number in _DENIED:
        return TransportError(
            ErrorCode.PERMISSION_DENIED,
            f"{port} may not be opened by this user",
            hint="add the user to group dialout (plugdev on some systems), or install the udev rules of ispd",
        )
    if number in _GONE:
        return TransportError(
            ErrorCode.PORT_NOT_FOUND, f"there is no serial port {port}", hint="check the cable and the port's name"
        )
    return TransportError(
        ErrorCode.PORT_NOT_FOUND, f"{port} is not a serial port", hint="name a tty, for example /dev/ttyACM0"
    )


def _busy_error(port: str) -> TransportError:
    """Name who holds the port, as far as it can be seen."""
    holders = port_holders(port)
    if any("ModemManager" in holder for holder in holders):
        hint = "install the udev rules of ispd, which keep ModemManager off, or stop it: systemctl stop ModemManager"
    else:
        hint = "close the other program; ModemManager lets go by itself after some seconds"
    by = f" by {', '.join(holders)}" if holders else ""
    return TransportError(ErrorCode.PORT_BUSY, f"{port} is in use{by}", hint=hint)
