"""Table my-table: three encodings on handwritten digits."""

from __future__ import annotations

PLUGIN = {
    "id": "my-table",
    "title": "Handwritten digits by positional encoding",
    "row_headers": [{"title": "Encoding", "text": "{title}"}],
    # The runs that fill the table, and the row that all others are compared with.
    "micro_scale": {"suite": "digits", "baseline": "axial"},
    # One column for each metric of an evaluator.
    "columns": [
        {
            "key": "fid",
            "title": "FID",
            "direction": "lower",
            "decimals": 2,
            "evaluator": "fidelity",
        },
        {
            "key": "is",
            "title": "IS",
            "direction": "higher",
            "decimals": 2,
            "evaluator": "fidelity",
        },
    ],
    # One row for each registered checkpoint. `published` may hold printed numbers, by column.
    "rows": [
        {"id": "ape", "title": "APE", "encoding": "ape", "micro_checkpoint": "digits-ape"},
        {
            "id": "axial",
            "title": "Axial RoPE",
            "encoding": "rope-axial",
            "micro_checkpoint": "digits-rope-axial",
        },
        {
            "id": "harope",
            "title": "HARoPE",
            "encoding": "harope",
            "micro_checkpoint": "digits-harope",
        },
    ],
}
