"""Suites of a user's own prompts: what a file may contain, and what a changed one ends in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harope_bench import cli, generate
from harope_bench.core.errors import BenchError, OptionError, StorageError
from harope_bench.core.schema import Request
from harope_bench.data.run_folder import RunFolder
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline.generate import default_resolution, make_plan
from harope_bench.pipeline.named_images import image_names
from harope_bench.suites.base import load_prompt_suite, load_suite
from harope_bench.suites.official_layouts.file_pattern import NamePattern, compile_pattern
from harope_bench.suites.prompt_files import load_prompt_file, resolve_suite_name
from harope_bench.suites.prompt_rows import MAX_PROMPT_LENGTH, read_prompt_rows

FILES = {
    "my.txt": "a red circle\n\n  a blue square  \n",
    "my.csv": 'id,prompt\nr1,a red circle\nb2,"a ""blue"", big square"\n',
    "my.tsv": "prompt\tid\na red circle\tr1\na, b\tb2\n",
    "my.jsonl": '{"id": "r1", "prompt": "a red circle"}\n\n{"id": 2, "prompt": "a\\nb"}\n',
}
READ = {
    "my.txt": [("00000", "a red circle"), ("00001", "a blue square")],
    "my.csv": [("r1", "a red circle"), ("b2", 'a "blue", big square')],
    "my.tsv": [("r1", "a red circle"), ("b2", "a, b")],
    "my.jsonl": [("r1", "a red circle"), ("2", "a\nb")],
}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path: Path, **columns: str) -> list[tuple[str, str]]:
    rows, _ = read_prompt_rows(path, **columns)
    return [(row.id, row.prompt) for row in rows]


# ------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_ids_and_prompts(tmp_path: Path, name: str) -> None:
    assert rows_of(write(tmp_path, name, FILES[name])) == READ[name]


def test_columns_have_any_names(tmp_path: Path) -> None:
    path = write(tmp_path, "my.csv", "key,caption,prompt\nx,one,other\ny,two,other\n")
    columns = {"prompt_column": "caption", "id_column": "key"}
    assert rows_of(path, **columns) == [("x", "one"), ("y", "two")]
    name = resolve_suite_name(f"prompts:{path},copies=2,prompt=caption,id=key")
    suite = load_prompt_suite(name)
    assert (suite.count, suite.copies) == (4, 2)
    assert suite.requests([0, 1, 3]) == [
        Request(index=0, prompt="one"),
        Request(index=1, prompt="two"),
        Request(index=3, prompt="two"),
    ]
    assert [suite.case(3).copy, suite.case(3).item_id] == [1, "y"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_editors_of_any_system_may_write_it(tmp_path: Path, newline: str, encoding: str) -> None:
    text = f"ein Käfer{newline}一只猫 😀{newline}"
    path = write(tmp_path, "my.txt", text.encode(encoding))
    assert [prompt for _, prompt in rows_of(path)] == ["ein Käfer", "一只猫 😀"]


@pytest.mark.parametrize(
    "prompt",
    [
        "=cmd|' /C calc'!A0",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "{index} {0.__class__} %s",
        "\u202eright to left",
        'it\'s "quoted"; rm -rf /',
        "http://example.com/a.png",
        "--out elsewhere",
    ],
)
def test_a_hostile_prompt_is_a_prompt_as_it_stands(tmp_path: Path, prompt: str) -> None:
    line = json.dumps({"prompt": prompt})
    name = resolve_suite_name(f"prompts:{write(tmp_path, 'my.jsonl', line)}")
    assert load_prompt_suite(name).case(0).prompt == prompt


LONG_PROMPT = "x" * (MAX_PROMPT_LENGTH + 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my.txt", "\n \n", "has no prompt"),
        ("my.txt", "", "has no prompt"),
        ("my.txt", f"a\n{LONG_PROMPT}\n", "line 2 has 10,001 characters, at most 10,000"),
        ("my.txt", "a\x1b[31m\n", r"line 1 has the control character U\+001B"),
        ("my.txt", b"a\n\xff\xfeb\n", "line 2 is not UTF-8"),
        ("my.txt", b"a\0b", "NUL"),
        ("my.csv", "id,text\n1,a\n", "line 2 has columns id, text, wanted prompt"),
        ("my.csv", "id,prompt\n1,a\n2,\n", "line 3 has no text in column prompt"),
        ("my.csv", "id,prompt\n1,a\n1,b\n", "line 3: id '1' is that of line 2"),
        ("my.csv", "id,prompt\n1,a,b\n", "more cells than the first line"),
        ("my.csv", "prompt,prompt\na,b\n", "column 'prompt' twice"),
        ("my.csv", 'id,prompt\n1,"a\n', "is not readable"),
        ("my.csv", "id,prompt\n../up,a\n", "has id '../up', wanted"),
        ("my.csv", "id,prompt\n..,a\n", "has id '..', wanted"),
        ("my.csv", "id,prompt\n,a\n", "has id '', wanted"),
        ("my.jsonl", "{\n", "line 1 is not JSON"),
        ("my.jsonl", '["a"]\n', "line 1 is no JSON object"),
        ("my.jsonl", '{"prompt": 3}\n', "line 1 has no text in column prompt"),
        ("my.jsonl", '{"prompt": "\\ud800"}\n', "line 1 is not JSON"),
        ("my.jsonl", '{"id": true, "prompt": "a"}\n', "has id 'True', wanted"),
        ("my.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("my.doc", "a\n", "give it the suffix of its format"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(BenchError, match=message) as error_info:
        resolve_suite_name(f"prompts:{path}")
    assert "\n" not in str(error_info.value)
    assert str(path) in str(error_info.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (",copies=0", "copies is '0', wanted 1 to 1,000"),
        (",copies=many", "copies is 'many'"),
        (",copies=2,copies=3", "copies is given twice"),
        (",prompt=x", "has no columns"),
        (",copies=", "is given twice or is empty"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: str, message: str) -> None:
    path = write(tmp_path, "my.txt", "a\n")
    with pytest.raises(OptionError, match=message):
        resolve_suite_name(f"prompts:{path}{options}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = run("generate", "shapes-harope", "--suite", f"prompts:{tmp_path}/no.txt", "--out", "x")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "no.txt is no file" in result.output
    with pytest.raises(OptionError, match="names no file"):
        resolve_suite_name("prompts:")


def test_a_comma_in_the_name_of_a_file_is_no_option(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b=c.txt", "a\n")
    assert resolve_suite_name(f"prompts:{path}").startswith("prompts-a-b-c-")


# ----------------------------------------------------------------------------------- the suite


def test_the_name_depends_on_the_content_alone(tmp_path: Path, bench_home: Path) -> None:
    path = write(tmp_path, "my.txt", "a\nb\n")
    name = resolve_suite_name(f"prompts:{path}")
    assert resolve_suite_name(f"prompts:{path}") == name
    (tmp_path / "elsewhere").mkdir()
    copy = write(tmp_path / "elsewhere", "my.txt", "a\nb\n")
    assert resolve_suite_name(f"prompts:{copy}") == name
    assert resolve_suite_name(f"prompts:{path},copies=2") != name
    path.write_text("a\nc\n")
    assert resolve_suite_name(f"prompts:{path}") != name
    assert load_prompt_suite(name).case(1).prompt == "b"  # the stored prompts are those of before
    assert len(list((bench_home / "suites").iterdir())) == 3


def test_duplicates_stay_and_are_said(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, "my.txt", "a\nb\na\n")
    name = resolve_suite_name(f"prompts:{path}")
    assert load_prompt_suite(name).count == 3
    assert "2 prompts, 1 of them more than once" in capsys.readouterr().err


def test_a_stored_file_that_was_changed_is_found_out(tmp_path: Path, bench_home: Path) -> None:
    name = resolve_suite_name(f"prompts:{write(tmp_path, 'my.txt', 'a')}")
    path = bench_home / "suites" / f"{name}.json"
    text = path.read_text()
    for wrong_text, message in (
        (text.replace('"a"', '"b"'), "was changed"),
        (text[:-9], "is no list of prompts"),
        (text.replace('"format": 1', '"format": 2'), "found 2"),
    ):
        assert wrong_text != text
        path.write_text(wrong_text)
        load_prompt_file.cache_clear()
        with pytest.raises(BenchError, match=message):
            load_prompt_suite(name)
    path.unlink()
    load_prompt_file.cache_clear()
    with pytest.raises(BenchError, match="not on this machine; give --suite prompts:FILE"):
        load_prompt_suite(name)
    assert issubclass(StorageError, BenchError)


# ------------------------------------------------------------------------------- names of images


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{id}_{copy}.png", "r1_1.png"),
        ("{prompt_index:05d}/samples/{copy:05d}.png", "00000/samples/00001.png"),
        ("{prompt}_{index:06d}.png", "a red circle_000002.png"),
        ("{index}.PNG", "2.PNG"),
    ],
)
def test_a_pattern_names_an_image_and_reads_it_back(
    tmp_path: Path, pattern: str, name: str
) -> None:
    path = write(tmp_path, "my.csv", FILES["my.csv"].replace('""blue""', "blue"))
    suite = resolve_suite_name(f"prompts:{path},copies=2")
    assert image_names(pattern, suite, [2]) == {2: name}
    plain_pattern = pattern.replace(":05d", "").replace(":06d", "")
    assert compile_pattern(plain_pattern).fullmatch(name)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{id}.png", r"names samples 0 and 2 'r1\.png'"),
        ("{id}_{copy}.jpg", "does not end in .png"),
        ("../{id}_{copy}.png", "leaves the folder"),
        ("/{id}_{copy}.png", "leaves the folder"),
        ("{copy}.png", "does not determine the prompt"),
        ("{id:>9}_{copy}.png", "is no placeholder"),
        ("{index:0200d}.png", "is no placeholder"),
        ("{index!r}.png", "alone"),
        ("{id.__class__}.png", "is no placeholder"),
        ("{name}.png", "is no placeholder"),
        ("{id}{copy}.png", "two ways"),
        ("{id", "open brace"),
    ],
)
def test_a_wrong_pattern_is_named(tmp_path: Path, pattern: str, message: str) -> None:
    suite = resolve_suite_name(f"prompts:{write(tmp_path, 'my.csv', FILES['my.csv'])},copies=2")
    with pytest.raises(OptionError, match=message):
        image_names(pattern, suite, range(4))


@pytest.mark.parametrize("prompt", ["a/b", "a\\b", "..", "a\nb", "x" * 241, "what?", "c:"])
def test_a_prompt_that_is_no_file_name_is_named(prompt: str) -> None:
    with pytest.raises(OptionError, match=r"write \{id\} or \{prompt_index\}"):
        NamePattern("{prompt}_{copy}.png").name({"prompt": prompt, "copy": 0})


def test_a_suite_of_labels_has_no_names() -> None:
    result = run(
        *("generate", "digits-ape", "--suite", "digits", "--count", "1", "--out", "x"),
        *("--pattern", "{index}.png"),
    )
    assert result.exit_code == 1
    assert "suite digits has no prompts" in result.output


# ----------------------------------------------------------------------------------- generation


@pytest.fixture
def generate_shapes(tmp_path: Path) -> Any:
    """A function that generates the micro images of a prompt file."""

    def generate_file(path: Path, *options: str) -> Any:
        return run(
            *("generate", "shapes-harope", "--suite", f"prompts:{path},copies=2"),
            *("--resolution", "32", "--steps", "1", "--out", tmp_path / "run", *options),
        )

    return generate_file


SHAPES = "id,prompt\nr1,a photo of a red circle\ng2,a photo of a green square\n"


def test_images_have_the_names_of_the_pattern(generate_shapes: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "my.csv", SHAPES)
    result = generate_shapes(path, "--pattern", "{id}_{copy}.png")
    assert result.exit_code == 0, result.output
    named_folder = tmp_path / "run" / "named"
    records = RunFolder(tmp_path / "run").read_records()
    images = {p.name: p.read_bytes() for p in named_folder.iterdir()}
    assert sorted(images) == ["g2_0.png", "g2_1.png", "r1_0.png", "r1_1.png"]
    names = ["r1_0.png", "g2_0.png", "r1_1.png", "g2_1.png"]
    for index, name in enumerate(names):
        assert images[name] == (tmp_path / "run" / str(records[index].file)).read_bytes()
    assert len(set(images.values())) == 4

    # Again: nothing changes. Without a copy: it comes back. With another file there: an error.
    assert generate_shapes(path, "--pattern", "{id}_{copy}.png").exit_code == 0
    (named_folder / "r1_0.png").unlink()
    assert generate_shapes(path, "--pattern", "{id}_{copy}.png").exit_code == 0
    assert (named_folder / "r1_0.png").read_bytes() == images["r1_0.png"]
    (named_folder / "r1_0.png").write_bytes(b"mine")
    result = generate_shapes(path, "--pattern", "{id}_{copy}.png")
    assert result.exit_code == 1
    assert "holds another image" in result.output


def test_images_have_the_side_of_the_checkpoints_own_suite(tmp_path: Path) -> None:
    """1,024 pixels would be beyond the memory of a network of 32 pixels."""
    path = tmp_path / "my.csv"
    path.write_text("prompt\na red square\n")
    suite = resolve_suite_name(f"prompts:{path}")
    assert make_plan("shapes-harope", suite, {}).settings.resolution == 32
    assert make_plan("shapes-harope", suite, {"resolution": 64}).settings.resolution == 64
    checkpoint = load_checkpoint_record("shapes-harope").model_copy(update={"suite": None})
    assert default_resolution(checkpoint, load_suite(suite)) == 1024


def test_a_changed_file_is_another_plan(generate_shapes: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "my.csv", SHAPES)
    assert generate_shapes(path, "--count", "1").exit_code == 0
    plan = RunFolder(tmp_path / "run").plan
    assert plan is not None
    assert plan.suite == resolve_suite_name(f"prompts:{path},copies=2")
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    path.write_text(SHAPES.replace("red", "blue"))
    result = generate_shapes(path, "--count", "1")
    assert result.exit_code == 1
    assert f"suite is {plan.suite} in the folder" in result.output
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_a_run_without_an_evaluator_is_a_clear_error(generate_shapes: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "my.csv", SHAPES)
    assert generate_shapes(path, "--count", "1").exit_code == 0
    result = run("eval", tmp_path / "run")
    assert result.exit_code == 1
    assert "names no evaluator; give --with NAME" in result.output
    assert "fidelity" in result.output
    result = run("eval", tmp_path / "run", "--with", "geneval")
    assert result.exit_code == 1
    assert "evaluator geneval reads metadata 'geneval' of prompts" in result.output


def test_the_python_interface_takes_the_same_text(tmp_path: Path) -> None:
    path = write(tmp_path, "my.csv", SHAPES)
    run_folder = generate(
        "shapes-harope", f"prompts:{path}", out=tmp_path / "run", resolution=32, steps=1, count=1
    )
    assert run_folder.records[0].prompt == "a photo of a red circle"


def test_the_folder_of_names_is_read_back_with_the_pattern(
    generate_shapes: Any, tmp_path: Path
) -> None:
    path = write(tmp_path, "my.csv", SHAPES)
    pattern = "{id}_{copy}.png"
    assert generate_shapes(path, "--pattern", pattern).exit_code == 0
    result = run(
        *("convert", tmp_path / "run" / "named", tmp_path / "png", "--to", "png"),
        *("--suite", f"prompts:{path},copies=2", "--pattern", pattern),
    )
    assert result.exit_code == 0, result.output
    images = RunFolder(tmp_path / "run").read_records()
    for index in range(4):
        copy = tmp_path / "png" / f"{index:06d}.png"
        assert copy.read_bytes() == (tmp_path / "run" / str(images[index].file)).read_bytes()
