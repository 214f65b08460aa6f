"""Mails that are small, and costly for whoever parses them."""

from __future__ import annotations


def nested(depth: int, lines: int = 0) -> bytes:
    """Returns a mail of parts within parts, with some lines in the innermost."""
    parts = [
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (number, number)
        for number in range(depth)
    ]
    return b"From: anna@example.com\n" + b"".join(parts) + b"\nhello\n" + b"x\n" * lines


def forwarded(depth: int) -> bytes:
    """Returns a mail within a mail within a mail."""
    return b"Content-Type: message/rfc822\n\n" * depth + b"Subject: hi\n\nhello\n"


BOMBS = {
    "nested 3,000": nested(3_000),
    "nested, other line ends": nested(3_000).replace(b"\n", b"\r"),
    "nested, folded": nested(3_000).replace(b"Type: ", b"TYPE:\n  "),
    "forwarded 3,000": forwarded(3_000),
    "lines in boundaries": nested(100, 100_000),
    "semicolons": b'Content-Type: multipart/mixed; a="' + b";" * 100_000 + b'"\n\nhello\n',
    "semicolons in a part": nested(1).replace(b"\nhello", b"Content-Disposition: x" + b";" * 9_999),
    "continuations": b"Content-Type: multipart/mixed"
    + b"".join(b";\n boundary*%d*=b" % number for number in range(10_000))
    + b"\n\nhello\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?x?= " * 50_000 + b"\n\nhello\n",
    "many lines": b"\n" * 5_000_000,
    "many headers": b"X: y\n" * 100_000 + b"\nhello\n",
    "many parts": nested(1) + b"--b0\n\nx\n" * 100_000,
    "many reports": b"Content-Type: message/delivery-status\n\n" + b"A: b\n\n" * 100_000,
}
