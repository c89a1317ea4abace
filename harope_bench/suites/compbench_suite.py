"""What the suites of T2I-CompBench share: its prompts, and what its evaluator needs to know of
each.

Eight categories of 300 validation prompts, ten images each (Karine-Huang/T2I-CompBench at
1b709499). Categories stand one after another
and copies outside: index = copy * number of prompts + prompt, so the first N indices of N prompts
are one image of each. The official
number in a file name counts 10 * place + copy through a category instead;
`suites/official_layouts/compbench.py` translates. The
official images were
drawn by Stable Diffusion 2 with seeds 42 to 51 for the ten copies; here a sample's seed is that of
its index, as everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

from harope_bench.assets import local_files
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.schema import Request, Settings
from harope_bench.core.text_file import read_text
from harope_bench.evaluators.base import Metadata
from harope_bench.evaluators.rules.compbench_aggregates import complex_kind
from harope_bench.evaluators.rules.compbench_numeracy import TOKEN
from harope_bench.suites import noun_chunks
from harope_bench.suites.base import PromptCase, PromptSuite

ASSET = "t2i-compbench"
METADATA_KEY = "compbench"
FULL_SUITE = "t2i-compbench"  # the suite of all categories
CATEGORIES = (
    "color",
    "shape",
    "texture",
    "spatial",
    "3d_spatial",
    "numeracy",
    "non_spatial",
    "complex",
)
PROMPT_LISTS = {
    "spatial": "complex_val_spatial.txt",
    "action": "complex_val_action.txt",
    "both": "complex_val_spatialaction.txt",
}
OBJECTS_FILE = "new_objects.txt"
COPIES = 10
PROMPTS_PER_CATEGORY = 300  # of each official category
EVALUATOR = "t2i-compbench"
JUDGES = {  # 2D is seen by UniDet RS200, numeracy and 3D by UniDet R50
    "vqa": "blip-vqa",
    "detector-2d": "unidet-rs200",
    "detector": "unidet",
    "depth": "dpt-depth",
    "similarity": "clipscore",
}


class CompBenchSuite(PromptSuite):
    """Some categories of T2I-CompBench, under the readings of one version of spaCy's model."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    copies = COPIES
    resolution = 512
    judges = {EVALUATOR: JUDGES}
    evaluators = (EVALUATOR,)

    def __init__(
        self,
        title: str,
        categories: Sequence[str] = CATEGORIES,
        model: str = noun_chunks.BASE_VERSION,
    ):
        self.title, self.categories, self.parser_version = title, tuple(categories), model
        self.parent_suite = FULL_SUITE if self.categories != CATEGORIES else None

    @property
    def prompt_counts(self) -> Mapping[str, int]:
        """How many prompts each category's file holds; the official number before the files
        came.
        """
        files = {
            category: local_files.find_local_file(ASSET, f"{category}_val.txt")
            for category in self.categories
        }
        return {
            category: PROMPTS_PER_CATEGORY if found is None else len(_lines(found.path))
            for category, found in files.items()
        }

    @property
    def prompt_count(self) -> int:
        """Prompts of all categories."""
        return sum(self.prompt_counts.values())

    @property
    def count(self) -> int:
        """Images of all prompts."""
        return self.prompt_count * COPIES

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The prompt of each index; NotHere names the command that brings the prompts."""
        return [Request(index=index, prompt=self.case(index).prompt) for index in indices]

    def case(self, index: int) -> PromptCase:
        """What is asked at an index; OptionError beyond the last."""
        found = self._cases_by_category
        rows = list(chain.from_iterable(found[category] for category in self.categories))
        if not 0 <= index < len(rows) * COPIES:
            raise OptionError(
                f"{self.title} has {len(rows) * COPIES:,} images, there is no index {index}; ask"
                " for fewer"
            )
        copy, prompt = divmod(index, len(rows))
        text, facts = rows[prompt]
        return PromptCase(prompt, copy, text, {METADATA_KEY: facts})

    def index_of(self, category: str, place: int, copy: int) -> int:
        """The index of an image by category, place of its prompt in there, and copy."""
        sizes = [len(self.category_prompts(name)) for name in self.categories]
        return copy * sum(sizes) + sum(sizes[: self.categories.index(category)]) + place

    def category_prompts(self, category: str) -> tuple[str, ...]:
        """The prompts of a category in order."""
        return tuple(text for text, _ in self._cases_by_category[category])

    def prompts_source(self) -> tuple[str, str]:
        """Prompts and readings, by name and hash."""
        files = [local_files.require_local_file(ASSET, name) for name in self._files()]
        told = [f"{held.path.name} {held.sha256}" for held in files] + [
            f"readings {self.parser_version} {noun_chunks.parses_sha256()}"
        ]
        name = (
            f"T2I-CompBench 1b709499: {', '.join(self.categories)}; read by"
            f" {noun_chunks.parser_description(self.parser_version)}"
        )
        return name, hashlib.sha256("\n".join(told).encode()).hexdigest()

    def _files(self) -> list[str]:
        more = list(PROMPT_LISTS.values()) if "complex" in self.categories else []
        return (
            [f"{category}_val.txt" for category in self.categories]
            + more
            + ([OBJECTS_FILE] if "numeracy" in self.categories else [])
        )

    @property
    def _cases_by_category(self) -> Mapping[str, tuple[tuple[str, Metadata], ...]]:
        """Prompts and facts by category, of the files as they lie in the user's home now."""
        return _read_categories(
            local_files.asset_folder(ASSET), self._file_hashes, self.parser_version
        )

    @cached_property
    def _file_hashes(self) -> tuple[tuple[str, str | None], ...]:
        known = {file.name: file.sha256 for file in local_files.load_asset(ASSET).files}
        return tuple((name, known[name]) for name in self._files())


