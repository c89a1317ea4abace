"""Flags beyond every bound, of the wrong kind, or that do not go together: one line, and nothing is
written.
"""

from __future__ import annotations

import numpy as np
from hostile.room import IMAGES, RUN, Case, Room, file_writer, run_case, table

GENERATE = ("generate", "tiny", "--out", "new")
EVAL = ("eval", RUN, "--reference", "reference.npz")
CHECKPOINT = ("eval", "tiny", "--out", "new")
REFERENCE = ("reference", IMAGES, "r.npz", "--judge", "digits-net")
DISTANCE = ("figure", "attention-distance", "tiny", "--out", "a.svg")
MATRICES = ("figure", "matrices", "tiny", "--out", "a.svg")
SWEEP = ("figure", "sweep", ".", "--metric", "fid", "--out", "a.svg")
PLAN = ("plan", "tiny", "--difference", "1")
REPRODUCE = ("reproduce", "table2", "--scale", "micro", "--out", "new")
VERIFY = ("verify", RUN, "--reference", "reference.npz")
CONVERT = ("convert", IMAGES, "out.npz", "--to", "adm")
REGISTER = (
    "register",
    "mine",
    "--weights",
    "home/checkpoints/tiny.safetensors",
    "--encoding",
    "rope-axial",
    "--sampler",
    "flow",
)
TABLE = ("table", "2")
GATE = ("gate", RUN, RUN)
USAGE, NAMED_COUNT = 2, 1

