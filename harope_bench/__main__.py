"""Run the command line: `python -m harope_bench`."""

from harope_bench.cli import main

if __name__ == "__main__":
    main(prog_name="python -m harope_bench")
