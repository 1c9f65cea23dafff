"""Programmers of every kind in a bench file: each has its own options, and no other's."""

from pathlib import Path

import pytest

from ispd.catalog.parts import Parts
from ispd.errors import ConfigError
from vbench.benchfile import ProgrammerKind, read_bench
from vbench.emulated import EmulatedProgrammer
from vbench.serial_programmer import SerialProgrammer
from vbench.usbasp import UsbAsp
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny


def built(tmp_path: Path, parts: Parts, table: str) -> EmulatedProgrammer:
    file = tmp_path / "bench.toml"
    file.write_text(f'[[programmer]]\nname = "P1"\n{table}')
    return read_bench(file, parts).programmer[0].build(parts)


def test_kinds_and_their_options(tmp_path: Path, parts: Parts) -> None:
    assert isinstance(built(tmp_path, parts, ""), SerialProgrammer)
    usbasp = built(
        tmp_path,
        parts,
        """
        kind = "usbasp"
        firmware = "stock-2005"
        manufacturer = "Clone"
        slow_jumper = true
        buffer_bytes = 256
        tau_s = 0.001
        fault = [{ kind = "unplugged-at", transfer = 7 }]
        board = { part = "attiny85" }
        """,
    )
    assert isinstance(usbasp, UsbAsp)
    assert (str(usbasp.usb), usbasp.usb.manufacturer, usbasp.tau_s) == ("03EB:C7B4", "Clone", 0.001)
    assert usbasp.socket.target is not None
    tiny = built(tmp_path, parts, 'kind = "usbtiny"\nmodel = "arduino-isp"\nstretch = 1.0')
    assert isinstance(tiny, UsbTiny)
    assert (str(tiny.usb), tiny.stretch) == ("2341:0049", 1.0)
    loader = built(tmp_path, parts, 'kind = "usbasp-loader"\npart = "atmega32a"')
    assert isinstance(loader, UsbAspLoader)
    assert loader.chip.part.id == "atmega32a"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('kind = "usbasp"\nbaud = 9600', "a usbasp has no baud"),
        ('kind = "usbtiny"\nfirmware = "stock-2011"', "a usbtiny has no firmware"),
        ("tau_s = 0.001", "a stk500v1 has no tau_s"),
        ('kind = "usbasp"\nfirmware = "stock-2031"', "stock-2011, nerdralph"),
        ('kind = "usbasp"\ntau_s = 0.0', "tau_s"),
        ('kind = "usbtiny"\nfault = [{ kind = "line-noise", index = 1, data = "00" }]', "line-noise"),
        ('kind = "usbasp-loader"\npart = "atmega32a"\nboard = { part = "atmega32a" }', "no header"),
        ('kind = "usbasp-loader"', "part"),
        ('kind = "parport"', "parport"),
    ],
)
def test_what_does_not_belong_to_a_kind_is_refused_by_name(tmp_path: Path, parts: Parts, table: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        built(tmp_path, parts, table)
    assert says in str(refused.value)


def test_every_kind_can_be_built_from_its_name_alone(tmp_path: Path, parts: Parts) -> None:
    for kind in ProgrammerKind:
        part = 'part = "atmega32a"' if kind is ProgrammerKind.USBASP_LOADER else ""
        assert built(tmp_path, parts, f'kind = "{kind}"\n{part}').usb.vendor_id
