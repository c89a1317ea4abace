"""Named arrays in one file (.npz): read without pickles, equal bytes for equal arrays."""

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

NPY_MAGIC = b"\x93NUMPY"  # how a single array begins


def load_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz (of these names `only`, where given: the others are not read), never
    unpickling.

    Raises:
        StorageError: not an npz, cut short, one name twice, or holding Python objects; names the
            array.
    """
    import numpy as np

    from harope_bench.core.array_file import array_bytes, check_unpacked_size

    arrays: dict[str, np.ndarray] = {}
    name = "archive"
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
            zipped = archive.zip
            assert zipped is not None  # None once it is closed
            members = zipped.namelist()
            if twice := repeated_member(members):
                raise StorageError(
                    f"{path} holds {twice} twice, readers differ in which they take; save it once"
                    " with np.savez"
                )
            names = archive.files if only is None else [n for n in archive.files if n in only]
            total = 0
            size = os.fstat(file.fileno()).st_size
            for name in names:
                total += array_bytes(zipped, _member_name(members, name), size)
            name = "archive"
            check_unpacked_size(total, size)
            for name in names:
                arrays[name] = archive[name]
    except BenchError:
        raise
    except (
        Exception
    ) as error:  # zipfile, zlib and the header parser fail in a dozen ways on damaged bytes
        # numpy's own words advise to unpickle, which is the one thing not to do
        why = (
            "it is no array, or one of Python objects"
            if "allow_pickle" in str(error)
            else first_line(error)
        )
        raise StorageError(
            f"{path}: {name} cannot be read ({why}); make the file again with np.savez"
        ) from error
    return arrays


def _member_name(members: Collection[str], name: str) -> str:
    """Return the name in the zip of an array; numpy leaves .npy out."""
    return name if name in members else f"{name}.npy"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Atomic .npz whose bytes depend on the arrays alone (member times are fixed)."""
    with write_atomically(path) as file:
        _write_npz(file, arrays, compress)


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes that `write_arrays` writes, for small arrays whose hash is recorded before
    their file.
    """
    buffer = io.BytesIO()
    _write_npz(buffer, arrays, False)
    return buffer.getvalue()


def _write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray], compress: bool) -> None:
    import numpy as np

    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = kind
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(
                    member, np.asarray(arrays[name], order="C"), allow_pickle=False
                )


def repeated_member(names: Iterable[str]) -> str | None:
    """Return the first array name that stands twice in an .npz; readers differ in which of the two
    they take.

    `arr_0` and `arr_0.npy` are one name: numpy leaves the suffix out.
    """
    known: set[str] = set()
    for name in (member.removesuffix(".npy") for member in names):
        if name in known:
            return name
        known.add(name)
    return None
