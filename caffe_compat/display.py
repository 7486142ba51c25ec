"""What may be shown to a user: the one place that makes names and messages safe to print.

Names of layers and blobs, paths and values come from files that anybody may have written. Printed as they stand, a line
break forges a line of a log, an ANSI sequence clears the screen or renames the terminal, and a bidirectional control
shows a name backwards. Errors and warnings of this library pass through here when they format themselves; so does
whatever a command, a log, a table or a drawing shows.
"""

from __future__ import annotations

import re

__all__ = ["brief", "short_words", "shown", "shown_lines"]

# Letters and marks without a shape of their own, which Python calls printable (Unicode's Default_Ignorable_Code_Point).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


def shown(text: str) -> str:
    r"""``text`` as one line that does nothing to a terminal: what cannot be seen stands there escaped.

    Control characters, line breaks, bidirectional and zero-width controls, lone surrogates, and spaces that are none of
    the keyboard become ``\n``, ``\x1b``, ``\u202e``. What is escaped already stays as it is.

    >>> print(shown("conv1\x1b[2J\nERROR: forged"))
    conv1\x1b[2J\nERROR: forged
    """
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(
        c if c.isprintable() and not _INVISIBLE.match(c) else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shown_lines(text: str) -> str:
    r"""Like :func:`shown`, but the line breaks of ``text`` stay: for a text of several lines that no name can forge.

    >>> print(shown_lines("usage: run\r\n  FILE"))
    usage: run\r
      FILE
    """
    return "\n".join(shown(line) for line in text.split("\n"))


def brief(text: str, most: int = 60) -> str:
    """``text`` cut short where it is long: values of a file may have millions of letters.

    >>> brief("0x" + 400 * "f", 8)
    '0xffffff...'
    """
    return text if len(text) <= most else text[:most] + "..."


_LONG_WORD = re.compile(r"\S{300,}")


def short_words(text: str) -> str:
    """``text`` with words of more than 300 letters cut short: a number or a name of a file may have millions.

    >>> short_words("value " + "1" * 1000 + " is no number") == "value " + "1" * 200 + "... is no number"
    True
    """
    return _LONG_WORD.sub(lambda word: brief(word[0], 200), text)
