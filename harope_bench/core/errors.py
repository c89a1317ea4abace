"""The kinds of error a user can meet. Each message is one line: wanted, found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harope_bench.core.escaping import printable_line

SHOWN_NAME_LENGTH = 100  # characters of an unknown name in a message


class BenchError(Exception):
    """Base of every error this package raises on purpose; the command line prints it and exits 1.

    Args:
        message: What was wanted and what was found, or the whole line.
        advice: What to do about it; it ends the line behind a semicolon.
    """

    def __init__(self, message: object = "", advice: str = ""):
        super().__init__(f"{message}; {advice}" if advice else message)
        self._message = str(message)
        self._advice = advice

    @property
    def detail(self) -> str:
        """Return what is wrong; the whole line where the advice is not apart."""
        return printable_line(self._message)

    @property
    def advice(self) -> str:
        """Return what to do; empty where it is not apart."""
        return printable_line(self._advice)

    def __str__(self) -> str:
        """Return the message on one line: a name or field of a file that it quotes cannot steer a
        terminal or forge a second line.
        """
        return printable_line(super().__str__())


class UnknownNameError(BenchError):
    """A name that no room of the registry knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        )
        shown = f"{name[:SHOWN_NAME_LENGTH]}..." if len(name) > SHOWN_NAME_LENGTH else name
        super().__init__(f"no {kind} named {shown!r}; {hint}")


class NameClashError(BenchError):
    """Two places claim one name."""


class PluginError(BenchError):
    """A plug-in that is not derived from the base class of its kind, or does not define what it
    must.
    """


class MissingMemberError(PluginError):
    """A plug-in that does not define what every plug-in of its kind must."""

    def __init__(self, plugin: object, member: str):
        kind = type(plugin)
        super().__init__(
            f"{kind.__module__}.{kind.__qualname__} does not define `{member}`, which every plug-in"
            " of its kind must"
        )


class OptionError(BenchError):
    """An option nobody knows, or a value it does not take."""


class ShapeError(BenchError):
    """Arrays or grids that do not fit together."""


class MissingVaeError(OptionError):
    """A network of latents without its autoencoder."""


class WeightsError(BenchError):
    """Weights that are missing, altered, unsafe or of another shape."""


class MissingAssetError(WeightsError):
    """Something that is not shipped and was not brought yet; the message names the command that
    brings it.
    """


class MissingRequirementsError(MissingAssetError):
    """Several things that a run needs are missing; the message names each with the command that
    brings it.
    """


class PlanMismatchError(BenchError):
    """A folder holds work of another plan."""


class SampleError(BenchError):
    """Images that are missing, corrupt or not what they were recorded to be."""


class InvalidMomentsError(SampleError):
    """Arrays that are no mean and covariance: of another kind or shape, not finite, asymmetric, or
    with negative eigenvalues.
    """


class JudgeError(BenchError):
    """A judge that fails whatever it is shown, or an environment of its own that does not
    answer.
    """


class PendingAnswersError(JudgeError):
    """Questions that a judge of another environment has still to answer; other work may go on."""


class TooFewImagesError(BenchError):
    """Fewer images than the metric or the request needs."""


class TooManyImagesError(BenchError):
    """More images than the protocol scores, and nobody said which."""


class MissingExtraError(BenchError):
    """A part that an optional install brings."""


class StorageError(BenchError):
    """The disk refused: full, unwritable or not there; or a file on it is not what it should be."""


class DiskError(StorageError):
    """The disk itself refused, which says nothing of what lies on it."""


class FormatError(BenchError):
    """A file that the package writes and reads back, of a format version that is not this one's."""


class FetchError(BenchError):
    """A file that did not come, came cut short, or is not the one that was wanted."""


class AlteredFileError(StorageError):
    """A file that is not the one whose sha256 was recorded beside it."""


class IrregularFileError(StorageError):
    """A pipe, a device, a socket or a link where a regular file is read or written."""


class FileTooLargeError(StorageError):
    """A file larger than the stated bound of what is read of its kind."""
