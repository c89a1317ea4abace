"""Run commands of a guide in one process: `python run_commands.py FILE`, a JSON list of lines.

Prints, for each command, a JSON object with its exit code, its output and its processor time.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from harope_bench.cli import main


def run_line(line: str) -> dict[str, object]:
    program, *words = shlex.split(line)
    start = time.process_time()
    if program == "python":
        exec(compile(words[1], "-c", "exec"), {})
        code, output = 0, ""
    else:
        process = CliRunner().invoke(main, words, prog_name="harope-bench")
        code, output = process.exit_code, process.output
    return {
        "line": line,
        "code": code,
        "output": output,
        "seconds": round(time.process_time() - start, 1),
    }


if __name__ == "__main__":
    for line in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(run_line(line)), flush=True)
