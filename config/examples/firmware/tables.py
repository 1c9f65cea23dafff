"""Write tables.h: the light show of the example keyboard, one brightness byte per key and frame.

Three waves run over a 5 x 12 key field, gamma-corrected. The table is what gives the example the size of a real keyboard
firmware.
"""

# ruff: noqa: INP001 -- a script beside its Makefile, not part of a package
import math
import sys

ROWS, COLUMNS, FRAMES = 5, 12, 288
GAMMA = 2.2


def brightness(row: int, column: int, frame: int) -> int:
    """Return 0..254 for one key in one frame; 255 stays out, for it is what blank flash reads."""
    phase = 2 * math.pi * frame / FRAMES
    ring = math.hypot(row - 2, column - 5.5)
    waves = math.sin(phase + column / 2) + math.sin(3 * phase - ring) + math.sin(5 * phase + row * column / 7)
    return round(254 * ((waves + 3) / 6) ** GAMMA)


def table(name: str, values: list[int], shape: str) -> str:
    """Return a C array in flash."""
    lines = [", ".join(map(str, values[at : at + 24])) for at in range(0, len(values), 24)]
    return f"static const uint8_t {name}{shape} PROGMEM = {{\n    " + ",\n    ".join(lines) + "\n};\n"


def main() -> None:
    """Print the header."""
    frames = [brightness(r, c, f) for f in range(FRAMES) for r in range(ROWS) for c in range(COLUMNS)]
    wheel = [round(254 * (0.5 + 0.5 * math.sin(2 * math.pi * step / 256)) ** GAMMA) for step in range(256)]
    sys.stdout.write("/* Written by tables.py. */\n#include <avr/pgmspace.h>\n\n")
    sys.stdout.write(f"#define FRAMES {FRAMES}\n#define KEYS {ROWS * COLUMNS}\n\n")
    sys.stdout.write(table("light_show", frames, "[FRAMES * KEYS]"))
    sys.stdout.write(table("colour_wheel", wheel, "[256]"))


if __name__ == "__main__":
    main()
