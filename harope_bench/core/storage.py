"""Safe bytes: atomic writes, hashes, and weights that cannot run code."""

from __future__ import annotations

import argparse
import errno
import filecmp
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import struct
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harope_bench.core import part_files
from harope_bench.core.errors import BenchError, DiskError, IrregularFileError, StorageError, WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.regular_file import (
    JSON_BYTES,
    LINES_BYTES,
    MIB,
    append_handle,
    change_regular,
    check_regular,
    check_replaceable,
    is_file,
    open_regular,
    read_regular,
)
from harope_bench.core.text_file import decode_text, encoding_of
from harope_bench.core.weight_wrappers import Unwrapped, unwrap, without_prefixes

if TYPE_CHECKING:
    import numpy as np
    import torch


NPY = b"\x93NUMPY"  # how a single array begins
KEY_SHOWN = 200  # characters of an unknown key in a message
NOTE = "__metadata__"  # of a .safetensors header
INDEX_SUFFIX = ".safetensors.index.json"

# Errors of the disk or of the process, whatever the bytes of a file are.
REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EMFILE, errno.ENFILE, errno.ESTALE,
)  # fmt: skip


def home() -> Path:
    """Return where a user's own checkpoints live: HAROPE_BENCH_HOME, or ~/.harope-bench.

    Raises:
        StorageError: Neither names a folder: there is no such user, or the system knows no home of this one.
    """
    try:
        return Path(os.environ.get("HAROPE_BENCH_HOME") or Path.home() / ".harope-bench").expanduser()
    except RuntimeError as error:
        raise StorageError("no home folder of the user is known; set HAROPE_BENCH_HOME to a folder that you may write") from error


@contextmanager
def disk(path: Path, missing_ok: bool = False) -> Iterator[None]:
    """Turns a refusal of the disk into one line that names the place; with `missing_ok` a file that is not there stays FileNotFoundError.

    Raises:
        DiskError: no space, no permission, read-only, or a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            raise
        advice = {
            errno.ENOSPC: "free some space or choose another --out; the finished work is kept",
            errno.EDQUOT: "free some space or choose another --out; the finished work is kept",
            errno.EACCES: "choose a folder you may write",
            errno.EPERM: "choose a folder you may write",
            errno.EROFS: "choose a folder you may write",
        }.get(error.errno or 0, "choose another place")
        kind = DiskError if error.errno in REFUSALS else StorageError
        raise kind(f"cannot use {path}: {error.strerror or error}; {advice}") from error


def make_folder(path: Path) -> Path:
    """The folder, made with its parents if it was not there."""
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing(path: Path, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` whole or not at all, even when the process is killed; parts that a kill left are removed.

    `sync` waits for the disk itself, which only a power cut asks for. Without `replace` a file that stands there stays.

    Raises:
        StorageError: the disk refuses; without `replace` also: a file with other bytes stands there.
    """
    make_folder(path.parent)
    part_files.sweep_for(path)
    with disk(path):
        check_replaceable(path)
        part = part_files.create(path)
        try:
            with os.fdopen(part.handle, "wb") as file:
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if replace or not _put_new(part.path, path):
                os.replace(part.path, path)
        except BaseException:
            part.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(part.lock)


def _put_new(part: Path, path: Path) -> bool:
    """Give a part its name unless a file has it; False where neither is so and this file system has no second names.

    Raises:
        StorageError: A file with other bytes has the name.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        if not filecmp.cmp(part, path, shallow=False):
            raise StorageError(f"{path} exists and holds something else; give --replace, or choose another place") from None
    except OSError:
        if path.exists():
            raise StorageError(f"{path} exists; give --replace, or choose another place") from None
        return False
    part.unlink()
    return True


def check_target(path: Path, *inputs: Path) -> None:
    """Raise StorageError where something other than a file stands at `path`, or where it is one of the inputs."""
    with disk(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"{path} is not a file; choose another place")
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise StorageError(f"{path} is what is read; choose another place")


def check_overwritten(path: Path, mark: str, what: str) -> None:
    """Raise StorageError where a file stands at `path` that does not hold `mark`, text of every `what` that this program writes."""
    check_target(path)
    with suppress(FileNotFoundError), disk(path, missing_ok=True), open_regular(path) as file:
        if mark.encode() not in file.read(MIB):
            raise StorageError(f"{path} is no {what} and would be lost; choose another place, or remove it")


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic write of bytes."""
    with writing(path) as file:
        file.write(data)


