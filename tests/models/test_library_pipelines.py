"""Any text-to-image pipeline of diffusers: ten classes of the library, small and random, are
registered and generate; no other sample, order, batch or interruption changes a bit of an image.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import library_pipelines
import numpy as np
import pytest
import tiny_pipelines as tiny
from click.testing import CliRunner

tiny.needs_t2i()

import torch  # noqa: E402
from diffusers import pipelines  # noqa: E402

from harope_bench.cli import main  # noqa: E402
from harope_bench.core.errors import (  # noqa: E402
    MissingExtraError,
    OptionError,
    WeightsError,
)
from harope_bench.core.sample_seeds import sample_seed  # noqa: E402
from harope_bench.core.schema import Plan, Request  # noqa: E402
from harope_bench.data.run_folder import RunFolder  # noqa: E402
from harope_bench.data.sample_set import NOT_REPEATABLE_WARNING, open_samples  # noqa: E402
from harope_bench.models import pipeline_checks, register_pipeline  # noqa: E402
from harope_bench.models.backbones import diffusers as backbone_module  # noqa: E402
from harope_bench.models.load_checkpoint import (  # noqa: E402
    load_checkpoint_record,
    open_generator,
)
from harope_bench.models.register_checkpoint import register_checkpoint  # noqa: E402
from harope_bench.models.register_pipeline import Trial, repeatability_text  # noqa: E402
from harope_bench.pipeline.generate import (  # noqa: E402
    describe_generation,
    generate,
    make_plan,
)
from harope_bench.pipeline.requirements import checkpoint_requirement  # noqa: E402

NO_TRIAL = Trial(is_skipped=True)
SETTINGS = {"resolution": 32, "steps": 2, "seed": 3}
COUNT = 3


@pytest.fixture(autouse=True)
def _prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register_prompts(monkeypatch)


@pytest.fixture(params=library_pipelines.PIPELINES)
def pipeline_name(request: pytest.FixtureRequest, library_pipeline: Callable[[str], Path]) -> str:
    """The name of each pipeline, which is registered without trial images."""
    name: str = request.param
    register_small(name, library_pipeline(name))
    return name


def register_small(name: str, folder: Path, trial: Trial = NO_TRIAL, **drawing: Any) -> None:
    options = {**library_pipelines.OPTIONS.get(name, {}), **drawing}
    register_checkpoint(name, folder, {"drawing": options}, trial=trial)


def plan_of(name: str, **settings: Any) -> Plan:
    return make_plan(name, "four-prompts", {**SETTINGS, **settings})


def hashes(folder: Path) -> dict[int, str | None]:
    """The hash of each image of a run."""
    return {index: record.sha256 for index, record in RunFolder(folder).read_records().items()}


def generate_killed(plan: Plan, out: Path, generator: Any, after: int) -> None:
    """Generate in another process, which SIGKILL ends before image number `after` is stored."""
    calls = iter(range(1, after + 1))
    store = RunFolder.add_sample

    def deadly(*inputs: Any) -> Any:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return store(*inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries keep threads
        child = os.fork()
    if child == 0:
        try:
            setattr(RunFolder, "add_sample", deadly)  # noqa: B010 - mypy takes no other function
            generate(plan, range(COUNT), out, 1, generator)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# --------------------------------------------------------------------- same request, same image


def test_images_do_not_depend_on_batch_order_split_or_kill(
    pipeline_name: str, tmp_path: Path
) -> None:
    plan = plan_of(pipeline_name)
    generator = open_generator(plan.checkpoint, plan.settings)
    state = torch.random.get_rng_state()
    generate(plan, range(COUNT), tmp_path / "whole", 4, generator)
    expected = hashes(tmp_path / "whole")
    assert len(set(expected.values())) == COUNT, "prompts or noise do not change the image"
    assert torch.equal(torch.random.get_rng_state(), state)

    # Split into parts, the later ones first.
    for part in ([2], [0, 1]):
        generate(plan, part, tmp_path / "split", 1, generator)
    assert hashes(tmp_path / "split") == expected

    # Killed before the third image was stored, and resumed by another process's pipeline.
    generate_killed(plan, tmp_path / "killed", generator, after=3)
    assert len(hashes(tmp_path / "killed")) == 2
    second_generator = open_generator(plan.checkpoint, plan.settings)
    generate(plan, range(COUNT), tmp_path / "killed", None, second_generator)
    assert hashes(tmp_path / "killed") == expected

    # Several requests of one call, in another order.
    requests = [Request(index=i, prompt=prompt_of(i)) for i in (2, 0)]
    batch = generator.generate(requests, plan.settings)
    single_batch = generator.generate(requests[1:], plan.settings)
    assert not batch.failures
    assert (batch.images[1] == single_batch.images[0]).all()
    other_seed = plan.settings.model_copy(update={"seed": 4})
    assert (generator.generate(requests[1:], other_seed).images != single_batch.images).any()


def prompt_of(index: int) -> str:
    (request,) = tiny.PLUGIN.requests([index])
    return str(request.prompt)


# --------------------------------------------------------------------- registration and options


def test_the_signature_states_the_defaults_of_plan_and_digest(
    library_pipeline: Callable[[str], Path],
) -> None:
    register_small("qwen", library_pipeline("qwen-image"))
    checkpoint = load_checkpoint_record("qwen")
    assert (checkpoint.backbone, checkpoint.encoding) == ("diffusers", "none")
    assert (checkpoint.steps, checkpoint.guidance, checkpoint.sampler) == (50, None, None)
    plan = plan_of("qwen", steps=None)
    assert plan.settings.steps == 50
    assert plan.settings.pipeline_options == {"true_cfg_scale": 4.0, "max_sequence_length": 512}
    assert plan.settings.sampling_text == (
        "own scheduler, 50 steps, no guidance, true cfg scale 4.0, max sequence length 512"
    )

    # A registered default, and an option of the run, which wins.
    register_small("strict", library_pipeline("qwen-image"), true_cfg_scale=2, negative_prompt="7")
    options = plan_of("strict", max_sequence_length=99).settings.pipeline_options
    assert options == {"true_cfg_scale": 2.0, "negative_prompt": "7", "max_sequence_length": 99}
    assert plan_of("strict", true_cfg_scale=4.0, negative_prompt=None).digest != plan.digest
    assert plan_of("qwen", true_cfg_scale=4, steps=None).digest == plan.digest


def test_options_change_the_image(library_pipeline: Callable[[str], Path]) -> None:
    register_small("sd", library_pipeline("sdxl"))
    request = [Request(index=0, prompt="a photo of a red cat")]
    images = []
    for options in ({}, {"negative_prompt": "blue"}, {"guidance": 1.5}, {"steps": 1}):
        plan = plan_of("sd", **options)
        generator = open_generator(plan.checkpoint, plan.settings)
        images.append(generator.generate(request, plan.settings).images)
    assert len({image.tobytes() for image in images}) == len(images)


def test_an_image_is_that_of_the_librarys_own_call(library_pipeline: Callable[[str], Path]) -> None:
    from diffusers import ChromaPipeline

    register_small("chroma", library_pipeline("chroma"))
    plan = plan_of("chroma")
    request = Request(index=5, prompt="a photo of a red cat")
    image = open_generator(plan.checkpoint, plan.settings).generate([request], plan.settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = ChromaPipeline.from_pretrained(library_pipeline("chroma"), local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(sample_seed(plan.settings.seed, 5))
        expected = pipe(
            "a photo of a red cat",
            height=32,
            width=32,
            num_inference_steps=2,
            generator=generator,
            output_type="pil",
        ).images[0]
    assert np.array_equal(image.images[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ({"foo": 1}, "ChromaPipeline has no option 'foo'; its options: max_sequence_length"),
        ({"prompt_embeds": 1}, "ChromaPipeline has no option 'prompt_embeds'"),
        ({"num_inference_steps": 4}, "cannot be set by --drawing: give --steps"),
        ({"max_sequence_length": "long"}, "wants a whole number, found 'long'"),
        ({"dtype": "int8"}, "drawing default dtype: Input should be 'float32'"),
        ({"vae": "folder"}, "vae does not apply to checkpoint bad: ChromaPipeline runs as it is"),
        ({"enable_model_cpu_offload": 1}, "wants true or false, found '1'"),
    ],
)
def test_an_unknown_option_is_rejected_at_registration(
    library_pipeline: Callable[[str], Path], drawing: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as error:
        register_small("bad", library_pipeline("chroma"), **drawing)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "ddpm"}, "sampler does not apply to checkpoint chroma: ChromaPipeline runs"),
        ({"pos_scaling": "ntk"}, "without an encoding of this package; leave --pos-scaling out"),
        ({"foo": 1}, "ChromaPipeline has no such option, it takes enable_model_cpu_offload, max"),
        ({"max_sequence_length": 1.5}, "wants a whole number, found '1.5'"),
        ({"enable_model_cpu_offload": True}, "found --device cpu; give --device cuda or leave it"),
    ],
)
def test_an_unknown_option_is_rejected_in_a_plan(
    library_pipeline: Callable[[str], Path], options: dict[str, Any], message: str
) -> None:
    register_small("chroma", library_pipeline("chroma"))
    with pytest.raises(OptionError) as error:
        plan_of("chroma", **options)
    assert message in str(error.value)


def test_cleaned_captions_need_their_packages(
    library_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    register_small("pixart", library_pipeline("pixart-sigma"), clean_caption=False)
    monkeypatch.setattr(backbone_module, "CAPTION_PACKAGES", (("no_such_module", "no-such"),))
    with pytest.raises(MissingExtraError, match="pip install no-such"):
        plan_of("pixart", clean_caption=True)
    with pytest.raises(MissingExtraError, match="set --drawing clean_caption=false"):
        register_small("other", library_pipeline("pixart-sigma"))
    assert (plan_of("pixart").settings.pipeline_options or {})["clean_caption"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoding": "harope"}, "--encoding does not apply to a Lumina2Pipeline"),
        ({"sampler": "flow"}, "--sampler does not apply"),
        ({"options": {"base": 1}}, "--option does not apply"),
        ({"config": {"heads": 1}}, "--config heads does not apply"),
        ({"backbone": "flux"}, "is run by backbone diffusers, not flux"),
    ],
)
def test_fields_of_an_encoding_do_not_apply(
    library_pipeline: Callable[[str], Path], fields: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        register_checkpoint("bad", library_pipeline("lumina2"), fields, trial=NO_TRIAL)


# --------------------------------------------------------------------- trial images


class Forgetful:
    """Draws noise that its generator does not control, as a careless pipeline would."""

    def __init__(self, make: Callable[..., Any]):
        self.make = make
        self.calls = 0

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        self.calls += 1
        output = self.make(*inputs, **options)
        output.images[0] = np.clip(output.images[0] + 0.02 * self.calls, 0, 1)
        return output


def test_a_pipeline_of_large_sizes_alone_has_large_trial_images(
    library_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HunyuanDiT, which returns 1,024 pixels where fewer are asked for."""
    from diffusers import AuraFlowPipeline

    sides: list[int] = []
    signature = inspect.signature(AuraFlowPipeline.__call__)

    def generate_large(pipeline: Any, *_: Any, **options: Any) -> Any:
        sides.append(options["height"])
        side = max(1024, options["height"])
        pixels = np.zeros((1, side, side, 3), np.float32)
        return pipelines.ImagePipelineOutput(images=pixels)

    generate_large.__signature__ = signature  # type: ignore[attr-defined]
    monkeypatch.setattr(AuraFlowPipeline, "__call__", generate_large)
    register_small("large", library_pipeline("aura-flow"), Trial())
    assert sides == [64, 512, 1024, 1024, 1024, 1024]
    assert load_checkpoint_record("large").is_repeatable


