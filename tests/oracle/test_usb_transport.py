"""The daemon's own USB transport, through pyusb and the system's libusb-1.0, on emulated devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.parts import load_parts
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny

pytestmark = pytest.mark.oracle

CLIENT = Path(__file__).parent / "usb" / "client.py"


def test_opens_by_place_submits_and_loses_an_unplugged_device() -> None:
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")
    target = AvrTarget(load_parts().avr("atmega32u4"))
    with UsbBed({"1-1.4": UsbTiny(target=target), "1-1.2": UsbAsp()}) as bed:
        arguments = [sys.executable, str(CLIENT), "usb:1-1.4", "usb:1-1.2"]
        with subprocess.Popen(
            arguments, env=bed.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            told = [json.loads(client.stdout.readline()) for _ in range(5)]
            bed.unplug("1-1.4")
            client.stdin.write("\n")
            client.stdin.close()
            told += [json.loads(line) for line in client.stdout]
    assert client.returncode == 0
    assert told == [
        {"identities": [["1781:0C9F", "USBtinyISP"], ["16C0:05DC", "USBasp"]]},
        {"result": ["c000341278560800", "", "ffac5300", "0030001e"]},
        {"error": "protocol-remote"},
        {"error": "link-timeout"},
        {"result": ["01000000"]},
        {"error": "link-closed"},
        {"result": ["01000000"]},
        {"error": "port-not-found"},
    ]
