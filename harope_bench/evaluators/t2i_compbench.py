"""T2I-CompBench(++): eight categories, each scored by what BLIP-VQA, UniDet, DPT and CLIP saw.

A category's value is the mean over its images. The rules stand in `rules/compbench_*.py`, their oddities by id in
`evaluators/rules/compbench_quirks.py`. Where an official script would stop, the image has no score: it is counted as unread, and
the metric is
None unless the run is scored leniently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harope_bench.core.annotations import Answers, Boxes, Cosines, Depths, Names, Questions, Sighting, Texts
from harope_bench.core.schema import Metric
from harope_bench.evaluators.base import Facts, Look, Mark, Part, Seen, Sight
from harope_bench.evaluators.prompt_scores import Prompts
from harope_bench.evaluators.rules.compbench_counts import counted, wanted
from harope_bench.evaluators.rules.compbench_quirks import CORRECTIONS, QUIRKS, Rules, Verdict
from harope_bench.evaluators.rules.compbench_space import UNLABELLED, depth_boxes, persons, plane, solid
from harope_bench.evaluators.rules.compbench_sums import CHUNKS, PARTS, product, three_in_one

METRICS = {  # of each category
    "color": "color",
    "shape": "shape",
    "texture": "texture",
    "spatial": "spatial_2d",
    "3d_spatial": "spatial_3d",
    "numeracy": "numeracy",
    "non_spatial": "non_spatial",
    "complex": "complex",
}
ATTRIBUTES = ("color", "shape", "texture")
UNANSWERED = "no answer of the {} judge"
FLOOR = 0.387  # of 3-in-1, in units of the cosine: 212 of 300 prompts count it half, 30 a third
PRINTED = "0.077 to 0.108"  # what arXiv 2510.10489 prints for Complex in Table 5


def ends(facts: Facts) -> tuple[str, ...]:
    """The two objects of a spatial prompt: its first and its last noun."""
    nouns = facts["nouns"]
    return (nouns[0], nouns[-1]) if nouns else ()


def placed(facts: Facts) -> tuple[str, ...]:
    """The objects whose place in the image counts, none where no place does."""
    if facts["category"] == "spatial":
        return ends(facts)
    if facts["category"] == "complex" and any("spatial" in PARTS.get(which or "", ()) for which in facts["kinds"].values()):
        return tuple(facts["objects"])
    return ()


def ask_vqa(facts: Facts, seen: Seen) -> Questions | None:
    """Each noun chunk as a question."""
    chunks = facts.get("chunks", ())[:CHUNKS]
    return Questions(questions=tuple(f"{chunk}?" for chunk in chunks)) if chunks else None


def ask_2d(facts: Facts, seen: Seen) -> Names | None:
    """The two objects of a 2D relation."""
    nouns = placed(facts)
    return Names(names=tuple(dict.fromkeys(persons(nouns)))) if len(nouns) == 2 else None


def ask_objects(facts: Facts, seen: Seen) -> Names | None:
    """The objects of a 3D or a numeracy prompt."""
    if facts["category"] == "3d_spatial":
        names = persons(ends(facts))
    elif facts["category"] == "numeracy":
        names = wanted(facts["text"], facts["known"], "corrected").names
    else:
        return None
    return Names(names=tuple(dict.fromkeys(names))) if names else None


def ask_depth(facts: Facts, seen: Seen) -> Boxes | None:
    """The places of the two objects of a 3D relation, where both were found."""
    sighting = seen.get("detector")
    if facts["category"] != "3d_spatial" or not isinstance(sighting, Sighting) or not facts["nouns"]:
        return None
    boxes = depth_boxes(ends(facts), sighting)
    return Boxes(boxes=tuple(boxes)) if boxes else None


def ask_similarity(facts: Facts, seen: Seen) -> Texts | None:
    """The prompt; of a complex one with an action, its text without adjectives."""
    if facts["category"] == "non_spatial":
        return Texts(texts=(facts["text"],))
    if facts["category"] == "complex" and any("action" in PARTS.get(which or "", ()) for which in facts["kinds"].values()):
        return Texts(texts=(facts["no_adj"],))
    return None


def read_attribute(facts: Facts, seen: Seen, rules: Rules) -> Verdict:
    """The product of BLIP's answers."""
    if not facts["chunks"]:
        return product((), rules)
    answers = seen.get("vqa")
    if not isinstance(answers, Answers):
        return Verdict(None, UNANSWERED.format("vqa"))
    shares = [answer.yes for answer in answers.answers if answer.yes is not None]
    if len(shares) < len(answers.answers):
        return Verdict(None, f"an answer without a share of yes ({answers.answers[0].text[:40]!r}); the rule multiplies shares")
    return product(shares, rules)


