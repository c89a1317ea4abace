"""Quirks of T2I-CompBench's official scripts by id, with what the corrected rules do instead.

A quirk is what a reader would not expect. Without a correction both sets of rules keep it, because
another rule would be another metric.

Source: Karine-Huang/T2I-CompBench at 1b709499, in the file that the comments name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Rules = str  # "official" or "corrected"


class Quirk(NamedTuple):
    """An unexpected behaviour of the official scripts.

    Attributes:
        location: a rule, a requirement on a judge, or the call of a script.
        description: what the scripts do.
        correction: what the corrected rules do instead; None if they keep it.
    """

    location: Literal["rule", "judge", "call"]
    description: str
    correction: str | None = None


QUIRKS: Mapping[str, Quirk] = {
    # BLIPvqa_eval/BLIP_vqa.py
    "four-decimals": Quirk(
        "rule",
        "each answer and the product are rounded to 4 decimals, the product is float32",
        "no rounding, float64",
    ),
    "no-chunk": Quirk("rule", "a prompt without noun chunks scores 1", "it cannot be scored"),
    "eight-chunks": Quirk("rule", "noun chunks after the eighth become no questions"),
    # UniDet_eval/2D_spatial_eval.py
    "whole-label": Quirk(
        "rule",
        "in 2D a noun must equal a label, and labels may be lists (`a, b`)",
        "one equal name of the list is enough",
    ),
    "same-instance": Quirk(
        "rule",
        "two nouns with one label (boy and girl are both person) are the same detection",
        "they are two detections, in the order that fits the relation, since the detector does not"
        " distinguish them",
    ),
    "no-rule": Quirk(
        "rule", "`on top of` is read in a prompt and has no rule: 0", "it means `on the top of`"
    ),
    "relation-words": Quirk(
        "rule",
        "`on bottom of`, `on the left` and `on the right` mark the objects of a complex prompt and"
        " have no rule; words match inside words",
        "each has a rule; the first match of whole words counts",
    ),
    "zero-area": Quirk(
        "rule", "two boxes without area stop the script (ZeroDivisionError)", "they do not overlap"
    ),
    "below-half": Quirk("rule", "a 2D score below 0.5 becomes 0; a 3D score stays"),
    "two-objects": Quirk(
        "rule",
        "a complex prompt with other than two objects has 0 in its spatial part",
        "that part is excluded",
    ),
    # UniDet_eval/3D_spatial_eval.py
    "transposed-depth": Quirk(
        "rule",
        "the depth map is cropped with x and y exchanged; a crop without pixels scores 0",
        "x is the column",
    ),
    "overlap-edges": Quirk("rule", "boxes that overlap by exactly 0.5 score 0", "they score 1"),
    "substring": Quirk(
        "rule",
        "in 3D and numeracy a name matches inside a label's words (car in carrot)",
        "whole words",
    ),
    "moving-index": Quirk(
        "rule",
        "in 3D later detections of an object replace its first one until the other object is"
        " detected",
        "the detection with the highest score of each",
    ),
    # UniDet_eval/numeracy_eval.py
    "no-object": Quirk(
        "rule",
        "a prompt without a known object stops the script (ZeroDivisionError)",
        "it cannot be scored",
    ),
    "last-word": Quirk(
        "rule", "a number at the end of a prompt stops the script (IndexError)", "it has no effect"
    ),
    "one-of-a-plural": Quirk(
        "rule",
        "`a` or `an` before a plural gives no number: later numbers shift, and the script may stop"
        " (IndexError)",
        "it counts as 1",
    ),
    "many-of-a-singular": Quirk(
        "rule",
        "a number before a singular noun stops the script (ValueError), before a noun of two words"
        " it counts as 1",
        "it counts as the number",
    ),
    "renamed-for-good": Quirk(
        "rule",
        "labels renamed for one object stay renamed for the next",
        "each object is matched with the detector's labels",
    ),
    "shared-name": Quirk(
        "rule",
        "two objects with one name (a man, two women) are each compared with the count of both",
        "their numbers are added",
    ),
    # 3_in_1_eval/3_in_1.py
    "join-by-place": Quirk(
        "rule",
        "three result files are joined by position: a missing image shifts all later ones",
        "they are joined by index",
    ),
    "join-by-text": Quirk(
        "rule",
        "a prompt's kind is that of its text up to the first full stop, `both` if in no list",
        "the kind is that of its full text",
    ),
    # requirements on judges and calls
    "swapped-colours": Quirk("judge", "UniDet RS200 gets images with red and blue exchanged"),
    "small-frame": Quirk(
        "judge", "detectors read 479 pixels, BLIP 480, CLIP 224: finer detail has no effect"
    ),
    "half-precision": Quirk("judge", "detectors and depth run in fp16 autocast, CLIP in fp16"),
    "false-is-true": Quirk(
        "call",
        "`--complex False` is read as True: every 2D prompt with `on the top of` or `on the bottom"
        " of` is 0",
    ),
    "tagger": Quirk("call", "scores depend on the version of spaCy's model"),
}

CORRECTIONS = tuple(name for name, quirk in QUIRKS.items() if quirk.correction)


class RuleOutcome(NamedTuple):
    """The outcome of a rule for one image.

    Attributes:
        value: the score, or None if there is none, such as where the official script crashes.
        reason: explanation of the value, as text.
        presence: the part of the value that detected objects earn, wherever they are.
    """

    value: float | None
    reason: str
    presence: float = 0.0
