"""Named arrays in one file (.npz), read without pickle and written with reproducible bytes."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from harope_bench.core.errors import BenchError, StorageError
from harope_bench.core.regular_file import open_regular
from harope_bench.core.storage import convert_os_errors, first_line, write_atomically

if TYPE_CHECKING:
    import numpy as np

NPY_MAGIC = b"\x93NUMPY"  # the first bytes of a file with a single array


def load_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz by name, read without pickle.

    Args:
        names: Names of the arrays to read; None reads all. Names that are not in the file are
            ignored.

    Raises:
        StorageError: The file is not an .npz or is cut short, contains one name twice, or contains
            Python objects. The message names the array.
    """
    import numpy as np

    from harope_bench.core.array_file import array_bytes, check_unpacked_size

    arrays: dict[str, np.ndarray] = {}
    current_name = "archive"  # what an unexpected error below is about
    try:
        with convert_os_errors(path), open_regular(path) as file:
            start = file.read(len(NPY_MAGIC))
            file.seek(0)
            archive = None if start == NPY_MAGIC else np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise StorageError(
                    f"{path} holds a single array (.npy), not an archive of named arrays; save it"
                    " with np.savez"
                )

            zip_file = archive.zip
            assert zip_file is not None  # it is None only after the archive is closed
            members = zip_file.namelist()
            if duplicate := repeated_member(members):
                raise StorageError(
                    f"{path} holds {duplicate} twice, readers differ in which they take; save it"
                    " once with np.savez"
                )

            # Check the unpacked size before anything is unpacked.
            selected_names = [n for n in archive.files if names is None or n in names]
            unpacked_bytes = 0
            file_bytes = os.fstat(file.fileno()).st_size
            for current_name in selected_names:
                member = _member_name(members, current_name)
                unpacked_bytes += array_bytes(zip_file, member, file_bytes)
            current_name = "archive"
            check_unpacked_size(unpacked_bytes, file_bytes)

            for current_name in selected_names:
                arrays[current_name] = archive[current_name]
    except BenchError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types on damaged bytes
        # numpy's own message recommends pickle, which can run code.
        is_object_array = "allow_pickle" in str(error)
        reason = (
            "it is no array, or one of Python objects" if is_object_array else first_line(error)
        )
        raise StorageError(
            f"{path}: {current_name} cannot be read ({reason}); make the file again with np.savez"
        ) from error
    return arrays


def _member_name(members: Collection[str], name: str) -> str:
    """Return the name of an array's member in the zip file; numpy's array names omit ".npy"."""
    return name if name in members else f"{name}.npy"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write an .npz atomically. Equal arrays give equal bytes: the times in the zip are fixed."""
    with write_atomically(path) as file:
        _write_npz(file, arrays, compress)


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes that `write_arrays` writes, so that their hash can be recorded first.

    Args:
        arrays: Arrays by name.
    """
    buffer = io.BytesIO()
    _write_npz(buffer, arrays, compress=False)
    return buffer.getvalue()


def _write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray], compress: bool) -> None:
    import numpy as np

    compression = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = compression
            with archive.open(info, "w", force_zip64=True) as member:
                array = np.asarray(arrays[name], order="C")
                np.lib.format.write_array(member, array, allow_pickle=False)


def repeated_member(members: Iterable[str]) -> str | None:
    """Return the first array name that occurs twice in an .npz; None if every name is unique.

    `arr_0` and `arr_0.npy` are the same name, because numpy omits the suffix.
    """
    previous_names: set[str] = set()
    for member in members:
        name = member.removesuffix(".npy")
        if name in previous_names:
            return name
        previous_names.add(name)
    return None
