"""What a slot is made of: facts of the station, from the configuration or from hotplug."""

from dataclasses import dataclass

__all__ = ["SlotSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSpec:
    """One slot.

    Exactly one of ``port`` (a device node that is opened as it is) and ``path`` (a USB topology path, whose node comes
    with hotplug) is set. ``programmer`` None: whatever driver claims the USB identity. ``target_usb`` is the topology
    path where this slot's board shows up once its own bootloader runs.
    """

    name: str
    programmer: str | None = None
    port: str | None = None
    path: str | None = None
    baud: int | None = None
    target_usb: str | None = None
