"""How numbers, and what strangers write, are told to people (pure)."""


def counted(number: int, noun: str) -> str:
    """``1 product``, ``2 products``, ``0 products``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escaped(text: str) -> str:
    """A stranger's text in one line that moves no cursor: what is not printable as Python writes it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
