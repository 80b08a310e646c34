"""How numbers are told to people (pure)."""


def counted(number: int, noun: str) -> str:
    """``1 product``, ``2 products``, ``0 products``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
