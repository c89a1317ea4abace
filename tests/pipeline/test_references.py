"""References: ADM's npz read and written as a stream, images seen once, and nothing taken for what
it is not.
"""

from __future__ import annotations

import hashlib
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import inception
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.array_file import arrays_with_format
from harope_bench.core.errors import OptionError, SampleError, StorageError
from harope_bench.core.storage import home, sha256_file
from harope_bench.data import adm_npz
from harope_bench.data.image_io import centre_crop, encode_png
from harope_bench.data.sample_set import crop_samples, open_samples
from harope_bench.judges.base import judge_record
from harope_bench.judges.inception.inception_network import ENVIRONMENT_VARIABLE
from harope_bench.pipeline.evaluate import EvaluatedResult, FeatureScoring, evaluate
from harope_bench.pipeline.extract_features import shard_key
from harope_bench.pipeline.reference_stats import (
    ReferenceExtraction,
    build_reference,
    open_reference,
    reference_origin,
)
from harope_bench.suites.digits import PLUGIN as DIGITS

JUDGE = "digits-net"


def digits(split: str, count: int) -> np.ndarray:
    images, _ = DIGITS.images(split)
    chosen_value = np.random.default_rng(0).permutation(len(images))[:count]
    return np.repeat(images[chosen_value][..., None], 3, -1)


def folder_of(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for i, image in enumerate(images):
        (path / f"{i:05d}.png").write_bytes(encode_png(image))
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "real", digits("train", 120))


@pytest.fixture
def generated_folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "drawn", digits("held-out", 60))


def score(target: Path, out: Path, **fields: Any) -> EvaluatedResult:
    (scored,) = evaluate(target, out, FeatureScoring("digits", **fields))
    return scored


def value(scored: EvaluatedResult, metric: str) -> float | None:
    measurement = scored.result.find_measurement(metric)
    assert measurement is not None
    return measurement.value


