"""Where results lie in a run folder: RUN/results/NAME.json, NAME.npz and NAME.rows.jsonl."""

from __future__ import annotations

from pathlib import Path

from harope_bench.data.run_folder import RESULTS_FOLDER

SAMPLE_SCORES_SUFFIX = ".rows.jsonl"  # ends the name of the file of verdicts on single images


def result_path(folder: Path, name: str) -> Path:
    """Return where the result of that name lies in a run folder."""
    return folder / RESULTS_FOLDER / f"{name}.json"


def result_paths(folder: Path) -> list[Path]:
    """Return the files of a run folder's results, in order."""
    return sorted((folder / RESULTS_FOLDER).glob("*.json"))


def result_paths_below(folder: Path) -> list[Path]:
    """Return the files of all results of the run folders at and below a folder, in order."""
    return sorted(folder.glob(f"**/{RESULTS_FOLDER}/*.json"))


def run_folder_of(path: Path) -> Path:
    """Return the run folder that a result lies in."""
    return path.parent.parent


def arrays_path(path: Path) -> Path:
    """Return where the per-sample arrays of a result lie."""
    return path.with_suffix(".npz")


def sample_scores_path(path: Path) -> Path:
    """Return where the verdicts on single images lie beside a result."""
    return path.with_suffix(SAMPLE_SCORES_SUFFIX)


def sample_scores_paths_below(folder: Path) -> list[Path]:
    """Return the files of verdicts on single images at and below a folder, in order."""
    return sorted(folder.glob(f"**/{RESULTS_FOLDER}/*{SAMPLE_SCORES_SUFFIX}"))


def result_path_beside(rows: Path) -> Path:
    """Return the result that a file of verdicts on single images lies beside."""
    return rows.with_name(rows.name.removesuffix(SAMPLE_SCORES_SUFFIX) + ".json")