ROWS: dict[str, tuple[tuple[str, ...], int, str]] = {
    # counts and ranges
    "count-zero": ((*GENERATE, "--count", "0"), USAGE, "--count"),
    "count-negative": ((*GENERATE, "--count", "-3"), USAGE, "--count"),
    "count-of-text": ((*GENERATE, "--count", "many"), USAGE, "--count"),
    "count-half": ((*GENERATE, "--count", "2.5"), USAGE, "--count"),
    "count-huge": ((*GENERATE, "--count", "1000000001"), USAGE, "more than 1,000,000 samples"),
    "count-of-digits": ((*GENERATE, "--count", "9" * 5000), USAGE, "--count"),
    "count-and-indices": ((*GENERATE, "--count", "2", "--indices", "0-1"), USAGE, "give one"),
    "indices-huge": ((*GENERATE, "--indices", "0-99999999"), USAGE, "at most 1,000,000"),
    "indices-backwards": ((*GENERATE, "--indices", "5-2"), USAGE, "index range"),
    "indices-negative": ((*GENERATE, "--indices", "-5--2"), USAGE, "index range"),
    "indices-empty": ((*GENERATE, "--indices", ""), USAGE, "index range"),
    "indices-of-text": ((*GENERATE, "--indices", "all"), USAGE, "index range"),
    "indices-wide-digits": ((*GENERATE, "--indices", "\u0661-\u0662\u00b2"), USAGE, "index range"),
    "eval-count-beyond": ((*EVAL, "--count", "9"), NAMED_COUNT, "unfinished|asks for 9|holds 4"),
    "eval-count-huge": ((*EVAL, "--count", "1" + "0" * 30), USAGE, "more than 1,000,000 samples"),
    "eval-subset-alone": ((*EVAL, "--subset", "1"), NAMED_COUNT, "subset"),
    "eval-subset-negative": ((*EVAL, "--subset", "-1"), USAGE, "--subset"),
    "convert-count-huge": (
        ("convert", RUN, "out.npz", "--to", "adm", "--count", "1" + "0" * 30),
        NAMED_COUNT,
        "--count",
    ),
    "convert-count-beyond": ((*CONVERT, "--count", "99"), NAMED_COUNT, "asks for 99"),
    "reproduce-count-huge": ((*REPRODUCE, "--count", "1000000001"), NAMED_COUNT, "1,000,000"),
    "plan-count-huge": (
        (*PLAN, "--count", "1" + "0" * 30, "--rate", "1"),
        NAMED_COUNT,
        "1,000,000|more than",
    ),
    "examples-negative": (
        ("audit", "--captions", "c.txt", "--suite", "x", "--examples", "-1"),
        USAGE,
        "--examples",
    ),
    "redraw-negative": ((*VERIFY, "--redraw", "-1"), USAGE, "--redraw"),
    # how samples are drawn
    "steps-zero": ((*GENERATE, "--steps", "0"), USAGE, "--steps"),
    "steps-huge": ((*GENERATE, "--count", "2", "--steps", "10001"), NAMED_COUNT, "steps"),
    "guidance-nan": ((*GENERATE, "--guidance", "nan"), USAGE, "finite"),
    "guidance-infinite": ((*GENERATE, "--guidance", "inf"), USAGE, "finite"),
    "guidance-negative": ((*GENERATE, "--guidance", "-1"), USAGE, "--guidance"),
    "guidance-huge": ((*GENERATE, "--guidance", "1e30"), NAMED_COUNT, "guidance"),
    "seed-negative": ((*GENERATE, "--seed", "-1"), USAGE, "--seed"),
    "seed-huge": ((*GENERATE, "--seed", str(2**64)), NAMED_COUNT, "seed"),
    "side-huge": (
        (*GENERATE, "--count", "2", "--resolution", "1000000000"),
        NAMED_COUNT,
        "resolution",
    ),
    "side-odd": ((*GENERATE, "--count", "2", "--resolution", "29"), NAMED_COUNT, "."),
    "batch-zero": ((*GENERATE, "--batch", "0"), USAGE, "--batch"),
    "device-unknown": ((*GENERATE, "--device", "tpu"), USAGE, "--device"),
    "device-outside": ((*GENERATE, "--device", "cuda:../x"), USAGE, "--device"),
    "device-not-here": ((*GENERATE, "--count", "2", "--device", "mps"), NAMED_COUNT, "mps"),
    "dtype-unknown": ((*GENERATE, "--dtype", "float8"), USAGE, "--dtype"),
    "scaling-unknown": ((*GENERATE, "--pos-scaling", "x"), USAGE, "--pos-scaling"),
    "vae-of-a-micro-network": (
        (*GENERATE, "--count", "2", "--vae", "/nowhere"),
        NAMED_COUNT,
        "vae",
    ),
    "fold-of-a-micro-network": ((*GENERATE, "--count", "2", "--fold"), NAMED_COUNT, "fold"),
    "spacing-of-a-flow": (
        (*GENERATE, "--count", "2", "--spacing", "leading"),
        NAMED_COUNT,
        "spacing",
    ),
    "policy-of-a-micro-network": (
        (*GENERATE, "--count", "2", "--mu-policy", "clamp"),
        NAMED_COUNT,
        "mu",
    ),
    "labels-of-digits": ((*GENERATE, "--count", "2", "--labels", "uniform"), NAMED_COUNT, "label"),
    "preset-unknown": ((*GENERATE, "--count", "2", "--preset", "x"), NAMED_COUNT, "preset"),
    "suite-of-prompts": ((*GENERATE, "--count", "2", "--suite", "shapes"), NAMED_COUNT, "prompts"),
    "suite-of-more-labels": (
        (*GENERATE, "--count", "2", "--suite", "imagenet-256"),
        NAMED_COUNT,
        "is conditioned on 10 classes, but suite imagenet-256 asks for 1,000 classes",
    ),
    "suite-of-a-classifier": (
        (*GENERATE, "--count", "2", "--suite", "digits-held-out"),
        NAMED_COUNT,
        ".",
    ),
    "out-missing": (("generate", "tiny", "--count", "2"), USAGE, "--out"),
    "no-checkpoint": (("generate", "--out", "new"), USAGE, "CHECKPOINT"),
    "flag-unknown": ((*GENERATE, "--guidence", "1"), USAGE, "No such option"),
    "flag-that-steers": ((*GENERATE, "--\x1b[2J"), USAGE, "No such option"),
    "value-missing": ((*GENERATE, "--count"), USAGE, "--count"),
    "word-more": ((*GENERATE, "more"), USAGE, "unexpected extra argument"),
    # how samples are scored
    "resolutions-of-text": ((*CHECKPOINT, "--resolution", "28,x"), USAGE, "is not a resolution"),
    "resolutions-negative": ((*CHECKPOINT, "--resolution", "-28"), USAGE, "is not a resolution"),
    "resolutions-empty": ((*CHECKPOINT, "--resolution", ""), USAGE, "is not a resolution"),
    "resolutions-of-digits": (
        (*CHECKPOINT, "--resolution", "9" * 5000),
        USAGE,
        "is not a resolution",
    ),
    "resolutions-huge": ((*CHECKPOINT, "--resolution", "999999999"), NAMED_COUNT, "resolution"),
    "evaluator-unknown": ((*EVAL, "--with", "fidelityy"), NAMED_COUNT, "fidelity"),
    "evaluator-empty": ((*EVAL, "--with", ","), NAMED_COUNT, "."),
    "evaluator-of-prompts": ((*EVAL, "--with", "geneval"), NAMED_COUNT, "."),
    "profile-unknown": ((*EVAL, "--profile", "x"), NAMED_COUNT, "profile"),
    "profile-empty": ((*EVAL, "--profile", "adm,,clean"), NAMED_COUNT, "empty name"),
    "rules-unknown": ((*EVAL, "--rules", "x"), USAGE, "--rules"),
    "judge-unknown": ((*EVAL, "--judge", "x"), NAMED_COUNT, "judge"),
    "judge-of-prompts": ((*EVAL, "--judge", "detector=shapes-vision"), NAMED_COUNT, "."),
    "judge-that-annotates": (
        (*EVAL, "--judge", "shapes-vision"),
        NAMED_COUNT,
        "extracts no features",
    ),
    "judge-that-extracts": (
        (
            "eval",
            IMAGES,
            "--suite",
            "shapes",
            "--order",
            "copy-major",
            "--judge",
            "vqa=digits-net",
            "--out",
            "new",
        ),
        NAMED_COUNT,
        "digits-net",
    ),
    "reference-judge-that-annotates": (
        (*REFERENCE[:-1], "shapes-vision"),
        NAMED_COUNT,
        "extracts no features",
    ),
    "judge-python-of-features": (
        (*EVAL, "--judge-python", "/bin/false"),
        NAMED_COUNT,
        "does not apply",
    ),
    "settings-of-what-is-drawn": ((*EVAL, "--steps", "3"), NAMED_COUNT, "would have no effect"),
    "order-of-labels": ((*EVAL, "--order", "copy-major"), NAMED_COUNT, "does not apply"),
    "truth-of-a-generator": ((*EVAL, "--ground-truth", "t.txt"), NAMED_COUNT, "does not apply"),
    "crop-ratio-zero": ((*EVAL, "--crop-ratio", "0"), USAGE, "--crop-ratio"),
    "crop-ratio-nan": ((*EVAL, "--crop-ratio", "nan"), USAGE, "--crop-ratio"),
    "suite-another": ((*EVAL, "--suite", "digits-16"), NAMED_COUNT, "digits"),
    "suite-missing": (("eval", IMAGES, "--out", "new"), NAMED_COUNT, "add --suite"),
    "reference-missing": (("eval", RUN, "--reference", "none.npz"), NAMED_COUNT, "none.npz"),
    "reference-of-another-suffix": (
        ("reference", IMAGES, "r.txt", "--judge", "digits-net"),
        NAMED_COUNT,
        "add .npz",
    ),
    "reference-images-few": ((*REFERENCE, "--image-count", "3"), USAGE, "--image-count"),
    "reference-images-huge": (
        (*REFERENCE, "--image-count", "1000001"),
        NAMED_COUNT,
        "--image-count 1,000,001 is more than 1,000,000",
    ),
    "reference-crop-small": ((*REFERENCE, "--crop", "7"), USAGE, "--crop"),
    "reference-crop-huge": (
        (*REFERENCE, "--crop", "8193"),
        NAMED_COUNT,
        "--crop 8,193 is more than 8,192",
    ),
    "reference-crop-of-npz": (
        ("reference", "x.npz", "r.npz", "--judge", "digits-net", "--crop", "14"),
        NAMED_COUNT,
        "--crop is for folders",
    ),
    "reference-onto-itself": (
        ("reference", "x.npz", "x.npz", "--judge", "digits-net", "--replace"),
        NAMED_COUNT,
        "is also an input file",
    ),
    # figures, plans, tables
    "figure-images-huge": (
        (*DISTANCE, "--count", "10001"),
        NAMED_COUNT,
        "--count 10,001 is more than 10,000",
    ),
    "figure-images-zero": ((*DISTANCE, "--count", "0"), USAGE, "--count"),
    "figure-times-nan": ((*DISTANCE, "--timesteps", "100,nan"), USAGE, "finite"),
    "figure-times-of-text": ((*DISTANCE, "--timesteps", "soon"), USAGE, "--timesteps"),
    "figure-times-empty": ((*DISTANCE, "--timesteps", ""), USAGE, "--timesteps"),
    "figure-of-another-suffix": (
        ("figure", "attention-distance", "tiny", "--count", "1", "--out", "a.png"),
        NAMED_COUNT,
        "does not end in .svg",
    ),
    "figure-layer-beyond": ((*MATRICES, "--layer", "99"), NAMED_COUNT, "."),
    "figure-layer-negative": ((*MATRICES, "--layer", "-1"), USAGE, "--layer"),
    "figure-offset-of-three": ((*MATRICES, "--offset", "1,2,3"), NAMED_COUNT, "."),
    "figure-offset-infinite": ((*MATRICES, "--offset", "inf,0"), USAGE, "finite"),
    "figure-ema-of-one": (
        ("figure", "loss", "log.csv", "--ema", "1", "--out", "a.svg"),
        USAGE,
        "--ema",
    ),
    "sweep-metric-unknown": ((*SWEEP, "--metric", "x"), NAMED_COUNT, "x"),
    "plan-difference-zero": (("plan", "tiny", "--difference", "0"), USAGE, "--difference"),
    "plan-difference-nan": (("plan", "tiny", "--difference", "nan"), USAGE, "finite"),
    "plan-power-of-one": ((*PLAN, "--power", "1"), USAGE, "--power"),
    "plan-metric-unknown": ((*PLAN, "--metric", "x", "--rate", "1"), NAMED_COUNT, "x"),
    "plan-value-infinite": ((*PLAN, "--value", "inf"), USAGE, "finite"),
    "plan-rate-zero": ((*PLAN, "--rate", "0"), USAGE, "--rate"),
    "table-unknown": (("table", "99"), NAMED_COUNT, "99"),
    "table-outside": (("table", "../../etc/passwd"), NAMED_COUNT, "table"),
    "table-form-unknown": ((*TABLE, "--format", "doc"), USAGE, "--format"),
    "table-add-without-runs": ((*TABLE, "--add", "x"), USAGE, "--runs"),
    "table-add-empty": ((*TABLE, "--runs", ".", "--add", "=x"), NAMED_COUNT, "--add"),
    "table-add-unknown": ((*TABLE, "--runs", ".", "--add", "nobody"), NAMED_COUNT, "nobody"),
    "table-row-unknown": ((*TABLE, "--runs", ".", "--row", "nobody=run"), NAMED_COUNT, "nobody"),
    "table-row-half": ((*TABLE, "--runs", ".", "--row", "nobody"), NAMED_COUNT, "--row"),
    "compare-metric-unknown": (("compare", RUN, RUN, "--metric", "x"), NAMED_COUNT, "x"),
    "compare-with-nothing": (("compare", RUN, "nowhere"), NAMED_COUNT, "nowhere"),
    "gate-update-without-reason": ((*GATE, "--update"), USAGE, "--reason"),
    "gate-reason-without-update": ((*GATE, "--reason", "x"), USAGE, "--update"),
    "gate-reason-blank": (
        ("gate", "b.json", RUN, "--update", "--reason", " "),
        NAMED_COUNT,
        "reason",
    ),
    "gate-update-of-text": (
        ("gate", "b.txt", RUN, "--update", "--reason", "x"),
        NAMED_COUNT,
        ".json",
    ),
    "register-option-half": ((*REGISTER, "--option", "base"), USAGE, "key=value"),
    "register-option-unknown": (
        (*REGISTER, "--option", "x=1", "--config", "heads=2"),
        NAMED_COUNT,
        "x",
    ),
    "register-config-huge": (
        (*REGISTER, "--config", "heads=1000000", "--config", "size=28"),
        NAMED_COUNT,
        "heads|hidden",
    ),
    "register-config-of-digits": (
        (*REGISTER, "--config", "heads=" + "9" * 4000, "--config", "size=28"),
        NAMED_COUNT,
        "heads = a number of",
    ),
    "register-config-nan": (
        (*REGISTER, "--config", "heads=NaN", "--config", "size=28"),
        NAMED_COUNT,
        "heads",
    ),
    "register-config-zero": (
        (*REGISTER, "--config", "heads=0", "--config", "size=28"),
        NAMED_COUNT,
        "heads",
    ),
    "register-config-uneven": (
        (*REGISTER, "--config", "heads=3", "--config", "size=28"),
        NAMED_COUNT,
        ".",
    ),
    "register-config-negative": (
        (*REGISTER, "--config", "heads=-2", "--config", "size=28"),
        NAMED_COUNT,
        "heads",
    ),
    "register-drawing-unknown": (
        (*REGISTER, "--config", "heads=2", "--config", "size=28", "--drawing", "x=1"),
        NAMED_COUNT,
        "x",
    ),
    "register-steps-zero": ((*REGISTER, "--steps", "0"), USAGE, "--steps"),
    "register-weights-missing": (("register", "mine"), USAGE, "--weights"),
    "fetch-unknown": (("fetch", "nobody"), NAMED_COUNT, "nobody"),
    "verb-unknown": (("genrate",), USAGE, "No such command"),
    "paper-noise-unknown": (("paper", "noise", "99"), NAMED_COUNT, "99"),
    "list-unknown": (("list", "nobodies"), NAMED_COUNT, "nobodies"),
}


def build(room: Room) -> None:
    np.savez(room.folder / "x.npz", arr_0=np.zeros((4, 28, 28, 3), np.uint8))
    file_writer("log.csv", "step,loss\n1,2\n2,1\n")(room)


@table(*(Case(name, build, words, code, text) for name, (words, code, text) in ROWS.items()))
def test_a_flag_that_means_nothing_is_one_line(case: Case, room: Room) -> None:
    run_case(case, room)
