"""Readers of charts, recipes, tables, checkpoints' records, training logs and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hostile import documents as d
from hostile.parsers.homes import at_home
from hostile.parsers.table import Files, Table

from harope_bench.core import chart_schema, registry, storage
from harope_bench.core.formats import add_format_version
from harope_bench.leaderboards import table_spec
from harope_bench.models import checkpoint_folder, load_checkpoint
from harope_bench.reports import leaderboard_pages, loss_logs, report_page, runs, training_logs
from harope_bench.reports.leaderboard_metadata import read_metadata
from harope_bench.training.recipe import read_recipe

TABLE = Table()
parser = TABLE.add

parser(
    "charts",
    d.charts,
    lambda f: [chart_schema.read_chart(path) for path in sorted(f.glob("*.json"))],
)
parser(
    "leaderboard's metadata",
    {"x.toml": d.toml({"title": "A", "runs": {"a": {"label": "b", "url": "https://example.org"}}})},
    lambda f: read_metadata(f / "x.toml"),
)
parser("recipe", {"x.toml": d.toml(d.RECIPE)}, lambda f: read_recipe(str(f / "x.toml")))
parser("painter's recipe", {"x.toml": d.toml(d.PAINTER)}, lambda f: read_recipe(str(f / "x.toml")))
parser(
    "table",
    {"x.toml": d.toml(d.TABLE)},
    lambda f: table_spec._load_entry(registry.RegistryEntry("tables", "x", "a test", f / "x.toml")),
)
CHECKPOINT = {
    "checkpoints/mine.toml": d.toml(
        add_format_version("checkpoint", {**d.record_document(d.checkpoint()), "name": "mine"})
    )
}


def read_logged(folder: Path) -> object:
    at_home(folder / "home")
    return training_logs.read_loss_curves(runs.read_runs(folder / "run"))


def logged_run() -> Files:
    files = {f"run/{name}": data for name, data in d.run_files().items()}
    record_document = d.record_document(d.checkpoint())
    return {**files, **shadowing_files(record_document)}


def shadowing_files(fields: dict[str, Any]) -> Files:
    """A user's checkpoint of another name than the shipped ones, with the log of its training, and
    the plan of a run of it.
    """
    fields = {**fields, "name": "mine"}
    plan = {**d.record_document(d.fake_runs.plan(d.checkpoint())), "checkpoint": fields}
    paths = {
        "home/checkpoints/mine.toml": d.toml(add_format_version("checkpoint", fields)),
        "home/checkpoints/mine.log.csv": b"step,loss\n1,3.0\n",
    }
    return {**paths, "run/plan.json": d.file_of("plan", plan)}


parser(
    "logs of checkpoints",
    logged_run,
    read_logged,
    "home/checkpoints/mine.toml",
    "home/checkpoints/mine.log.csv",
)


def read_checkpoints(folder: Path) -> object:
    at_home(folder)
    former_previous = checkpoint_folder._read_previous(
        folder / "checkpoints/mine.toml", d.checkpoint()
    )
    return (
        former_previous,
        registry.list_entries("checkpoints"),
        load_checkpoint.load_checkpoint_record("mine"),
        table_spec.load_tables(),
    )


parser("checkpoint", CHECKPOINT, read_checkpoints)
parser(
    "training log",
    {"log.csv": b"step,loss\n1,3.0\n2,2.5\n"},
    lambda f: (
        training_logs.read_training_log(f / "log.csv"),
        loss_logs.read_losses([f / "log.csv"], 0.9),
    ),
)
DIT_LOG = b"[2026-01-01 10:00:00] (step=0000100) Train Loss: 0.2, Train Steps/Sec: 1\n[x] (step=0000200) Train Loss: 0.1, Train\n"
parser("DiT's log", {"log.txt": DIT_LOG}, lambda f: loss_logs.read_losses([f / "log.txt"], 0))
parser(
    "page",
    {"index.html": b"<html></html>"},
    lambda f: leaderboard_pages._read_page(f / "index.html"),
)
parser(
    "report to replace",
    {"report.html": f"<html>{report_page.PAGE_MARKER}</html>".encode()},
    lambda f: storage.check_overwrite(f / "report.html", report_page.PAGE_MARKER, "report"),
)