def test_a_built_reference_is_adms_format_and_scores(
    real: Path, generated_folder: Path, tmp_path: Path
) -> None:
    path = build_reference(open_samples(real), tmp_path / "real.npz", JUDGE, images=50)
    arrays = load_arrays(path)
    features = registry.load_by_name("judges", JUDGE).open("cpu").extract(digits("train", 120))
    assert arrays["arr_0"].shape == (50, 28, 28, 3) and arrays["arr_0"].dtype == np.uint8
    assert np.allclose(arrays["mu"], features["features"].mean(0), rtol=1e-6)
    assert np.allclose(
        arrays["sigma_s"],
        np.cov(features["spatial"].astype(np.float64), rowvar=False),
        rtol=1e-9,
        atol=1e-12,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn", "real", "real.npz"]
    result = score(generated_folder, tmp_path / "out", reference=path)
    assert all(m.value is not None for m in result.result.measurements)
    values = [w for w in result.result.warning_texts if w.startswith("reference")]
    assert values == [
        "reference: N <= D (120 images, 196 dimensions of mu_s); the statistics depend on N"
    ]


def test_a_reference_says_what_was_odd_about_its_images(
    generated_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for i, image in enumerate(digits("train", 30)):
        larger_image = Image.fromarray(image[..., 0]).resize((30, 30))
        larger_image.save(folder / f"{i:02d}.jpg", quality=20)
    path = tmp_path / "few.npz"
    command_result = run("reference", folder, path, "--judge", JUDGE, "--crop", 28)
    with pytest.raises(SampleError, match="contains mu"):
        adm_npz.images_shape(path)
    expected = (
        "30 of 30 images have a lossy format",
        "centre-cropped to 28x28",
        "30 of 30 are grey",
        "N <= D (30 images, ",
    )
    assert reference_origin(path).image_count == 30
    assert all(words in command_result for words in expected)
    warnings = [
        w
        for w in score(generated_folder, tmp_path / "out", reference=path).result.warning_texts
        if w.startswith("reference: ")
    ]
    assert all(any(words in w for w in warnings) for words in expected)


def test_words_in_a_foreign_reference_are_cut_and_cleaned(real: Path, tmp_path: Path) -> None:
    arrays = load_arrays(build_reference(open_samples(real), tmp_path / "real.npz", JUDGE))
    np.savez(
        tmp_path / "a.npz",
        **{**arrays, "warnings": np.array(["\x1b[31m" + "x" * 9999] * 99), "images": np.zeros(3)},
    )
    reference_origin_result = reference_origin(tmp_path / "a.npz")
    assert (
        reference_origin_result.image_count is None and len(reference_origin_result.warnings) == 20
    )
    assert all(len(line) == 300 and "\x1b" not in line for line in reference_origin_result.warnings)


def test_a_build_goes_on_only_with_the_same_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between looking and writing: what was seen through one crop is not taken for
    another's.
    """
    samples = open_samples(
        folder_of(tmp_path / "large", digits("train", 20).repeat(3, 1).repeat(3, 2))
    )
    target, whole_reference = (
        tmp_path / "x.npz",
        build_reference(crop_samples(samples, 56), tmp_path / "whole.npz", JUDGE),
    )
    with monkeypatch.context() as killed_context:
        killed_context.setattr(
            adm_npz, "write_npz", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            build_reference(crop_samples(samples, 28), target, JUDGE)
    assert (tmp_path / ".x.npz.features").is_dir()
    assert (
        build_reference(crop_samples(samples, 56), target, JUDGE).read_bytes()
        == whole_reference.read_bytes()
    )


def test_the_key_of_a_shard_knows_the_crop_and_is_what_it_was_without_one() -> None:
    record, images = judge_record(JUDGE), [(0, "a")]
    plain_hexdigest = hashlib.sha256(f"{record.to_json()}{images}".encode()).hexdigest()
    assert shard_key(record, images) == plain_hexdigest
    assert len({plain_hexdigest, shard_key(record, images, 28), shard_key(record, images, 56)}) == 3


def test_a_build_removes_nothing_but_what_it_made(real: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "real.npz.features", tmp_path / ".real.npz.features"]
    for folder in folders:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    build_reference(open_samples(real), tmp_path / "real.npz", JUDGE)
    assert [[p.name for p in folder.iterdir()] for folder in folders] == [
        ["mine.txt"],
        ["mine.txt"],
    ]


@pytest.fixture
def bare_statistics(real: Path, tmp_path: Path) -> Path:
    """Statistics alone, which do not tell the size of their images."""
    arrays = load_arrays(build_reference(open_samples(real), tmp_path / "real.npz", JUDGE))
    np.savez(tmp_path / "bare.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    return tmp_path / "bare.npz"


def test_images_of_another_size_than_the_suites(
    bare_statistics: Path, generated_folder: Path, tmp_path: Path
) -> None:
    feature_scoring = FeatureScoring("imagenet-128", reference=bare_statistics, judge=JUDGE)
    with pytest.raises(
        SampleError,
        match="images of 28x28, imagenet-128 is scored at 128x128; give the suite of that size",
    ):
        evaluate(generated_folder, tmp_path / "out", feature_scoring)
    (result,) = evaluate(
        generated_folder,
        tmp_path / "own",
        replace(feature_scoring, reference=tmp_path / "real.npz"),
    )
    assert (
        "images: 28x28, the protocol of imagenet-128 is for 128x128" in result.result.warning_texts
    )
    large_folder_of = folder_of(
        tmp_path / "large", digits("held-out", 10).repeat(2, 1).repeat(2, 2)
    )
    assert (
        "images: 56x56, the protocol of digits is for 28x28"
        in score(large_folder_of, tmp_path / "56", reference=bare_statistics).result.warning_texts
    )


@pytest.mark.no_numbers
def test_a_suites_reference_made_by_another_judge_is_refused(
    own_weights: Path, tmp_path: Path
) -> None:
    """The two share their weights, so that only the name tells them apart."""
    suite = registry.load_by_name("suites", "coco-fid")
    path = home() / "references" / "coco-val2014-512-inception-2015-clean.npz"
    path.parent.mkdir(parents=True)
    arrays = arrays_with_format(
        "reference",
        {
            "mu": np.zeros(2048),
            "sigma": np.eye(2048),
            "judge_sha256": np.array(sha256_file(own_weights)),
        },
    )
    np.savez(path, **arrays, judge=np.array("inception-2015"))
    with pytest.raises(
        OptionError, match="was made by inception-2015 .* not by inception-2015-clean"
    ):
        open_reference(suite, "inception-2015-clean", None)
    np.savez(path, **arrays, judge=np.array("inception-2015-clean"))
    assert open_reference(suite, "inception-2015-clean", None).name == path.name


def test_equal_images_give_equal_references(real: Path, tmp_path: Path) -> None:
    first_reference, two = (
        build_reference(open_samples(real), tmp_path / f"{n}.npz", JUDGE, images=50, seed=n // 2)
        for n in (0, 1)
    )
    assert first_reference.read_bytes() == two.read_bytes()
    second_reference = build_reference(
        open_samples(real), tmp_path / "2.npz", JUDGE, images=50, seed=1
    )
    assert not np.array_equal(
        load_arrays(second_reference)["arr_0"], load_arrays(first_reference)["arr_0"]
    )


def test_images_of_a_reference_are_seen_once_and_kept(
    real: Path, generated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_reference(open_samples(real), tmp_path / "real.npz", JUDGE, images=50)
    first_evaluated_result = score(generated_folder, tmp_path / "a", reference=path)
    kept_path = home() / "references" / sha256_file(path)[:16] / JUDGE
    assert (kept_path / "features.npy").is_file()
    score(
        generated_folder, tmp_path / "b", reference=path
    )  # its samples are judged anew, the reference is not
    monkeypatch.setattr(
        type(registry.load_by_name("judges", JUDGE)),
        "open",
        lambda self, device="cpu": pytest.fail("a network was opened"),
    )
    again = score(generated_folder, tmp_path / "b", reference=path, is_rescored=True)
    assert again.result.measurements == first_evaluated_result.result.measurements
    for file in kept_path.iterdir():
        file.unlink()
    with pytest.raises(SampleError, match="run eval without --rescore once"):
        score(generated_folder, tmp_path / "b", reference=path, is_rescored=True)


def test_statistics_without_images_give_fid_and_sfid_alone_and_it_is_said(
    real: Path, generated_folder: Path, tmp_path: Path
) -> None:
    arrays = load_arrays(build_reference(open_samples(real), tmp_path / "real.npz", JUDGE))
    np.savez(tmp_path / "bare.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    scored = score(generated_folder, tmp_path / "out", reference=tmp_path / "bare.npz")
    assert {m.metric for m in scored.result.measurements if m.value is not None} == {"fid", "is"}
    assert (
        "reference: statistics without images (arr_0), so no precision, recall or KID"
        in scored.result.warning_texts
    )
    assert (
        "reference: the file does not record its judge, digits-net is assumed"
        in scored.result.warning_texts
    )
    whole_evaluated_result = score(
        generated_folder, tmp_path / "whole", reference=tmp_path / "real.npz"
    )
    assert value(whole_evaluated_result, "fid") == value(scored, "fid")


def test_images_without_statistics_give_their_own_and_it_is_said(
    real: Path, generated_folder: Path, tmp_path: Path
) -> None:
    adm_npz.write_npz(tmp_path / "plain.npz", iter([digits("train", 120)]), (120, 28, 28, 3))
    scored = score(generated_folder, tmp_path / "out", reference=tmp_path / "plain.npz")
    assert (
        "reference: it has no statistics, they were computed from its 120 images"
        in scored.result.warning_texts
    )
    whole_evaluated_result = score(
        generated_folder,
        tmp_path / "whole",
        reference=build_reference(open_samples(real), tmp_path / "real.npz", JUDGE),
    )
    assert value(scored, "fid") == pytest.approx(value(whole_evaluated_result, "fid"), rel=1e-6)


def test_images_of_another_size_are_warned_of(generated_folder: Path, tmp_path: Path) -> None:
    adm_npz.write_npz(
        tmp_path / "big.npz",
        iter([digits("train", 120).repeat(2, 1).repeat(2, 2)]),
        (120, 56, 56, 3),
    )
    scored = score(generated_folder, tmp_path / "out", reference=tmp_path / "big.npz")
    assert "reference: its images are 56x56, the samples 28x28" in scored.result.warning_texts


def test_a_sample_file_that_carries_mu_is_refused(real: Path, tmp_path: Path) -> None:
    path = build_reference(open_samples(real), tmp_path / "real.npz", JUDGE)
    with pytest.raises(
        SampleError, match="contains mu: it is a reference, or samples with foreign statistics"
    ):
        score(path, tmp_path / "out")


def test_a_reference_of_another_judge_or_weights_is_refused(real: Path, tmp_path: Path) -> None:
    path = build_reference(open_samples(real), tmp_path / "real.npz", JUDGE)
    arrays = load_arrays(path)
    for change in ({"judge": np.array("inception-2015")}, {"judge_sha256": np.array("0" * 64)}):
        np.savez(tmp_path / "other.npz", **{**arrays, **change})
        with pytest.raises(OptionError, match="was made by .* not by digits-net with its weights"):
            open_reference(DIGITS, JUDGE, tmp_path / "other.npz")


def test_what_is_no_reference_says_what_was_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(StorageError, match="has other, wanted mu and sigma or arr_0"):
        open_reference(DIGITS, JUDGE, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", arr_0=np.zeros((2, 3)))
    with pytest.raises(SampleError, match=r"arr_0 is float64 \(2, 3\)"):
        open_reference(DIGITS, JUDGE, tmp_path / "b.npz", ReferenceExtraction())
    with pytest.raises(StorageError, match=r"c\.npz does not exist"):
        open_reference(DIGITS, JUDGE, tmp_path / "c.npz")


def test_a_large_reference_is_never_in_memory(tmp_path: Path) -> None:
    """Written and read in the memory of a batch: 63 MB of images, a batch of 8 MB held."""
    block = np.random.default_rng(0).integers(0, 256, (50, 512, 512, 3), dtype=np.uint8)[:10]
    path, n = tmp_path / "large.npz", 80
    tracemalloc.start()
    adm_npz.write_npz(
        path,
        (block for _ in range(n // 10)),
        (n, 512, 512, 3),
        extra_arrays={"mu": np.zeros(64), "sigma": np.eye(64)},
    )
    total = sum(
        int(images[0, 0, 0, 0]) for images in adm_npz.read_batches(path, 10, is_reference=True)
    )
    arrays = load_arrays(path, ("mu", "sigma"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert arrays.keys() == {"mu", "sigma"} and total == n // 10 * int(block[0, 0, 0, 0])
    assert path.stat().st_size > 60e6 > 2 * peak


def test_compressed_references_are_read_too(real: Path, tmp_path: Path) -> None:
    path = build_reference(open_samples(real), tmp_path / "real.npz", JUDGE)
    with (
        zipfile.ZipFile(path) as old_zip_file,
        zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_DEFLATED) as new_zip_file,
    ):
        for name in old_zip_file.namelist():
            new_zip_file.writestr(name, old_zip_file.read(name))
    array, two = (open_reference(DIGITS, JUDGE, p).arrays for p in (path, tmp_path / "packed.npz"))
    assert all(np.array_equal(array[name], two[name]) for name in array)


# ------------------------------------------------------------------------------------------- odd
# images


def test_the_centre_crop_is_adms(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (130, 70, 3), dtype=np.uint8)
    halved_resize = Image.fromarray(image).resize((35, 65), Image.Resampling.BOX)
    assert (
        np.abs(np.asarray(halved_resize) - image.reshape(65, 2, 35, 2, 3).mean((1, 3))).max() <= 1
    )  # rounded once each way
    assert np.array_equal(
        centre_crop(image, 32),
        np.asarray(halved_resize.resize((32, 59), Image.Resampling.BICUBIC))[13:45],
    )
    assert centre_crop(image[:32, :32], 32).tolist() == image[:32, :32].tolist()


def test_a_folder_of_many_sizes_is_cropped_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 30), (28, 90), (64, 64), (57, 29)]):
        (folder / f"{i}.png").write_bytes(
            encode_png(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        )
    with pytest.raises(SampleError, match="give images of one size"):
        build_reference(open_samples(folder), tmp_path / "no.npz", JUDGE)
    path = build_reference(crop_samples(open_samples(folder), 28), tmp_path / "yes.npz", JUDGE)
    assert load_arrays(path)["arr_0"].shape == (4, 28, 28, 3)
    with pytest.raises(SampleError, match="of images of 28x28, --crop 14 .* is for folders"):
        crop_samples(open_samples(_bare_images(tmp_path)), 14)


def test_images_that_have_the_side_already_are_not_said_to_be_cropped(tmp_path: Path) -> None:
    for source in (_bare_images(tmp_path), folder_of(tmp_path / "five", digits("train", 5))):
        target = tmp_path / f"{source.stem}-reference.npz"
        command_result = run("reference", source, target, "--judge", JUDGE, "--crop", 28)
        assert "centre-cropped" not in command_result
        np.testing.assert_array_equal(load_arrays(target)["arr_0"], digits("train", 5))


@pytest.mark.parametrize("order", ["C", "F"])
def test_grey_images_of_an_npz_are_read_like_those_of_a_folder(tmp_path: Path, order: str) -> None:
    grey_images = digits("train", 12)[..., 0]  # (N, H, W)
    np.savez(tmp_path / "grey.npz", arr_0=np.asarray(grey_images, order=order))  # type: ignore[call-overload]
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(grey_images):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    texts = []
    references = []
    for source in (tmp_path / "grey.npz", folder):
        target = tmp_path / f"{source.stem}-reference.npz"
        texts.append(run("reference", source, target, "--judge", JUDGE).split("\n", 1)[1])
        references.append(load_arrays(target))
    assert texts[0] == texts[1] and "12 of 12 are grey" in texts[0]
    for name in ("arr_0", "mu", "sigma"):
        np.testing.assert_array_equal(references[0][name], references[1][name])

    np.savez(tmp_path / "one.npz", arr_0=digits("train", 1)[0])
    with pytest.raises(SampleError, match=r"arr_0 is uint8 \(28, 28, 3\), wanted"):
        open_samples(tmp_path / "one.npz")


def _bare_images(tmp_path: Path) -> Path:
    adm_npz.write_npz(tmp_path / "bare.npz", iter([digits("train", 5)]), (5, 28, 28, 3))
    return tmp_path / "bare.npz"


def test_grey_and_one_coloured_images_are_told_also_by_a_later_call(
    generated_folder: Path, tmp_path: Path
) -> None:
    Image.fromarray(digits("train", 1)[0][..., 0]).save(generated_folder / "00003.png")
    (generated_folder / "00005.png").write_bytes(encode_png(np.full((28, 28, 3), 9, np.uint8)))
    (generated_folder / "00006.png").write_bytes(encode_png(np.full((28, 28, 3), 7, np.uint8)))
    expected = (
        "images: 1 of 60 are grey, read as three equal channels",
        "images: 2 of 60 are of one colour",
    )
    first_evaluated_result = score(generated_folder, tmp_path / "out")
    assert first_evaluated_result.result.warning_texts[:2] == expected
    assert (
        score(generated_folder, tmp_path / "out", is_rescored=True).result.warning_texts
        == first_evaluated_result.result.warning_texts
    )


def test_lossy_files_and_copies_are_told(generated_folder: Path, tmp_path: Path) -> None:
    Image.fromarray(digits("train", 1)[0]).save(generated_folder / "00003.jpg")
    (generated_folder / "00004.png").write_bytes((generated_folder / "00005.png").read_bytes())
    message = " | ".join(score(generated_folder, tmp_path / "out").result.warning_texts)
    assert "1 of 61 images have a lossy format" in message
    assert "duplicates in features, 1 of 61 samples repeat those of another one exactly" in message


def test_a_random_choice_is_seeded_and_told(generated_folder: Path, tmp_path: Path) -> None:
    chosen_results = [
        evaluate(
            generated_folder, tmp_path / f"{s}-{n}", FeatureScoring("digits", subset=s), count=40
        )[0].result
        for s, n in ((0, 0), (0, 1), (1, 0))
    ]
    assert (
        chosen_results[0].measurements
        == chosen_results[1].measurements
        != chosen_results[2].measurements
    )
    assert "images: a random choice of 40 out of 60, seed 0" in chosen_results[0].warning_texts
    with pytest.raises(OptionError, match="--subset chooses --count images"):
        evaluate(generated_folder, tmp_path / "x", FeatureScoring("digits", subset=0))


# ---------------------------------------------------------------------------- Inception through the
# verbs


@pytest.fixture
def own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = inception.write_weights(tmp_path / "random.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    return path


def run(*words: object) -> str:
    command_result = CliRunner().invoke(main, [str(w) for w in words])
    assert command_result.exit_code == 0, command_result.output
    return command_result.output


@pytest.mark.no_numbers
def test_imagenet_from_folder_to_result_with_other_weights(
    own_weights: Path, tmp_path: Path
) -> None:
    """The whole path of the real thing but for its weights: reference, both resizes, four profiles;
    never called official.
    """
    rng = np.random.default_rng(0)
    real, generated_value = (
        rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        for _ in range(2)
    )
    folder_of(tmp_path / "real", real)
    folder_of(tmp_path / "drawn", generated_value)
    for judge in ("inception-2015", "inception-2015-clean"):
        run("reference", tmp_path / "real", tmp_path / f"{judge}.npz", "--judge", judge)
    words = ["eval", tmp_path / "drawn", "--suite", "imagenet-128", "--out", tmp_path / "out"]
    command_result = run(
        *words,
        "--reference",
        tmp_path / "inception-2015.npz",
        "--profile",
        "adm,adm-exact,torch-fidelity",
    )
    command_result += run(
        *words, "--reference", tmp_path / "inception-2015-clean.npz", "--profile", "clean"
    )
    assert command_result.count("  fid-6 ") == 4 and command_result.count("  sfid-6 ") == 2
    assert command_result.count("other weights than Inception of 2015's") == 4
    assert "the protocol of imagenet-128 asks for 50,000" in command_result
    names = sorted(p.name.split("_ref")[0] for p in (tmp_path / "out/results").glob("*.json"))
    assert names == ["fidelity", "fidelity_adm-exact", "fidelity_clean", "fidelity_torch-fidelity"]
    assert sorted(p.name for p in (tmp_path / "out/features").iterdir()) == [
        "inception-2015",
        "inception-2015-clean",
    ]
    for path in (tmp_path / "out/results").glob("*.json"):
        assert '"judge_class": "substitute"' in path.read_text()
