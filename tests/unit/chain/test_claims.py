"""What is quoted of a program's output. Outputs are those of the real programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.chain.scripted_desk import image, work_for

from ispd.chain.claims import last_words, tool_failed
from ispd.errors import ErrorCode, TargetError
from ispd.transport.contract import ToolOutcome


def said(output: str, errors: str, code: int | None = 1) -> str:
    """Return what is quoted."""
    return last_words(ToolOutcome(exit_code=code, output=output.encode(), errors=errors.encode(), files={}))


@pytest.mark.parametrize(
    ("output", "errors", "quoted"),
    [
        (
            "",
            (
                "avrdude OS error: cannot open port /dev/ttyACM3: Permission denied\n"
                "avrdude error: unable to open programmer avr109 on port /dev/ttyACM3\n\navrdude done.  Thank you.\n\n"
            ),
            (
                "avrdude OS error: cannot open port /dev/ttyACM3: Permission denied; "
                "avrdude error: unable to open programmer avr109 on port /dev/ttyACM3"
            ),
        ),
        (
            "",
            (
                "\navrdude: AVR device initialized and ready to accept instructions\n"
                "avrdude error: expected signature for ATmega16U4 is 1E 94 88\n"
                "        double check chip or use -F to override this check\n\navrdude done.  Thank you.\n\n"
            ),
            "avrdude error: expected signature for ATmega16U4 is 1E 94 88",
        ),
        (
            "DFU state(2) = dfuIDLE, status(0) = No error condition is present\n",
            "dfu-util: Warning: Invalid DFU suffix signature\ndfu-util: Error during download (LIBUSB_ERROR_PIPE)\n",
            "dfu-util: Error during download (LIBUSB_ERROR_PIPE)",
        ),
        (
            (
                "DFU state(2) = dfuIDLE, status(0) = No error condition is present\n"
                "DFU state(10) = dfuERROR, status(3) = Device program write error\n"
            ),
            "dfu-util: Warning: Invalid DFU suffix signature\n",
            "DFU state(10) = dfuERROR, status(3) = Device program write error",
        ),
        ("", "dfu-programmer: no device present.\n", "dfu-programmer: no device present."),
        ("Found HalfKay Bootloader\n", "", "Found HalfKay Bootloader"),
        ("", "", "exit code 1, without a word"),
        ("\r\n 12 \n", "...\n", "exit code 1, without a word"),
    ],
)
def test_the_telling_lines(output: str, errors: str, quoted: str) -> None:
    """Trouble before goodbyes, standard error before standard output, both lines where the first says why."""
    assert said(output, errors) == quoted


def test_a_crash_without_a_word() -> None:
    """The signal is all there is to say."""
    assert said("", "", -11) == "ended by signal 11"


@given(output=st.binary(max_size=400), errors=st.binary(max_size=400))
def test_any_output_can_be_quoted(output: bytes, errors: bytes) -> None:
    """Never empty, never long, one line, nothing that a terminal would act on."""
    quoted = last_words(ToolOutcome(exit_code=0, output=output, errors=errors, files={}))
    assert 0 < len(quoted) <= 240
    assert quoted.isprintable()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("avrdude OS error: cannot open port /dev/ttyACM3: Permission denied\n", ErrorCode.PERMISSION_DENIED),
        ("avrdude OS error: cannot open port /dev/ttyACM3: Device or resource busy\n", ErrorCode.PORT_BUSY),
        (
            "dfu-util: Cannot open DFU device 1eaf:0003 found on devnum 6 (LIBUSB_ERROR_ACCESS)\n",
            ErrorCode.PERMISSION_DENIED,
        ),
        ("Found device but unable to open\n", ErrorCode.PERMISSION_DENIED),
        ("Unable to claim interface, check USB permissions\n", ErrorCode.PERMISSION_DENIED),
        ('Device is in use by "usbhid" driver\n', ErrorCode.PORT_BUSY),
        ("Unable to open device (hint: try -w option)\n", ErrorCode.TOOL_FAILED),
        ("dfu-programmer: no device present.\n", ErrorCode.TOOL_FAILED),
        ("dfu-util: Error during download (LIBUSB_ERROR_PIPE)\n", ErrorCode.TOOL_FAILED),
    ],
)
def test_a_machine_that_keeps_programs_off(words: str, code: ErrorCode) -> None:
    """No board is to blame for a missing udev rule or for ModemManager: the code says so, and the hint who is."""
    work = work_for("caterina-promicro16", image((0, b"x")))
    error = tool_failed("tool", "write", ToolOutcome(exit_code=1, output=b"", errors=words.encode(), files={}), work)
    assert error.code is code
    assert isinstance(error, TargetError) is (code is ErrorCode.TOOL_FAILED)
    assert error.hint
    assert words.strip() in error.message
