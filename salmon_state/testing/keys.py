"""Keys and values that a store may confuse: what attackers, clients and other alphabets send."""

from __future__ import annotations

import base64
import gzip
import pickle
import zlib

from salmon_state.keys import Sender

__all__ = ["HOSTILE_KEYS", "LONGEST", "MODULE", "OTHER", "SENDER", "SHORT_DIGESTS", "VALUES"]

MODULE = "app.handlers"
SENDER, OTHER = "anna@example.com", "ben@example.com"

_SENDERS: tuple[Sender, ...] = (
    # The null sender, and texts that a careless store takes for it or for another type.
    *(None, "", "None", "null", "NULL", "0", "1", "01", "1.0", "1e0", "True", "START", "nan"),
    # Case, which no store may fold: also where folding is not one letter to one letter.
    *("a@x", "A@x", "a@X", "ß@x", "ss@x", "SS@x", "ẞ@x", "i@x", "I@x", "\u0131@x", "İ@x"),
    *("k@x", "\u212a@x", "ﬁ@x", "fi@x", "\u03c3@x", "\u03c2@x"),
    # The same to the eye, or to a database's collation.
    *("e@x", "\u00e9@x", "e\u0301@x", "æ@x", "ae@x", "\u0430@x", "\uff41@x"),
    # Spaces and characters that cannot be seen.
    *("a@x ", "a@x  ", " a@x", "a@x\t", "a@x\u00a0", "a@x\u3000", "a@x\u200b", "\ufeffa@x"),
    *(" ", "  ", "\t"),
    # What ends a C string, a line, a record, a literal.
    *("\0", "\0\0", "a@x\0", "a\0b@x", "a@x\n", "a@x\r", "a@x\r\n", "\n", "a@x\x1a", "a@x\x85"),
    *("a@x\u2028", "'", '"', "''", "o'neil@x", '"o\'neil"@x', '"a b"@x', "`", "';--", "')--"),
    # Backslashes, and escapes written out beside the character they stand for.
    *("\\", "\\\\", "a\\@x", "a@x\\", "\\'", "\\x00", "\\n", "\\xe9@x", "\\u00e9@x", "\\udcff@x"),
    *("%00", "&#233;@x", "=E9@x", "é@x".encode().decode("latin-1")),
    # Lone surrogates come out of plain SMTP; two of them are not the emoji that they spell.
    *("\udcff@x", "\udcfe@x", "\ud83e@x", "\udee8@x", "\ud83e\udee8@x", "\U0001fae8@x"),
    "\udcc3\udca9@x",  # of which `surrogateescape` makes the bytes of an é
    # Newer than some Python's tables, or in nobody's yet: repr() shows them differently.
    *("\U0001faea@x", "\U0001fae9@x", "\ua7dc@x", "\u0378@x", "\u0379@x", "\U000e0fff@x"),
    *("\U0001f600@x", "\U0001f601@x", "\ufffd@x", "\uffff@x", "\U0010ffff@x", "?@x", "??@x"),
    # More than one address, names as written, patterns, paths, separators, slots.
    *("a@x, b@y", "b@y, a@x", "Anna <a@x>", "<a@x>", "%", "_", "*", "a*", "a?x", "[a]@x", "^a"),
    *("{a}@x", "{a}", "../a@x", "/a@x", ".", "..", "a@x/", "a:b", "a|b", "a,b", "a;b", "a&b=c"),
    # Longer than an index row, and differing only where a limit would cut.
    *("a" * 63, "a" * 64, "a" * 254 + "@x", "a" * 255 + "@x", "a" * 3071 + "x", "a" * 3071 + "y"),
    *("é" * 9000 + "x", "é" * 9000 + "y", "x" + "\U0001fae8" * 700, "y" + "\U0001fae8" * 700),
)

_MODULES = (
    *("", " ", "App.Handlers", "app.handlers ", "app.handlers\0", "app.handlers.", "app_handlers"),
    *("app.handlers:list@example.com", "b'app.handlers'", "['app.handlers', 'a@x']", "['a'", "[]"),
    *("*", "%", "EVERY", "_Mark.EVERY"),  # what may stand for every name
    *("it's", 'a "module"', "a'b\"c", "mod[0]", "mod]", "mod\\", "mod\n", "é.handlers"),
    *("e\u0301.handlers", "모듈", "\udcff.handlers", "\U0001faea.handlers", "m" * 3071, "m" * 3072),
    "\udcc3\udca9.handlers",
)

# Equal as soon as a store joins module and sender by something.
_JOINED = (
    *(("a", "b:c"), ("a:b", "c"), ("a", "b/c"), ("a/b", "c"), ("a", "b|c"), ("a|b", "c")),
    *(("a", "b c"), ("a b", "c"), ("a", "b\0c"), ("a\0b", "c"), ("a", "b\nc"), ("a\nb", "c")),
    *(("a", "b,c"), ("a,b", "c"), ("a", "b.c"), ("a.b", "c"), ("a", "b_c"), ("a_b", "c")),
    *(("a", "b', 'c"), ("a', 'b", "c"), ("a", 'b", "c'), ('a", "b', "c"), ("a", "b\x1fc")),
    *(("a\x1fb", "c"), ("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("abc", None)),
    *(("a", "c"), ("c", "a"), ("a", "', 'c"), ("a', '", "c"), ("a", "b\tc"), ("a\tb", "c")),
)

HOSTILE_KEYS: tuple[tuple[str, Sender], ...] = tuple(
    dict.fromkeys(
        (
            *((MODULE, sender) for sender in _SENDERS),
            *((module, sender) for module in _MODULES for sender in (SENDER, None)),
            *_JOINED,
        )
    )
)
"""(module, sender) pairs, all different, of which no two may meet in any store."""

LONGEST = 5_000_000
"""As many characters of a sender as an LMTP client was seen to send."""

SHORT_DIGESTS: tuple[tuple[str, str], ...] = (
    *(("86821@x", "14740600@x"), ("85799@x", "24460042@x"), ("29685295@x", "32060020@x")),  # CRC
    *(("17809@x", "116103@x"), ("3872@x", "106208@x"), ("52824@x", "56733@x")),  # SHA-256
    *(("28685@x", "34924@x"), ("30130@x", "110714@x"), ("46625@x", "133433@x")),  # its end
    *(("67503@x", "91080@x"), ("5822@x", "52903@x"), ("22318@x", "38516@x")),  # MD5
    *(("32620@x", "36734@x"), ("1580@x", "33258@x"), ("22076@x", "63182@x")),  # SHA-1
    *(("11680@x", "18863@x"), ("40229@x", "64301@x"), ("16108@x", "44740@x")),  # BLAKE2b
)
"""Senders of which 32 bits of a digest are the same: of the text, its `ascii`, and `ascii_key`."""

_TEXT = b"From: anna@example.com"
VALUES = (
    *(b"", b"\0", b"\xff\xfe", b"text \r\n", bytes(range(256)), b"a" * 100_000),
    # What a store may take for what it has made of a value itself, as senders can write it, too.
    *(zlib.compress(_TEXT), gzip.compress(_TEXT, mtime=0)),
    *(pickle.dumps(_TEXT), base64.b64encode(_TEXT), _TEXT.hex().encode(), repr(_TEXT).encode()),
    *(b"x\x9c", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x80\x04", b"null", b"{}", b"\\x00", b"X'00'"),
)
"""Values of entries beside the states, all different."""