def copy(source: Path, target: Path) -> None:
    """Writes the bytes of a file at another place, whole or not at all."""
    with disk(source), open_regular(source) as found, writing(target) as file:
        shutil.copyfileobj(found, file)


def write_text(path: Path, text: str) -> None:
    """Atomic write of UTF-8 text; StorageError where it holds half a character, as the name of a file that is not UTF-8 does."""
    write_bytes(path, utf8(path, text))


def utf8(path: Path, text: str) -> bytes:
    """Return text as bytes for the file at `path`; StorageError where it holds half a character (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 20) : error.end])
        raise StorageError(f"{ascii(str(path))[1:-1]} would hold {shown}, which is no Unicode text; rename what is called so") from error


def read_if_present(path: Path, limit: int = JSON_BYTES) -> bytes | None:
    """Return a file's bytes, None where there is no file; one that another process removes meanwhile is no error.

    Raises:
        StorageError: The disk refuses, or it is no regular file or has more than `limit` bytes.
    """
    with disk(path):
        try:
            return read_regular(path, limit)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return when a file was last written (ns) and its size (bytes), None where there is no file."""
    with disk(path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def append_line(path: Path, line: str) -> None:
    """One line added in a single write, so that processes can share the file; whole or not at all."""
    append_text(path, line + "\n")


def append_text(path: Path, text: str) -> None:
    """Add text to a file in a single write, whole or not at all; the file is made where there is none.

    Raises:
        StorageError: The disk refuses, something other than a regular file is there, or the text holds half a character.
    """
    data = utf8(path, text)
    with disk(path):
        handle = append_handle(path)
        try:
            part_files.lock(handle)  # against `mend_lines`, and a taken back line between two others
            written = os.write(handle, data)
            if written < len(data):  # the last bytes of a full disk; the next line must not be glued to this piece
                os.ftruncate(handle, os.fstat(handle).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def mend_lines(path: Path) -> None:
    """Drops a last line that a power cut left without its newline, so that the next line does not grow onto it."""
    with suppress(FileNotFoundError), disk(path, missing_ok=True), change_regular(path) as file:
        part_files.lock(file.fileno())  # what another process is writing is no cut line
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file; a last line cut by a kill is left out.

    Raises:
        StorageError: a line that is not JSON anywhere else, named with its number.
    """
    data = read_if_present(path, LINES_BYTES)
    if data is None:
        return []
    lines = _lines(data, path)
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise StorageError(f"{path} line {number} is not JSON; delete the line and run again") from error
        if not isinstance(value, dict):
            raise StorageError(f"{path} line {number} is not a JSON object; delete the line and run again")
        found.append(value)
    return found


def lines_by(path: Path, field: str, kind: type[int] | type[str]) -> dict[Any, dict[str, Any]]:
    """Return the objects of a .jsonl file by the field that names each; the last of a name counts.

    Raises:
        StorageError: As `read_lines`; also an object whose field is missing or of another type.
    """
    objects: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(read_lines(path), 1):
        name = line.get(field)
        if not isinstance(name, kind) or isinstance(name, bool):
            wanted = "a whole number" if kind is int else "a text"
            raise StorageError(f"{path} object {number} has no {field} that is {wanted}; delete the line and run again")
        objects[name] = line
    return objects


def _lines(data: bytes, path: Path) -> list[bytes]:
    """Return the UTF-8 lines of a file's bytes; only a file with a byte order mark is decoded first."""
    marked = encoding_of(data) != "utf-8"
    return (decode_text(data, path).encode() if marked else data).split(b"\n")


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, missing_ok: bool = False) -> str:
    """Return the hex sha256 of a file, read in pieces; errors as `disk`."""
    with disk(path, missing_ok), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """Hex sha1 under which git keeps a file's bytes: of `blob`, the length and the bytes; read in pieces."""
    with disk(path), open_regular(path) as file:
        found = hashlib.sha1(f"blob {os.fstat(file.fileno()).st_size}\0".encode(), usedforsecurity=False)
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def check_hash(path: Path, wanted: str) -> None:
    """Raises WeightsError unless the file is there and has this sha256."""
    if not path.is_file():
        raise WeightsError(f"{path} is not there; register it again or bring the file back")
    found = weights_sha256(path)
    if found != wanted:
        raise WeightsError(f"{path} has sha256 {found[:12]}..., recorded {wanted[:12]}...; register it again if the change is yours")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz (of these names `only`, where given: the others are not read), never unpickling.

    Raises:
        StorageError: not an npz, cut short, one name twice, or holding Python objects; names the array.
    """
    import numpy as np

    from harope_bench.core.array_file import check_total, claimed_bytes

    arrays: dict[str, np.ndarray] = {}
    name = "archive"
    try:
        with disk(path), open_regular(path) as file:
            start = file.read(len(NPY))
            file.seek(0)
            archive = None if start == NPY else np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise StorageError(f"{path} holds a single array (.npy), not an archive of named arrays; save it with np.savez")
            if twice := repeated_member(archive.zip.namelist() if archive.zip is not None else ()):
                raise StorageError(f"{path} holds {twice} twice, readers differ in which they take; save it once with np.savez")
            names = archive.files if only is None else [n for n in archive.files if n in only]
            zipped: Any = archive.zip
            total, size = 0, os.fstat(file.fileno()).st_size
            for name in names:
                total += claimed_bytes(zipped, _member_of(archive, name), size)
            name = "archive"
            check_total(total, size)
            for name in names:
                arrays[name] = archive[name]
    except BenchError:
        raise
    except Exception as error:  # zipfile, zlib and the header parser fail in a dozen ways on damaged bytes
        # numpy's own words advise to unpickle, which is the one thing not to do
        why = "it is no array, or one of Python objects" if "allow_pickle" in str(error) else first_line(error)
        raise StorageError(f"{path}: {name} cannot be read ({why}); make the file again with np.savez") from error
    return arrays


def _member_of(archive: Any, name: str) -> str:
    """Return the name in the zip of an array; numpy leaves .npy out."""
    return name if name in archive.zip.namelist() else f"{name}.npy"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Atomic .npz whose bytes depend on the arrays alone (member times are fixed)."""
    with writing(path) as file:
        _put_arrays(file, arrays, compress)


def arrays_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes that `write_arrays` writes, for small arrays whose hash is recorded before their file."""
    buffer = io.BytesIO()
    _put_arrays(buffer, arrays, False)
    return buffer.getvalue()


def _put_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray], compress: bool) -> None:
    import numpy as np

    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = kind
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), allow_pickle=False)


def repeated_member(names: Iterable[str]) -> str | None:
    """Return the first array name that stands twice in an .npz; readers differ in which of the two they take.

    `arr_0` and `arr_0.npy` are one name: numpy leaves the suffix out.
    """
    known: set[str] = set()
    for name in (member.removesuffix(".npy") for member in names):
        if name in known:
            return name
        known.add(name)
    return None


def load_weights(path: Path, wanted: str | None = None) -> dict[str, torch.Tensor]:
    """Return the state dict of `read_weights`."""
    return read_weights(path, wanted).state


def read_weights(path: Path, wanted: str | None = None) -> Unwrapped:
    """Read a state dict from .safetensors, from shards by their index, or from a torch file with weights_only=True.

    Args:
        path: The file, or the .safetensors.index.json of shards beside it. Wrappers of training tools are stripped
            (wrappers.py); of a running average and a plain network the average is taken.
        wanted: The recorded sha256 of the file, checked before it is opened.

    Raises:
        WeightsError: not there, another hash, damaged, or a pickle that holds more than tensors and plain training arguments.
    """
    if wanted is not None:
        check_hash(path, wanted)
    if not path.exists():
        raise WeightsError(f"{path} is not there; give the weights file's path")
    with disk(path):
        check_regular(path)
    if is_index(path):
        return without_prefixes({key: tensor for shard in shards(path) for key, tensor in _safetensors(shard).items()})
    if path.suffix == ".safetensors":
        return without_prefixes(_safetensors(path))
    unwrapped = unwrap(_torch_file(path))
    if unwrapped is None or not unwrapped.state:
        raise WeightsError(f"{path} is not a bare state dict (names to tensors); save only the model's state dict")
    return unwrapped


def is_index(path: Path) -> bool:
    """Return whether this is the index of weights in several .safetensors files."""
    return path.name.endswith(INDEX_SUFFIX)


def shards(index: Path) -> list[Path]:
    """Return the files that an index of .safetensors shards names, in order.

    Raises:
        WeightsError: The index is damaged, a name is not that of a file beside it, a shard is missing, or a key is in
            another shard than the index says.
    """
    with disk(index):
        data = read_regular(index, JSON_BYTES)
    try:
        places: dict[str, str] = dict(parse_json(data)["weight_map"])
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{index} is not an index of weights ({first_line(error)}); copy it again") from error
    names = sorted(set(map(str, places.values())))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names {name!r}, wanted .safetensors files beside it; copy it again")
        if not is_file(index.parent / name):
            raise WeightsError(f"{index} names {name!r}, which is missing; copy all {len(names)} shards beside it")
    for name in names:
        keys = weights_header(index.parent / name).keys()
        if odd := sorted(keys ^ {key for key, place in places.items() if place == name}):
            raise WeightsError(f"{index} and {name} disagree about {odd[0]!r}; copy both again")
    return [index.parent / name for name in names]


def weights_sha256(path: Path) -> str:
    """Return the hex sha256 of a file of weights; of an index that of itself and of every shard."""
    if not is_index(path):
        return sha256_file(path)
    return sha256_bytes("".join(map(sha256_file, (path, *shards(path)))).encode())


def training_arguments(path: Path) -> dict[str, object]:
    """The arguments that a training file keeps beside its weights (`args` of DiT's train.py); empty for any other file.

    Raises:
        WeightsError: as `load_weights`.
    """
    if path.suffix == ".safetensors" or is_index(path):
        return {}
    found = _torch_file(path)
    args = found.get("args") if isinstance(found, dict) else None
    if isinstance(args, argparse.Namespace):
        return dict(vars(args))
    return dict(args) if isinstance(args, dict) else {}


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with disk(path):
        check_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}); copy it again") from error


def _torch_file(path: Path) -> Any:
    """What a torch file holds. Beside tensors only an argparse.Namespace is let in, and only if nothing else asks to be."""
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        archive = zipfile.is_zipfile(path)  # torch's older format can neither be mapped nor looked into
        foreign = get_unsafe_globals_in_checkpoint(str(path)) if archive else []
        allowed: list[Any] = [argparse.Namespace] if foreign == ["argparse.Namespace"] else []
        with safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects beside tensors, or no tensors at all, and was not opened; save its state dict as .safetensors"
        ) from error
    except Exception as error:  # the unpickler fails in a dozen ways on damaged bytes
        raise WeightsError(f"{path} is not a readable torch file ({first_line(error)}); copy it again") from error


def weights_bytes(state: Mapping[str, torch.Tensor], note: Mapping[str, str]) -> bytes:
    """A .safetensors file with a note in its header; equal weights and notes give equal bytes."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    (size,) = struct.unpack("<Q", data[:8])
    # safetensors writes a note in the order of a hash table, another one every time; so the note is put in here, sorted
    header = json.dumps({NOTE: dict(sorted(note.items())), **json.loads(data[8 : 8 + size])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def weights_header(path: Path) -> dict[str, Any]:
    """What a .safetensors header says, by key and without its note; empty for any other file or a damaged one."""
    return {key: facts for key, facts in _header(path).items() if key != NOTE}


def weights_note(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors header; empty for any other file or a damaged one."""
    note = _header(path).get(NOTE)
    return dict(note) if isinstance(note, dict) else {}


def _header(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with open_regular(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(min(size, 100_000_000)))
    except (OSError, ValueError, struct.error, IrregularFileError):
        return {}
    return header if isinstance(header, dict) else {}


def compare(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise WeightsError unless both have the same keys, shapes and kinds of number.

    It lists every key that is missing, unexpected, mis-shaped, or holds integers where the network has floats (quantised weights,
    whose scales would be lost).
    """
    complaints = []
    if missing := sorted(wanted.keys() - state.keys()):
        complaints.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(key[:KEY_SHOWN] for key in state.keys() - wanted.keys()):
        complaints.append(f"unexpected {', '.join(unexpected)}")
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in sorted(wanted.items()) if k in state and state[k].shape != v.shape
    ]
    if shapes:
        complaints.append(f"mis-shaped {', '.join(shapes)}")
    kinds = [
        f"{k} {_kind(state[k])} for {_kind(v)}"
        for k, v in sorted(wanted.items())
        if k in state and (state[k].is_floating_point(), state[k].is_complex()) != (v.is_floating_point(), v.is_complex())
    ]
    if kinds:
        complaints.append(f"of another kind {', '.join(kinds)}")
    if complaints:
        raise WeightsError(f"{what} does not fit: {'; '.join(complaints)}; check --backbone, --encoding and --option")


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def fit(module: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Loads a state dict strictly, casting to the module's dtypes.

    Raises:
        WeightsError: lists every missing, unexpected and mis-shaped key.
    """
    compare(module.state_dict(), state, what)
    module.load_state_dict(dict(state), strict=True)
