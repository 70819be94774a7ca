"""Headers as they are on record."""


def split_lines(block: bytes) -> list[tuple[bytes, bytes]]:
    """Read "Name: value" lines as bytes."""
    return [
        (name, value)
        for name, colon, value in (line.partition(b": ") for line in block.split(b"\r\n"))
        if colon
    ]


def parse_headers(block: bytes, errors: str = "backslashreplace") -> list[tuple[str, str]]:
    """Read "Name: value" lines; `errors` says what becomes of bytes that are not UTF-8."""
    lines = block.decode("utf-8", errors).split("\r\n")
    return [
        (name, value) for name, colon, value in (line.partition(": ") for line in lines) if colon
    ]