def read_2d(facts: Facts, seen: Seen, rules: Rules) -> Verdict:
    """Presence and place of two objects."""
    nouns, sighting = placed(facts), seen.get("detector-2d")
    if len(nouns) != 2:
        return plane(facts["text"], nouns, Sighting(size=(1, 1), found=()), rules)
    if not isinstance(sighting, Sighting):
        return Verdict(None, UNANSWERED.format("detector-2d"))
    return plane(facts["text"], nouns, sighting, rules)


def read_3d(facts: Facts, seen: Seen, rules: Rules) -> Verdict:
    """Presence and depth of two objects."""
    sighting, depths = seen.get("detector"), seen.get("depth")
    if not facts["nouns"]:
        return Verdict(None, "no noun was read in the prompt (the official script stops: IndexError)")
    if not isinstance(sighting, Sighting):
        return Verdict(None, UNANSWERED.format("detector"))
    return solid(facts["text"], ends(facts), sighting, depths.depths if isinstance(depths, Depths) else (), rules)


def read_count(facts: Facts, seen: Seen, rules: Rules) -> Verdict:
    """Presence and number of objects."""
    sighting = seen.get("detector")
    if not isinstance(sighting, Sighting):
        asked = wanted(facts["text"], facts["known"], rules)
        return Verdict(None, asked.fault or UNANSWERED.format("detector"))
    return counted(facts["text"], facts["known"], sighting, rules)


def read_cosine(facts: Facts, seen: Seen, rules: Rules) -> Verdict:
    """CLIP's cosine."""
    cosines = seen.get("similarity")
    if not isinstance(cosines, Cosines) or not cosines.cosines:
        return Verdict(None, UNANSWERED.format("similarity"))
    return Verdict(cosines.cosines[0], f"cosine {cosines.cosines[0]:.4f}")


READERS: Mapping[str, Callable[[Facts, Seen, Rules], Verdict]] = {
    **dict.fromkeys(ATTRIBUTES, read_attribute),
    "spatial": read_2d,
    "3d_spatial": read_3d,
    "numeracy": read_count,
    "non_spatial": read_cosine,
}
PART_READERS = {"attribute": read_attribute, "spatial": read_2d, "action": read_cosine}


