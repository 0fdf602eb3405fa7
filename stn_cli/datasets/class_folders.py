"""Names of folders for classes, one each, that every file system takes and that sort in the order of the classes."""

import re
import unicodedata
from collections.abc import Sequence

_ODD = '<>:"/\\|?*'  # on Windows; the slash everywhere
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)  # on Windows
_LONGEST = 60  # letters, of up to four bytes; file systems take 255 bytes


def class_folders(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class, such that sorting them gives the order of the classes.

    Where all names serve as they are, on Linux, macOS and Windows, these are the names: none odd, none hidden, no two
    equal when case is ignored, and sorted. Otherwise all become "<number>-<name>" with every odd letter as "_".
    """
    if list(classes) == sorted({_folded(name): name for name in classes}.values()) and all(map(_is_sound, classes)):
        return list(classes)
    digits = len(str(len(classes) - 1))
    return [f"{number:0{digits}}-{_cleaned(name)}" for number, name in enumerate(classes)]


def _is_sound(name: str) -> bool:
    return name == _cleaned(name) != "" and name[0] not in " ." and not _DEVICE.fullmatch(name)


def _cleaned(name: str) -> str:
    letters = (c if c.isprintable() and c not in _ODD else "_" for c in unicodedata.normalize("NFC", name))
    return "".join(letters)[:_LONGEST].rstrip(" .")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
