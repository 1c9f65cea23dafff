"""Recipe files: every key taken, every unknown one refused by name, no other file than the one written down."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ispd.catalog.recipe import NamedBytes, RecipeOptions
from ispd.catalog.recipefile import read_recipe, recipe_files
from ispd.errors import ErrorCode, RefusedError
from ispd.model.recipe import VerifyScope

IMAGE, OTHER = b":00000001FF\n", b"\x01\x02"
DIGEST = hashlib.sha256(IMAGE).hexdigest()
FILES = {"fw/app.hex": IMAGE, "boot.bin": OTHER, "board.eep": IMAGE}
FULL = f"""
part = "m32u4"
bootloader = "caterina-micro"
lock = 0x2F
erase = false
verify = "written"
strip_sketch = true
accept_fuses = true
sck_hz = 125_000
supply_mv = 3300
[fuses]
lfuse = 0xFF
hfuse = 0
efuse = 0xFB
[[image]]
file = "fw/app.hex"
sha256 = "{DIGEST}"
[[image]]
file = "boot.bin"
base = 0x7000
[eeprom]
file = "board.eep"
"""


def refusal(text: str | bytes, files: dict[str, bytes] = FILES) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read_recipe("b.toml", text if isinstance(text, bytes) else text.encode(), files)
    return caught.value


def test_every_key_is_taken():
    assert recipe_files("b.toml", FULL.encode()) == ("fw/app.hex", "boot.bin", "board.eep")
    assert read_recipe("b.toml", FULL.encode(), FILES) == RecipeOptions(
        files=(NamedBytes("fw/app.hex", IMAGE), NamedBytes("boot.bin", OTHER, 0x7000)),
        eeprom=NamedBytes("board.eep", IMAGE),
        part="m32u4",
        bootloader="caterina-micro",
        lfuse=0xFF,
        hfuse=0,
        efuse=0xFB,
        lock=0x2F,
        erase=False,
        verify=VerifyScope.WRITTEN,
        strip_sketch=True,
        accept_fuses=True,
        sck_hz=125_000,
        supply_mv=3300,
    )
    assert read_recipe("b.toml", b"", {}) == RecipeOptions()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FULL.replace("supply_mv", "suply_mv"), "suply_mv"),
        (FULL.replace("hfuse", "hfuze"), "hfuze"),
        (FULL.replace("base =", "bass ="), "bass"),
        ("force_fuses = true", "force_fuses"),
        ('lock = "0x2F"', "lock"),
        ("lock = 0x\n", "line 1"),
        ('verify = "none"', "verify"),
        ("verify = false", "verify"),
        ("x = " + "[" * 20_000, "recipe"),
        ("#" * 70_000, "65536 bytes"),
        ("[[image]]\nbase = 0", "file"),
        (b"part = '\xff'", "utf-8"),
        (FULL.replace(DIGEST, DIGEST.upper()), "sha256"),
        (FULL.replace("fw/app.hex", "fw/ap.hex"), "fw/ap.hex"),
    ],
)
def test_what_is_wrong_is_named(text, told):
    error = refusal(text)
    assert error.code is ErrorCode.RECIPE_INVALID
    assert told in error.message
    assert "b.toml" in error.message


def test_another_file_than_the_one_written_down_is_refused():
    """Naming the file and both sums: whoever stands there compares them with a piece of paper."""
    changed = IMAGE + b"\n"
    error = refusal(FULL, {**FILES, "fw/app.hex": changed})
    assert error.code is ErrorCode.CHECKSUM_MISMATCH
    assert all(words in error.message for words in ("fw/app.hex", DIGEST, hashlib.sha256(changed).hexdigest()))


values = st.sampled_from(['"full"', "0x2F", "-1", "true", '"a.hex"', f'"{DIGEST}"', "[]", "1979-05-27", "nan", "[[1]]"])
keys = st.sampled_from(
    ["part", "lock", "verify", "sck_hz", "erase", "image", "eeprom", "eeprom.file", "fuses.lfuse", "image.file", "base"]
)
text = st.lists(
    st.builds("{} = {}".format, keys, values) | st.sampled_from(["[[image]]", "[eeprom]", "[fuses]"]), max_size=8
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | text.map("\n".join).map(str.encode))
def test_whatever_comes_is_a_recipe_or_refused(content):
    files = {"a.hex": IMAGE, "full": OTHER, DIGEST: OTHER}
    try:
        outcome: object = read_recipe("b.toml", content, files)
    except RefusedError as error:
        outcome = error.code
    assert isinstance(outcome, RecipeOptions) or outcome in (ErrorCode.RECIPE_INVALID, ErrorCode.CHECKSUM_MISMATCH)
