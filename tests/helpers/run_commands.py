"""Run commands of a guide in one process: `python run_commands.py FILE`, a JSON list of lines.

Prints, for each command, a JSON object with its exit code, its output (stdout and stderr as a
terminal shows them, and stdout alone) and its processor time. A line may end in `ECHO_EXIT_CODE`,
which prints the exit code, or in `> FILE`, as in a shell.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from harope_bench.cli import main

ECHO_EXIT_CODE = '; echo "exit code $?"'


def run_line(line: str) -> dict[str, object]:
    command, _, file = line.removesuffix(ECHO_EXIT_CODE).partition(" > ")
    program, *words = shlex.split(command)
    start = time.process_time()
    if program == "python":
        exec(compile(words[1], "-c", "exec"), {})
        code = 0
        output = stdout = ""
    else:
        process = CliRunner().invoke(main, words, prog_name="harope-bench")
        code = process.exit_code
        output = process.output
        stdout = process.stdout
    if file:
        Path(file).write_text(stdout)
        output = process.stderr
        stdout = ""
    if line.endswith(ECHO_EXIT_CODE):
        output += f"exit code {code}\n"
        stdout += f"exit code {code}\n"
        code = 0
    return {
        "line": line,
        "code": code,
        "output": output,
        "stdout": stdout,
        "seconds": round(time.process_time() - start, 1),
    }


if __name__ == "__main__":
    for line in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(run_line(line)), flush=True)