@lru_cache(maxsize=8)
def _read_categories(
    place: Path, files: tuple[tuple[str, str | None], ...], model: str
) -> Mapping[str, tuple[tuple[str, Metadata], ...]]:
    """Prompts and facts by category. place: where the files lie; each is hashed once."""
    lines = {name: _lines(local_files.verify_local_file(ASSET, name).path) for name, _ in files}
    lists = {key: frozenset(lines[name]) for key, name in PROMPT_LISTS.items() if name in lines}
    known = [_singular_and_plural(line) for line in lines.get(OBJECTS_FILE, ())]
    found: dict[str, tuple[tuple[str, Metadata], ...]] = {}
    for category in CATEGORIES:
        texts = lines.get(f"{category}_val.txt")
        if texts is not None:
            rows = (
                _prompt_metadata(category, place_, text, model, lists, known)
                for place_, text in enumerate(texts)
            )
            found[category] = tuple(zip(texts, rows, strict=True))
    return found


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a file that hold something, without blanks around."""
    return tuple(line.strip() for line in read_text(path).split("\n") if line.strip())


def _singular_and_plural(line: str) -> tuple[str, str]:
    one, dash, many = line.lower().partition(" - ")
    if not dash:
        raise StorageError(
            f"{OBJECTS_FILE} has the line {line!r}, wanted `singular - plural`; harope-bench fetch"
            f" {ASSET}"
        )
    return one.strip(), many.strip()


def _prompt_metadata(
    category: str,
    place: int,
    text: str,
    model: str,
    lists: Mapping[str, frozenset[str]],
    known: Sequence[tuple[str, str]],
) -> Metadata:
    """What the rules read of a prompt, as JSON values."""
    facts: dict[str, object] = {"category": category, "place": place, "text": text}
    if category == "numeracy":
        words = f" {' '.join(TOKEN.findall(text))} "
        return facts | {
            "known": [list(forms) for forms in known if any(f" {form} " in words for form in forms)]
        }
    if category == "non_spatial":
        return facts
    reading = noun_chunks.find_parse(text, model)
    if category in ("spatial", "3d_spatial"):
        return facts | {"nouns": list(reading.nouns)}
    facts["chunks"] = list(reading.chunks)
    if category == "complex":
        kinds = {rules: complex_kind(text, lists, rules) for rules in ("official", "corrected")}
        facts |= {"objects": list(reading.objects), "no_adj": reading.no_adj, "kinds": kinds}
    return facts
