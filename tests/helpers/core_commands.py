"""The commands of an installation without extras, on files that this module writes.

Run as a script it writes the files and executes every command with a `harope-bench` of its own:

    python tests/helpers/core_commands.py FOLDER HAROPE_BENCH
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from dpg_script import run_script, table_rows
from geneval_files import write_finished_run, write_prompt_metadata

from harope_bench.core.formats import versioned_json_text
from harope_bench.core.storage import sha256_file
from harope_bench.suites.geneval import ASSET, METADATA_FILE

PROMPTS = f"home/assets/{ASSET}/{METADATA_FILE}"
DPG_FILE = "dpg-bench_20260101-000000_results.txt"
# Arguments and exit code, in order; the runs of the first ones are read by the later ones.
COMMANDS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("--help",), 0),
    (("list",), 0),
    (("list", "-v"), 0),
    (("list", "judges", "--json"), 0),
    (("paper", "check"), 0),
    (("paper", "noise", "2"), 0),
    (("eval", "a.jsonl", "--suite", "geneval", "--label", "A", "--out", "runs/a"), 0),
    (("eval", "b.jsonl", "--suite", "geneval", "--label", "B", "--out", "runs/b"), 0),
    (("eval", "a.jsonl", "--suite", "geneval", "--label", "A", "--out", "runs/a"), 0),
    (("eval", DPG_FILE, "--suite", "dpg-bench", "--resolution", "256", "--out", "runs/dpg"), 0),
    (("table", "2"), 0),
    (("table", "4", "--runs", "runs", "--show", "both"), 0),
    (("compare", "runs/a", "runs/b"), 0),
    (("gate", "base.json", "runs/a", "--update", "--reason", "first"), 0),
    (("gate", "base.json", "runs/a"), 0),
    (("report", "--runs", "runs", "--out", "report.html"), 0),
    (("figure", "loss", "log.csv", "--out", "runs/figures/loss.svg"), 0),
    (("leaderboard", "build", "runs", "--out", "site"), 0),
    (("failures", "runs/a"), 0),
    (("verify", "runs/a"), 0),
    (("audit", "--captions", "captions.txt", "--suite", "geneval", "--prompts", PROMPTS), 0),
    (("doctor",), 0),
)


def write_inputs(folder: Path) -> dict[str, str]:
    """Write results, captions, a log and prompts; return the variables that name the prompts."""
    home = folder / "home"
    write_prompt_metadata(home)
    write_dpg_table(home)
    for seed, name in enumerate(("a", "b")):
        write_finished_run(folder / f"{name}.jsonl", seed)
    run_script(folder / "dpg", 0)
    (folder / "captions.txt").write_text("a photo of an owl\na red lamp\n", encoding="utf-8")
    (folder / "log.csv").write_text("step,loss\n1,2\n2,1\n", encoding="utf-8")
    return {"HAROPE_BENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}


def write_dpg_table(home: Path) -> None:
    """Write DPG-Bench's table of three items into a home, as if it had been fetched."""
    path = home / "assets" / "dpg-bench" / "dpg_bench.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table_rows()[0]))
        writer.writeheader()
        writer.writerows(table_rows())
    (path.parent / "receipt.json").write_text(
        versioned_json_text("receipt", {"files": {path.name: sha256_file(path)}})
    )


def main() -> None:
    """Run all commands; stop at the first with another exit code than the expected one."""
    folder = Path(sys.argv[1])
    program = str(Path(sys.argv[2]).absolute())
    folder.mkdir(parents=True)
    variables = {**os.environ, **write_inputs(folder)}
    variables.pop("PYTHONPATH", None)  # the program imports the installed package
    for arguments, exit_code in COMMANDS:
        process = subprocess.run(
            [program, *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode != exit_code:
            sys.exit(
                f"{' '.join(arguments)}: exit code {process.returncode}, wanted {exit_code}\n"
                f"{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
            )
        print("ok", " ".join(arguments), flush=True)


if __name__ == "__main__":
    main()