class T2ICompBench(Prompts):
    """See the module.

    verdicts: what a finished official run says of each index, in place of the rules (suites/official_layouts/compbench_results.py);
    told: what must be
    said of that run.
    """

    version = 3
    profile = "t2i-compbench"
    parity = (
        "rules restated from Karine-Huang/T2I-CompBench 1b709499: position, the search for objects and numeracy equal plain restatements "
        "of its scripts on random scenes, each quirk has a case under both sets of rules (tests/evaluators/test_compbench_rules.py); "
        "result files of "
        "its scripts are read to the last digit; nouns and noun chunks are those of en_core_web_sm 3.6.0, official is 3.5.0, not compared; "
        "no answer of the official networks was here"
    )
    metrics = (
        Metric(name="color", title="Color (BLIP-VQA)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="shape", title="Shape (BLIP-VQA)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="texture", title="Texture (BLIP-VQA)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="spatial_2d", title="2D-Spatial (UniDet)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="spatial_3d", title="3D-Spatial (UniDet, DPT)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="numeracy", title="Numeracy (UniDet)", direction="higher", unit="score0-1", decimals=4),
        Metric(name="non_spatial", title="Non-Spatial (CLIP)", direction="higher", unit="clip-cosine", decimals=4),
        Metric(name="complex", title="Complex (3-in-1)", direction="higher", unit="score0-1", decimals=4),
    )
    form = "compbench"
    looks = (
        Look("vqa", ask_vqa, lambda facts: ask_vqa(facts, {}) is not None),
        Look("detector-2d", ask_2d, lambda facts: ask_2d(facts, {}) is not None),
        Look("detector", ask_objects, lambda facts: ask_objects(facts, {}) is not None),
        Look("depth", ask_depth, lambda facts: facts["category"] == "3d_spatial"),
        Look("similarity", ask_similarity, lambda facts: ask_similarity(facts, {}) is not None),
    )

    def __init__(self, verdicts: Mapping[int, Verdict] | None = None, told: tuple[str, ...] = ()):
        self.verdicts, self.told = verdicts, told

    def task(self, facts: Facts) -> str:
        """The category."""
        return str(facts["category"])

    def counts_for(self, facts: Facts) -> tuple[str, ...]:
        """A category's images count for its metric alone."""
        return (METRICS[facts["category"]],)

    def mark(self, facts: Facts, seen: Seen, rules: Rules) -> Mark:
        """What the rules say of one image; unknown where its script would stop or a judge was not asked."""
        category = facts["category"]
        if category == "complex":
            return self._complex(facts, seen, rules)
        return _mark(category, READERS[category](facts, seen, rules))

    def _complex(self, facts: Facts, seen: Seen, rules: Rules) -> Mark:
        which = facts["kinds"][rules]
        found = {name: PART_READERS[name](facts, seen, rules) for name in PARTS.get(which or "", ())}
        told = {name: {"score": verdict.value, "reason": verdict.reason} for name, verdict in found.items()}
        unanswered = [name for name, verdict in found.items() if verdict.value is None and not _may_lack(name, facts, rules)]
        if unanswered:
            return _mark("complex", Verdict(None, f"{unanswered[0]}: {found[unanswered[0]].reason}"), told | {"kind": which})
        verdict = three_in_one(which, {name: part.value for name, part in found.items()})
        return _mark("complex", verdict, told | {"kind": which, "floor": _floor(which, found)})

    def settle(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: Rules) -> Sequence[Mark | None]:
        """The marks; of a finished official run, its own."""
        if self.verdicts is None:
            return marks
        return [_mark(s.facts["category"], self.verdicts[s.index]) if s.index in self.verdicts else None for s in sights]

    def notes(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: Rules) -> tuple[str, ...]:
        """The rules' quirks by id, and ceilings and floors of this run's own prompts."""
        if self.verdicts is not None:
            return self.told
        return (_told(rules), *_ceiling(sights, rules), *_presence(marks), *_complex_floor(marks))


def _told(rules: Rules) -> str:
    kept = [name for name, quirk in QUIRKS.items() if quirk.where == "rule" and (rules == "official" or name not in CORRECTIONS)]
    mended = f"; corrected are {', '.join(CORRECTIONS)}" if rules == "corrected" else ""
    return f"rules: {rules} keep {', '.join(kept)}{mended}"


def _mark(category: str, verdict: Verdict, evidence: Mapping[str, object] | None = None) -> Mark:
    shown = dict(evidence or {}) | ({"presence": verdict.presence} if verdict.presence else {})
    if verdict.value is None:
        return Mark(category, {}, verdict.reason, 1, shown)
    return Mark(category, {METRICS[category]: Part(verdict.value)}, verdict.reason, 0, shown)


def _may_lack(part: str, facts: Facts, rules: Rules) -> bool:
    """Parts that the corrected rules leave out rather than guess: objects or chunks were not read in the prompt."""
    return rules == "corrected" and {"spatial": len(facts["objects"]) != 2, "attribute": not facts["chunks"]}.get(part, False)


def _floor(which: str | None, found: Mapping[str, Verdict]) -> float:
    """What 3-in-1 is with neither attribute nor place right."""
    action = found["action"].value if "action" in found else None
    return (action or 0.0) / len(PARTS[which or "both"])


def _ceiling(sights: Sequence[Sight], rules: Rules) -> list[str]:
    """The most that 2D can reach with UniDet's labels; nothing is said of a detector that has found what UniDet cannot name.

    Which detector looked is not known here, so the line says whose labels it counts.
    """
    own = [sight for sight in sights if sight.facts["category"] == "spatial"]
    sightings = [sighting for sight in own if isinstance(sighting := sight.seen.get("detector-2d"), Sighting)]
    found = {detection.label for sighting in sightings for detection in sighting.found}
    if not own or rules != "official" or found & UNLABELLED:
        return []
    lost = {sight.prompt for sight in own if set(persons(ends(sight.facts))) & UNLABELLED}
    if not lost:
        return []
    prompts = {sight.prompt for sight in own}
    share = 1 - len(lost) / len(prompts)
    return [
        f"spatial_2d: UniDet's labels allow at most {share:.3f}, since none equals what {len(lost)} of {len(prompts)} prompts name; "
        "another detector may allow more or less"
    ]


def _presence(marks: Sequence[Mark | None]) -> list[str]:
    own = [mark for mark in marks if mark and "spatial_3d" in mark.parts]
    if not own:
        return []
    earned = sum(float(mark.evidence.get("presence", 0.0)) for mark in own) / len(own)
    whole = sum(mark.parts["spatial_3d"].total for mark in own) / len(own)
    return [f"spatial_3d: {earned:.3f} of {whole:.3f} is earned by being found, whatever the depth; two sure objects apart earn about 0.4"]


def _complex_floor(marks: Sequence[Mark | None]) -> list[str]:
    own = [mark for mark in marks if mark and "complex" in mark.parts]
    if not own:
        return []
    floor = sum(float(mark.evidence["floor"]) for mark in own if "floor" in mark.evidence) / len(own)
    return [
        f"complex: {floor:.3f} of it is CLIP's cosine alone ({FLOOR} times the cosine over all 300 prompts); the paper prints {PRINTED}, "
        "less than its own cosines give, so the procedure of its column is unknown"
    ]


PLUGIN = T2ICompBench()
