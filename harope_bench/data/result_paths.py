"""Paths of results in a run folder: results/NAME.json, NAME.npz and NAME.sample_scores.jsonl."""

from __future__ import annotations

from pathlib import Path

from harope_bench.data.run_folder import RESULTS_FOLDER

SAMPLE_SCORES_SUFFIX = ".sample_scores.jsonl"  # of a file with the score of each image


def result_path(folder: Path, name: str) -> Path:
    """Return the path of a result in a run folder."""
    return folder / RESULTS_FOLDER / f"{name}.json"


def result_paths(folder: Path) -> list[Path]:
    """Return the paths of a run folder's results, sorted."""
    return sorted((folder / RESULTS_FOLDER).glob("*.json"))


def result_paths_below(folder: Path) -> list[Path]:
    """Return the paths of all results of the run folders at and below a folder, sorted."""
    return sorted(folder.glob(f"**/{RESULTS_FOLDER}/*.json"))


def run_folder_of(path: Path) -> Path:
    """Return the run folder that contains a result."""
    return path.parent.parent


def arrays_path(path: Path) -> Path:
    """Return the path of the per-sample arrays beside a result."""
    return path.with_suffix(".npz")


def sample_scores_path(path: Path) -> Path:
    """Return the path of the sample scores beside a result."""
    return path.with_suffix(SAMPLE_SCORES_SUFFIX)


def sample_scores_paths_below(folder: Path) -> list[Path]:
    """Return the paths of all files of sample scores at and below a folder, sorted."""
    return sorted(folder.glob(f"**/{RESULTS_FOLDER}/*{SAMPLE_SCORES_SUFFIX}"))


def result_path_beside(sample_scores: Path) -> Path:
    """Return the path of the result beside a file of sample scores."""
    return sample_scores.with_name(sample_scores.name.removesuffix(SAMPLE_SCORES_SUFFIX) + ".json")
