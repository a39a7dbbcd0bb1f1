"""Names of files for ids, which may be any text."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote, unquote

LONGEST = 200  # bytes of a name, so that it has at most 255 with a suffix and while it is temporary
SHORTENED = "%~"  # which no quoted text contains


def file_name(text: str, safe: str = "") -> str:
    """One file's name for an id, or for any other text: distinct for distinct texts, plain ASCII.

    It is the text in percent encoding. A dot at its beginning is encoded, too, so that it is neither a hidden file nor
    a folder above; what is too long for a disk ends with a hash in place of its end, and then the id stands whole
    only inside the files.

    Args:
        text: any characters, surrogates and NUL too, and any number of them.
        safe: characters that stay as they are, as in :func:`urllib.parse.quote`; never a slash.

    >>> file_name("pets/my cat"), file_name("..")
    ('pets%2Fmy%20cat', '%2E.')
    """
    name = quote(text, safe=safe, errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        name = name[: LONGEST - len(SHORTENED + digest)].rstrip("%") + SHORTENED + digest
    return name or SHORTENED


def id_of(name: str) -> str | None:
    """The text that :func:`file_name` has made ``name`` of; None where that is shortened.

    Args:
        name: a file's name, without suffix.

    >>> id_of("pets%2Fmy%20cat")
    'pets/my cat'
    """
    if name == SHORTENED:
        return ""
    return None if SHORTENED in name else unquote(name, errors="surrogatepass")
