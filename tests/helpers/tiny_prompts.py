"""Small prompt files in the official formats of GenEval, DPG-Bench and T2I-CompBench."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from dpg_script import FIELDS

from harope_bench.core.formats import versioned_json_text
from harope_bench.core.storage import sha256_file
from harope_bench.suites import noun_chunks

CLAUSES: dict[str, list[list[dict[str, Any]]]] = {  # two prompts of each of GenEval's tasks
    "single_object": [[{"class": "cat", "count": 1}], [{"class": "dog", "count": 1}]],
    "two_object": [
        [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}],
        [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}],
    ],
    "counting": [[{"class": "cat", "count": 2}], [{"class": "dog", "count": 3}]],
    "colors": [
        [{"class": "cat", "count": 1, "color": "red"}],
        [{"class": "dog", "count": 1, "color": "blue"}],
    ],
    "position": [
        [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}],
    ],
    "color_attr": [
        [
            {"class": "cat", "count": 1, "color": "red"},
            {"class": "dog", "count": 1, "color": "blue"},
        ],
        [
            {"class": "dog", "count": 1, "color": "red"},
            {"class": "cat", "count": 1, "color": "blue"},
        ],
    ],
}
QUESTIONS = [  # item, number, depends on, tuple, question
    ("a-cat", 1, "0", "entity - whole (cat)", "is it a car ?"),
    ("a-cat", 2, "1", "attribute - color (cat, red)", "is it red ?"),
    ("a-dog", 1, "0", "entity - whole (dog)", "is it blue ?"),
    ("a-dog", 2, "1", "relation - spatial (dog, cat, on)", "is a car blue ?"),
    ("a-photo", 1, "0", "global - (photo)", "is it a blue car ?"),
    ("a-photo", 2, "0", "entity - whole (cat)", "is a red car it ?"),
    ("a-car", 1, "0", "entity - whole (car)", "is it a red car ?"),
]
# two prompts of each of T2I-CompBench's categories, with what a tagger would read in them
BENCH = {
    "color": ("a red cat and a blue dog", "a blue cat and a red dog"),
    "shape": ("a red cat on a dog", "a blue cat on a dog"),
    "texture": ("a photo of a red cat and a dog", "a photo of a blue cat and a dog"),
    "spatial": ("a cat on the dog", "a dog on the cat"),
    "3d_spatial": ("the cat on the dog", "the dog on the cat"),
    "numeracy": ("two cats and one dog", "two dogs and one cat"),
    "non_spatial": ("a photo of the cat", "a photo of the dog"),
    "complex": ("the red cat and the blue dog", "the blue cat on the red dog"),
}


def prompts(home: Path) -> None:
    """Small files of all three suites in a user's home, as if they had been fetched."""
    rows = [
        {
            "tag": tag,
            "include": include,
            "prompt": f"a photo of a {' and a '.join(clause['class'] for clause in include)}",
        }
        for tag, result_value in CLAUSES.items()
        for include in result_value
    ]
    _write_asset(
        home / "assets/geneval",
        {"evaluation_metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)},
    )
    _write_asset(home / "assets/t2i-compbench", _bench_files())
    folder = home / "assets/dpg-bench"
    folder.mkdir(parents=True)
    with (folder / "dpg_bench.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(
            (i, f"a photo of a cat, {i}", "", n, d, "b", "d", t, q) for i, n, d, t, q in QUESTIONS
        )
    _write_asset(folder, {})


def _bench_files() -> dict[str, str]:
    files = {f"{category}_val.txt": "\r\n".join(texts) for category, texts in BENCH.items()}
    lists = {
        f"complex_val_{name}.txt": BENCH["complex"][k] + "\n"
        for k, name in enumerate(("action", "spatial"))
    }
    return {
        **files,
        **lists,
        "complex_val_spatialaction.txt": "\n",
        "new_objects.txt": "cat - cats\ndog - dogs\n",
    }


def _write_asset(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "receipt.json").write_text(
        versioned_json_text(
            "receipt",
            {
                "files": {
                    path.name: sha256_file(path)
                    for path in folder.iterdir()
                    if path.name != "receipt.json"
                }
            },
        )
    )


def readings() -> dict[str, str]:
    """The readings of these prompts in the form that ships."""
    records = {}
    for category, texts in BENCH.items():
        for text in texts:
            nouns = tuple(word for word in text.split() if word in ("cat", "dog"))
            chunks = tuple(
                ("a " if category in ("color", "texture") else "") + noun for noun in nouns
            )
            chunks = tuple(chunk if chunk in text else chunk.split()[-1] for chunk in chunks)
            plain_text = " ".join(word for word in text.split() if word not in ("red", "blue"))
            records[noun_chunks.prompt_key(text)] = noun_chunks.format_row(
                text, noun_chunks.PromptParse(nouns, chunks, nouns[:2], plain_text)
            )
    return records
