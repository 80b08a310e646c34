"""How numbers, and what strangers write, are told to people (pure)."""


def counted(number: int, noun: str) -> str:
    """``1 product``, ``2 products``, ``0 products``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escaped(text: str) -> str:
    """A stranger's text in one line that moves no cursor: what is not printable as Python writes it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def lasting(seconds: int) -> str:
    """``40 s``, ``7 min``, ``30 h``, ``3 d``: the largest unit there are two of."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
