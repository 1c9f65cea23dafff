"""Intel HEX written by hand for the tests, so that no test checks the product's writer with itself."""


def record(kind: int, offset: int, data: bytes = b"") -> str:
    body = bytes([len(data)]) + offset.to_bytes(2, "big") + bytes([kind]) + data
    return ":" + (body + bytes([-sum(body) % 256])).hex().upper()


END = ":00000001FF"


def hexfile(*lines: str, newline: str = "\n") -> bytes:
    return "".join(line + newline for line in lines).encode()


def data_lines(start: int, data: bytes, width: int = 16) -> list[str]:
    return [record(0, start + at, data[at : at + width]) for at in range(0, len(data), width)]
