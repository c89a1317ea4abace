"""One colour and one mark for each encoding, the same in every chart of a report.

The colours differ for colour-blind readers too, and the mark tells them apart without colour.
Templates define them as variables for a light and a dark page (templates/charts_style.html).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harope_bench.reports.svg_elements import Mark, make_curve, make_mark

LIGHT_COLOURS = (
    "#0b6fb8",
    "#c9500c",
    "#00805a",
    "#a8479a",
    "#5f5600",
    "#5d646e",
    "#3594bd",
    "#701230",
)
DARK_COLOURS = (
    "#62b2f2",
    "#f2935a",
    "#45c99a",
    "#e08fce",
    "#d6b43c",
    "#a9b0ba",
    "#b4e6fa",
    "#ff7488",
)
MARKS: tuple[Mark, ...] = (
    "circle",
    "square",
    "right-triangle",
    "plus",
    "left-triangle",
    "diamond",
    "star",
    "hourglass",
)
# index of the colour and mark of the encodings that most tables of the paper have
USUAL_INDICES = {
    "harope": 0,
    "rope-axial": 1,
    "string": 2,
    "videorope": 3,
    "rope-vanilla": 4,
    "ape": 5,
    "rope-mixed": 6,
}
FREE_ORDER = (7, 6, 3, 4, 2, 5, 1, 0)  # indices in the order in which other encodings take them
DASHES = (None, "6 3", "2 2", "8 3 2 3")  # of several lines of one encoding
SWATCH_WIDTH = 22.0
MAX_NAME_PARTS = 20  # parts of a label among which a name is looked for


@dataclass(frozen=True)
class EncodingStyle:
    """How an encoding looks.

    Attributes:
        index: Number of its colour, from 0.
        variant: Number among the lines of one encoding in a chart, which differ in their dashes.
    """

    index: int
    mark: Mark
    variant: int = 0

    @property
    def colour(self) -> str:
        """Return the colour as a variable of the page, with the light colour as its fallback."""
        return f"var(--encoding-{self.index + 1}, {LIGHT_COLOURS[self.index]})"

    @property
    def dashes(self) -> str | None:
        """Return the dashes of a line, None for a solid one."""
        return DASHES[self.variant % len(DASHES)]

    @property
    def is_hollow(self) -> bool:
        """Return whether marks are outlines: all but those of the first line of an encoding."""
        return self.variant > 0

    def swatch(self, x: float, y: float) -> str:
        """Return a short line with the mark, from x on, around the height y."""
        ends = [(x, y), (x + SWATCH_WIDTH - 4, y)]
        return make_curve(ends, self.colour, dashes=self.dashes) + self.mark_at(
            x + SWATCH_WIDTH / 2 - 2, y
        )

    def mark_at(self, x: float, y: float, tooltip: str = "", size: float = 8.0) -> str:
        """Return the mark at a point."""
        return make_mark(self.mark, x, y, self.colour, size, self.is_hollow, tooltip)


@dataclass(frozen=True)
class EncodingStyles:
    """The styles of a report.

    Attributes:
        encodings: Encoding by name of a checkpoint, label of a run or label of a table's row.
        indices: Number of the colour by encoding.
    """

    encodings: Mapping[str, str]
    indices: Mapping[str, int]

    def chart_styles(self, labels: Sequence[str]) -> list[EncodingStyle]:
        """Return the style of each label of a chart.

        A label is a known name or begins with one, followed by a comma. Any other label counts as
        an encoding of its own. Labels of one encoding differ in their variant.
        """
        unknown_labels = [label for label in labels if self.encoding_of(label) not in self.indices]
        indices = {**self.indices, **assign_indices(unknown_labels, self.indices)}
        styles = []
        n_lines: dict[int, int] = {}
        for label in labels:
            index = indices[self.encoding_of(label)]
            styles.append(EncodingStyle(index, MARKS[index], n_lines.get(index, 0)))
            n_lines[index] = n_lines.get(index, 0) + 1
        return styles

    def style(self, label: str) -> EncodingStyle:
        """Return the style of one label."""
        return self.chart_styles([label])[0]

    def encoding_of(self, label: str) -> str:
        """Return the encoding of a label; the label itself if it is not known."""
        name = find_name(label, {**self.indices, **self.encodings})
        return label if name is None else self.encodings.get(name, name)


def find_name(label: str, names: Container[str]) -> str | None:
    """Return the longest known name that a label is or begins with; a comma ends a name."""
    parts = label.split(", ", MAX_NAME_PARTS)
    prefixes = (", ".join(parts[:n_parts]) for n_parts in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in names), None)


def assign_styles(encodings: Mapping[str, str]) -> EncodingStyles:
    """Return the styles of the encodings of some checkpoints or runs.

    Args:
        encodings: Encoding by name.
    """
    return EncodingStyles(encodings, assign_indices(encodings.values(), {}))


def assign_indices(encodings: Iterable[str], taken_indices: Mapping[str, int]) -> dict[str, int]:
    """Return the number of the colour of each encoding.

    The usual ones have a fixed number. The others take free numbers in the order of their names,
    and share numbers if there are more encodings than colours.
    """
    names = sorted(set(encodings))
    indices = {name: USUAL_INDICES[name] for name in names if name in USUAL_INDICES}
    used_indices = {*taken_indices.values(), *indices.values()}
    free_indices = [index for index in FREE_ORDER if index not in used_indices] or list(FREE_ORDER)
    other_names = [name for name in names if name not in USUAL_INDICES]
    return indices | {
        name: free_indices[i % len(free_indices)] for i, name in enumerate(other_names)
    }
