"""Judge mplug: DPG-Bench's network mPLUG-large with the benchmark's questions, in another Python.

No library that fits into harope-bench's environment has this network. So `runner` is executed by an
environment with modelscope that the user names (`--judge-python`). Only the exact text `yes` counts
in DPG-Bench. The network gives texts and no probability of yes.

Source: TencentQQGYLab/ELLA:dpg_bench/compute_dpg_bench.py;
damo/mplug_visual-question-answering_coco_large_en on modelscope.
"""

from __future__ import annotations

from harope_bench.judges.generic.external_annotator import ExternalAnnotator

PLUGIN = ExternalAnnotator(
    title="mplug",
    role="vqa",
    runner="mplug.py",
    preprocessing=(
        "modelscope's pipeline: bicubic to the model's square, 25 question tokens, beam of 5,"
        " float32"
    ),
    requirements="modelscope",
    option="weights=FOLDER",
    alternative_advice="import answers that the official script wrote",
)