def test_trial_images_show_whether_a_pipeline_repeats_itself(
    library_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = library_pipeline("aura-flow")
    register_small("steady", folder, Trial())
    assert load_checkpoint_record("steady").is_repeatable
    assert repeatability_text(load_checkpoint_record("steady")).startswith("repeatable")
    first_record = load_checkpoint_record("steady")
    with monkeypatch.context() as patch:
        patch.setattr(
            register_pipeline, "generates_equal_images", lambda *_: pytest.fail("a second trial")
        )
        register_small("steady", folder, Trial())
    assert load_checkpoint_record("steady") == first_record

    from diffusers import AuraFlowPipeline

    forgetful = Forgetful(AuraFlowPipeline.__call__)
    with monkeypatch.context() as patch:
        patch.setattr(AuraFlowPipeline, "__call__", as_method(forgetful))
        register_small("drifting", folder, Trial())
    assert forgetful.calls == 4
    drifting = load_checkpoint_record("drifting")
    assert not drifting.is_repeatable
    assert repeatability_text(drifting).startswith("not repeatable")

    # The plan records it, and the samples warn of it.
    plan = plan_of("drifting", steps=1)
    assert plan.digest_fields()["checkpoint"]["config"]["is_repeatable"] is False
    assert describe_generation(plan).endswith("not repeatable")
    generate(plan, [0], tmp_path / "run")
    assert open_samples(tmp_path / "run").warnings == (NOT_REPEATABLE_WARNING,)


def as_method(call: Forgetful) -> Callable[..., Any]:
    """Return the call as a method with the signature of the library's."""

    @functools.wraps(call.make)
    def method(*inputs: Any, **options: Any) -> Any:
        return call(*inputs, **options)

    return method


def test_noise_of_the_global_generator_depends_on_the_sample_alone(
    library_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong: without seeding the global generator, the second call would differ."""
    from diffusers import AuraFlowPipeline

    library_call = AuraFlowPipeline.__call__

    @functools.wraps(library_call)
    def noisy(*inputs: Any, **options: Any) -> Any:
        output = library_call(*inputs, **options)
        output.images[0] = np.clip(output.images[0] + 0.1 * torch.rand(1).item(), 0, 1)
        return output

    register_small("noisy", library_pipeline("aura-flow"))
    monkeypatch.setattr(AuraFlowPipeline, "__call__", noisy)
    plan = plan_of("noisy")
    generator = open_generator(plan.checkpoint, plan.settings)
    request = [Request(index=0, prompt="a photo of a red cat")]
    images = [generator.generate(request, plan.settings).images for _ in range(2)]
    assert (images[0] == images[1]).all()


def test_an_image_that_is_hidden_or_not_finite_has_failed(
    library_pipeline: Callable[[str], Path],
) -> None:
    register_small("aura", library_pipeline("aura-flow"))
    plan = plan_of("aura")
    generator = open_generator(plan.checkpoint, plan.settings)
    request = [Request(index=0, prompt="a photo of a red cat")]
    assert isinstance(generator, backbone_module.LibraryPipelineGenerator)
    for parameter in generator.pipe.vae.parameters():
        parameter.data.fill_(float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        batch = generator.generate(request, plan.settings)
    assert batch.failures == {0: "the pipeline's output is not finite"}

    class Output:
        images = np.zeros((1, 32, 32, 3), np.float32)
        nsfw_content_detected = [True]

    assert "safety checker" in str(backbone_module._failure_reason(Output(), Output.images))


# --------------------------------------------------------------------- files


def test_an_altered_file_is_an_error_before_it_is_loaded(
    library_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(library_pipeline("aura-flow"), tmp_path / "copy")
    register_small("mine", folder)
    plan = plan_of("mine")
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert checkpoint_requirement(plan.checkpoint) is None  # the size is that of before
    with pytest.raises(WeightsError, match="has other bytes than when it was registered"):
        open_generator(plan.checkpoint, plan.settings)
    weights.write_bytes(data[:-1])
    assert "was registered with" in str(checkpoint_requirement(plan.checkpoint))
    weights.unlink()
    assert "is missing" in str(checkpoint_requirement(plan.checkpoint))


def test_weights_that_a_file_lacks_are_an_error(
    library_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    for component, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        folder = shutil.copytree(library_pipeline("aura-flow"), tmp_path / component)
        path = folder / component / f"{stem}.safetensors"
        state = load_file(path)
        state.pop(max(key for key in state if key.endswith("weight")))
        save_file(state, path, {"format": "pt"})
        register_small(component, folder)
        plan = plan_of(component)
        with pytest.raises(WeightsError, match="lacks weights"):
            open_generator(plan.checkpoint, plan.settings)


def edit_index(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in index.items() if v != "leave out"}))


def edit_config(folder: Path, component: str, **entries: Any) -> None:
    path = folder / component / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def edit_tokenizer(folder: Path, **entries: Any) -> None:
    path = folder / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def rename_weights(folder: Path, component: str, name: str) -> None:
    (path,) = (folder / component).glob("*.safetensors")
    path.rename(path.with_name(name))


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image to image": (
        lambda folder: edit_index(folder, _class_name="StableDiffusionImg2ImgPipeline"),
        "contains a StableDiffusionImg2ImgPipeline, which does not turn prompts into images",
    ),
    "a control net": (
        lambda folder: edit_index(folder, _class_name="FluxControlNetPipeline"),
        "does not turn prompts into images: it takes control_image",
    ),
    "a video": (
        lambda folder: edit_index(folder, _class_name="WanPipeline"),
        "does not turn prompts into images: it takes num_frames",
    ),
    "class labels": (
        lambda folder: edit_index(folder, _class_name="DiTPipeline"),
        "does not turn prompts into images: it takes no prompt",
    ),
    "code of the folder": (
        lambda folder: edit_index(folder, _class_name=["pipeline", "MyPipeline"]),
        "which diffusers {version} does not have; code of a model's folder is never run",
    ),
    "a component with code": (
        lambda folder: edit_index(folder, transformer=["my_transformer", "MyTransformer"]),
        "wants transformer from my_transformer (MyTransformer), which neither diffusers",
    ),
    "a modular pipeline": (
        lambda folder: (folder / "model_index.json").rename(folder / "modular_model_index.json"),
        "is a modular pipeline (modular_model_index.json), which is not supported",
    ),
    "a quantised component": (
        lambda folder: edit_config(
            folder, "transformer", quantization_config={"quant_method": "gguf"}
        ),
        "is quantised by gguf, whose library (gguf) is not installed; install it",
    ),
    "an unknown quantisation": (
        lambda folder: edit_config(
            folder, "transformer", quantization_config={"quant_method": "my4bit"}
        ),
        "is quantised by the method 'my4bit', which is not supported",
    ),
    "a part that the index lacks": (
        lambda folder: edit_index(folder, text_encoder="leave out"),
        "lacks the part text_encoder, which a AuraFlowPipeline needs; copy the whole pipeline",
    ),
    "a part without folder": (
        lambda folder: shutil.rmtree(folder / "tokenizer"),
        "lacks the part tokenizer: there is no folder tokenizer",
    ),
    "weights that are missing": (
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").unlink(),
        "has no diffusion_pytorch_model.safetensors; copy the whole base",
    ),
    "a variant alone": (
        lambda folder: rename_weights(
            folder, "transformer", "diffusion_pytorch_model.fp16.safetensors"
        ),
        "has only the variant 'fp16'",
    ),
    "bin files alone": (
        lambda folder: rename_weights(folder, "text_encoder", "pytorch_model.bin"),
        "has only .bin files, which are not supported; save the base as .safetensors",
    ),
    "a damaged index": (
        lambda folder: (folder / "model_index.json").write_text("{"),
        "is not readable JSON",
    ),
    "a tokenizer with code": (
        lambda folder: edit_tokenizer(folder, auto_map={"AutoTokenizer": ["mine.Mine", None]}),
        "tokenizer_config.json needs code of its folder (auto_map), which is never run",
    ),
    "a pipeline in a pipeline": (
        lambda folder: edit_index(folder, vae=["diffusers", "DiffusionPipeline"]),
        "wants a whole pipeline or an ONNX model as vae (DiffusionPipeline)",
    ),
    "an empty component that leads out": (
        lambda folder: edit_index(folder, **{"../vae": [None, None]}),
        "names the component '../vae' as",
    ),
    "a component that leads out": (
        lambda folder: edit_index(folder, **{"../vae": ["diffusers", "AutoencoderKL"]}),
        "names the component '../vae' as",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_pipeline_that_cannot_run_is_one_line_at_registration(
    case: str, library_pipeline: Callable[[str], Path], tmp_path: Path, bench_home: Path
) -> None:
    import diffusers

    damage, message = BAD_FOLDERS[case]
    folder = shutil.copytree(library_pipeline("aura-flow"), tmp_path / "bad")
    damage(folder)
    words = ["register", "bad", "--weights", str(folder), "--no-trial"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1, result.output
    assert message.replace("{version}", diffusers.__version__) in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not list((bench_home / "checkpoints").glob("*.toml"))


def test_classes_whose_encoding_is_replaced_keep_their_backbones(tmp_path: Path) -> None:
    register_checkpoint("flux", tiny.save_pipeline(tmp_path / "flux", "flux"), {})
    assert load_checkpoint_record("flux").backbone == "flux"


def test_every_class_that_the_library_lists_is_accepted_or_needs_an_image() -> None:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    rejected_names = set()
    for pipeline_class in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
        try:
            pipeline_checks.check_text_to_image(pipeline_class, Path("folder"))
        except WeightsError:
            rejected_names.add(pipeline_class.__name__)
    assert all("Control" in name or "Helios" in name for name in rejected_names), rejected_names
    assert len(AUTO_TEXT2IMAGE_PIPELINES_MAPPING) - len(rejected_names) >= 34


# --------------------------------------------------------------------- commands


def test_commands_register_check_and_generate(
    library_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ["register", "aura", "--weights", str(library_pipeline("aura-flow")), "--no-trial"]
    registration = CliRunner().invoke(main, [*words, "--drawing", "max_sequence_length=32"])
    assert registration.exit_code == 0, registration.output
    assert "sampler of the pipeline, 50 steps, guidance 3.5" in registration.output
    assert "repeatability not checked" in registration.output
    assert CliRunner().invoke(main, ["check", "checkpoint", "aura"]).exit_code == 0

    out = tmp_path / "run"
    words = ["generate", "aura", "--suite", "four-prompts", "--count", "1", "--steps", "1"]
    words += ["--resolution", "32", "--drawing", "negative_prompt=a blue dog", "--out", str(out)]
    first_result = CliRunner().invoke(main, words)
    assert first_result.exit_code == 0, first_result.output
    plan = RunFolder(out).plan
    assert plan is not None
    options = plan.settings.pipeline_options
    assert options == {"max_sequence_length": 32, "negative_prompt": "a blue dog"}
    second_result = CliRunner().invoke(main, [*words, "--drawing", "negative_prompt=a red dog"])
    assert second_result.exit_code == 1 and "pipeline_options" in second_result.output
