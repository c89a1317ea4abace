"""What DPG-Bench's official script leaves behind, in its form: a small table, answers by chance,
its two files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIELDS = (
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
)
ROWS = [  # item, number, depends on, tuple, question
    ("partiprompts97", 1, "0", "entity - whole (lamp)", "Is there a lamp?"),
    ("partiprompts97", 2, "1", "attribute - color (lamp, red)", "Is the lamp red?"),
    ("7", 1, "0", "entity - whole (owl)", "Is there an owl?"),
    ("7", 2, "1", "attribute - color (owl, grey)", "Is the owl grey, or nearly so?"),
    ("7", 3, "1,2", "entity - part (owl, beak)", "Is the owl grey"),
    ("7", 4, "0", "global - (photo)", "Is it a photo?"),
    ("whoops3", 1, "2", "relation - spatial (owl, lamp, on)", "Is the owl on the lamp, yes or no?"),
    ("whoops3", 2, "0", "entity - whole (owl)", "Is there an owl?"),
    ("whoops3", 3, "0", "other - count (owl, ==2)", "Are there two owls?"),
]


def table_rows() -> list[dict[str, str]]:
    """The table's rows by column."""
    return [
        dict(zip(FIELDS, (i, f"A text of {i}.", "", str(n), d, "b", "d", t, q), strict=True))
        for i, n, d, t, q in ROWS
    ]


def run_script(folder: Path, seed: int, pictures: int = 4) -> Path:
    """Writes the two files for the items in a folder of that name and returns the results file's
    path.
    """
    rng, side = np.random.default_rng(seed), 512
    corners = [(0, 0), (side, 0), (0, side), (side, side)][:pictures]
    results, detail, means = [], [], []
    pooled_fields: dict[str, list[float]] = {}
    for item in ("7", "partiprompts97", "whoops3"):  # as a folder lists them
        rows = [(n, d, t, q) for k, (i, n, d, t, q) in enumerate(ROWS) if i == item and k > 0]
        path, scores, last_records = f"{folder}/{item}.png", [], {}
        for x, y in corners:
            texts = {n: str(rng.choice(["yes", "yes", "no", "grey, or so"])) for n, *_ in rows}
            detail += [
                f"{path}, {(x, y, x + side, y + side)}, {q}, {texts[n]}" for n, _, _, q in rows
            ]
            last_records = {n: float(answer == "yes") for n, answer in texts.items()}
            value = dict(last_records)
            if any(int(p) not in (0, *value) for _, d, _, _ in rows for p in d.split(",")):
                break  # the script raises here, and catches it
            for n, d, _, _ in rows:
                if any(int(p) and value[int(p)] == 0 for p in d.split(",")):
                    value[n] = 0.0
            scores.append(sum(value.values()) / len(value))
        if len(scores) < len(corners):
            continue
        means.append(sum(scores) / len(scores))
        results.append(", ".join([path, *map(str, scores), str(means[-1])]))
        for n, _, t, _ in rows:
            pooled_fields.setdefault(t.split("(")[0].strip(), []).append(last_records[n])
    target = folder.parent / "dpg-bench_20260101-000000_results.txt"
    l1: dict[str, list[float]] = {}
    for name, result_value in pooled_fields.items():
        l1.setdefault(name.split("-")[0].strip(), []).extend(result_value)
    shown_texts = [f"\t{name}: {np.mean(result_value) * 100}" for name, result_value in l1.items()]
    detailed_texts = [
        f"\t{name}: {np.mean(pooled_fields[name]) * 100}" for name in sorted(pooled_fields)
    ]
    summary = [
        f"Model: {folder.name}",
        "L1 category scores:",
        *shown_texts,
        "L2 category scores:",
        *detailed_texts,
        f"Image path: {folder}",
        f"Save results to: {target}",
        f"DPG-Bench score: {np.mean(means) * 100}",
    ]
    target.write_text("\n".join([*results, *summary]) + "\n")
    target.with_name(target.stem + "_detail.txt").write_text("\n".join(detail) + "\n")
    return target
