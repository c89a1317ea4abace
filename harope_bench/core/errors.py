"""The errors a user can meet. Each message is one line: what was wanted, what was found, what to
do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harope_bench.core.escaping import printable_line

COMMAND_STARTS = ("harope-bench ", "pip ")  # how advice starts that is a command line
SHOWN_NAME_LENGTH = 100  # characters of an unknown name in a message


class BenchError(Exception):
    """Base of every error that this package raises on purpose. The command line prints it and
    exits with status 1.

    Args:
        message: What was wanted and what was found, or the whole line.
        advice: What to do about it. It follows the message after a semicolon.
    """

    def __init__(self, message: object = "", advice: str = ""):
        super().__init__(f"{message}; {_as_instruction(advice)}" if advice else message)
        self._message = str(message)
        self._advice = advice

    @property
    def detail(self) -> str:
        """Return what is wrong; the whole line if the error was raised without separate advice."""
        return printable_line(self._message)

    @property
    def advice(self) -> str:
        """Return what to do; empty if the error was raised without separate advice."""
        return printable_line(self._advice)

    def __str__(self) -> str:
        """Return the message as one printable line.

        A name or field that the message quotes from a file can then neither control a terminal
        nor look like a second line.
        """
        return printable_line(super().__str__())


def _as_instruction(advice: str) -> str:
    """Return advice as it ends a message; a command line is introduced by "run:"."""
    return f"run: {advice}" if advice.startswith(COMMAND_STARTS) else advice


class UnknownNameError(BenchError):
    """A name that is not registered. The message suggests similar names."""

    def __init__(self, kind: str, name: str, known_names: Iterable[str]):
        sorted_names = sorted(known_names)
        similar_names = difflib.get_close_matches(name, sorted_names, n=3, cutoff=0.5)
        if similar_names:
            hint = f"did you mean {', '.join(similar_names)}?"
        else:
            hint = f"known: {', '.join(sorted_names) or 'none'}"

        is_long = len(name) > SHOWN_NAME_LENGTH
        short_name = f"{name[:SHOWN_NAME_LENGTH]}..." if is_long else name
        super().__init__(f"no {kind} named {short_name!r}; {hint}")


class NameClashError(BenchError):
    """One name that is registered twice."""


class PluginError(BenchError):
    """A plug-in that is not derived from the base class of its kind, or lacks a required member."""


class MissingMemberError(PluginError):
    """A plug-in that does not define a member that its kind requires."""

    def __init__(self, plugin: object, member: str):
        kind = type(plugin)
        super().__init__(
            f"{kind.__module__}.{kind.__qualname__} does not define `{member}`, which every plug-in"
            " of its kind must"
        )


class OptionError(BenchError):
    """An unknown option, or a value that the option does not accept."""


class ShapeError(BenchError):
    """Arrays or grids whose shapes do not match."""


class MissingVaeError(OptionError):
    """A latent diffusion network without its autoencoder."""


class WeightsError(BenchError):
    """Weights that are missing, altered, unsafe or of another shape."""


class MissingAssetError(WeightsError):
    """An asset or model that is not installed. The message names the command that installs it."""


class MissingRequirementsError(MissingAssetError):
    """Several assets or models that a run needs and that are not installed.

    The message names each of them with the command that installs it.
    """


class PlanMismatchError(BenchError):
    """A folder that holds the run of another plan."""


class RunBusyError(BenchError):
    """A run folder, or a part of it, that another process is writing."""


class LostWorkError(BenchError):
    """Parts of the work that ended every process that tried them. They are missing."""


class SampleError(BenchError):
    """Images that are missing, corrupt or different from their record."""


class InvalidMomentsError(SampleError):
    """Arrays that are not a mean and a covariance.

    Their dtype or shape is wrong, or they are not finite, not symmetric or have negative
    eigenvalues.
    """


class GeneratorOutputError(BenchError):
    """What a Python generator returned is not the uint8 images that it was asked for."""


class JudgeError(BenchError):
    """A judge that fails for every image, or whose external Python environment does not answer."""


class PendingAnswersError(JudgeError):
    """Queries that an annotator in another Python environment has not answered yet.

    Work that does not need the answers can continue.
    """


class TooFewImagesError(BenchError):
    """Fewer images than the metric or the request needs."""


class TooManyImagesError(BenchError):
    """More images than the protocol scores, and no option says which of them to take."""


class MissingExtraError(BenchError):
    """A package of an optional install ("extra") that is not installed."""


class StorageError(BenchError):
    """A file that cannot be read or written, or whose content is not what it should be."""


class DiskError(StorageError):
    """A failure of the disk or of permissions, independent of the content of the file."""


class FormatError(BenchError):
    """A file of this package that has another format version."""


class FetchError(BenchError):
    """A download that failed, was cut short or gave another file than the expected one."""


class EndpointError(BenchError):
    """An image endpoint that cannot be reached, or that answers something else than its image."""


class AlteredFileError(StorageError):
    """A file whose sha256 differs from the one recorded beside it."""


class IrregularFileError(StorageError):
    """A pipe, device, socket or link where a regular file is read or written."""


class FileTooLargeError(StorageError):
    """A file larger than the maximum that is read of its kind."""
