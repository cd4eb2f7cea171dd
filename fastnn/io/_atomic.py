"""Replace a file in one step."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the ``with`` block ends without an error.

    The data goes to a temporary file in the same folder and is flushed to the disk before the rename:
    whatever happens in between, ``path`` is the old file or the new one, and maps of the old file stay valid.
    After any error the temporary file is removed. An existing file's permission bits are kept; a new file
    obeys the umask. A symbolic link stays, and the file that it points to is replaced.

    Raises FileNotFoundError if the folder does not exist, OSError if ``path`` is a folder or a device or if
    writing fails.
    """
    target = os.path.realpath(path)
    mode = _mode_of(target)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder to save into", folder)
    temporary = os.path.join(folder, f".fastnn-{os.urandom(8).hex()}.tmp")
    # Created with the bits of the old file: a private file must not be readable by others even meanwhile.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # os.open has taken away the bits of the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):  # an interrupt right after the rename
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _mode_of(target: str) -> int | None:
    """Permission bits of the file to replace, None if there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "cannot save here: not a regular file", target)
    return stat.S_IMODE(mode) & 0o777


def _sync_folder(folder: str) -> None:
    """Flush the folder to the disk: without it a power failure may undo the rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
