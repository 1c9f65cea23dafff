"""What a slot is made of: facts of the station, from the configuration or from hotplug."""

from dataclasses import dataclass

__all__ = ["SlotSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSpec:
    """One slot.

    At most one of ``port`` (a device node that is opened as it is) and ``path`` (a USB topology path, whose node comes
    with hotplug) is set; a slot with neither has no programmer, and firmware gets there over ``target_usb`` alone.
    ``programmer`` None: whatever driver claims the USB identity. ``target_usb`` is the topology path where this slot's
    board shows up once its own bootloader runs, None where nobody knows it yet.
    """

    name: str
    programmer: str | None = None
    port: str | None = None
    path: str | None = None
    baud: int | None = None
    target_usb: str | None = None

    @property
    def has_programmer(self) -> bool:
        """False for a slot that is only a USB port."""
        return self.port is not None or self.path is not None

    @property
    def is_on_usb(self) -> bool:
        """True where something about this slot is only known by watching USB."""
        return self.path is not None or self.target_usb is not None
