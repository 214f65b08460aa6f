"""Keys as durable stores write them: the same text for a (module, sender) on every Python."""

from __future__ import annotations

from salmon_state.errors import StorageError

__all__ = ["Sender", "ascii_key", "parse_key"]

Sender = str | None
"""Who sent the mail, exactly as Salmon gives it; ``None`` and ``''`` are the null sender."""


def ascii_key(module: str, sender: Sender) -> str:
    r"""Returns the key as durable stores write it: the ``repr`` form, escaped to ASCII.

    ``repr`` prints a character or escapes it depending on the Unicode tables of the running
    Python; this form is the same on all of them, and equals ``repr`` for ASCII text.

    >>> ascii_key("app.handlers", "é@example.com")
    "['app.handlers', '\\xe9@example.com']"
    """
    return ascii([module, sender])


def parse_key(key: str) -> tuple[str, Sender]:
    """Returns the module and the sender of a key that `ascii_key` or `StateStorage.key` made.

    Raises:
        StorageError: The text is no such key, so the entry it stands for is damaged.
    """
    # Not ast.literal_eval: in two threads at once it can fail (CPython issue 106905).
    text = key.encode("ascii", "backslashreplace").decode("ascii")
    end = _end_of_literal(text, 1)
    try:
        pair = _decode_literal(text[1:end]), _decode_literal(text[end + 2 : -1])
    except (ValueError, Warning):  # also that of a strange escape, where warnings are errors
        pair = None, None
    # What means a pair, but is not what `get` would look up, is damaged as well.
    if pair[0] is None or text != ascii([*pair]):
        raise StorageError(f"damaged key {key[:200]!r}: expected repr([module, sender])")
    return pair[0], pair[1]


def _end_of_literal(text: str, start: int) -> int:
    """Returns where the literal that starts here ends: behind its closing quote."""
    quote = text[start : start + 1]
    end = text.find(quote, start + 1)
    while end > 0:
        unescaped = end
        while text[unescaped - 1] == "\\":
            unescaped -= 1
        if (end - unescaped) % 2 == 0:
            return end + 1
        end = text.find(quote, end + 1)
    return 0


def _decode_literal(literal: str) -> str | None:
    """Returns what ``ascii`` was given, or something that it would not write like this."""
    if literal == "None":
        return None
    return literal[1:-1].encode("ascii").decode("unicode_escape")
