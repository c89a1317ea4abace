"""The extras of this package: which optional packages each installs, and errors that name them.

The core needs none of them. A command that does checks them before it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from harope_bench.core.errors import MissingExtraError

# By extra: the modules that it installs and that this package imports. pyproject.toml declares
# their distributions (tests/test_dependencies.py).
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "torch": (
        "torch",
        "torchvision",
        "torch_fidelity",
        "open_clip",
        "timm",
        "safetensors",
        "scipy",
        "huggingface_hub",
    ),
    "frames": ("pandas",),
    "t2i": ("transformers", "diffusers", "peft", "cv2"),
    "mmdet": ("mmdet", "mmcv", "mmengine"),
    "ray": ("ray",),
}
NETWORK_MODULES = ("torch", "safetensors")  # what every network with weights needs


def install_command(extra_name: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'harope-bench[{extra_name}]'"


def extra_of_module(module: str) -> str | None:
    """Return the extra that installs a module, or the package of a submodule; None without one."""
    package = module.partition(".")[0]
    return next((name for name, modules in EXTRAS.items() if package in modules), None)


def is_installed(module: str) -> bool:
    """Return whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent fails, or a stand-in without a specification
        return False


def missing_modules(extra_name: str, modules: Iterable[str]) -> list[str]:
    """Return those of these modules that an extra installs and that are not installed."""
    wanted_modules = set(modules)
    return [
        module
        for module in EXTRAS[extra_name]
        if module in wanted_modules and not is_installed(module)
    ]


def missing_text(modules: Iterable[str]) -> str:
    """Return that these modules are not installed, as text."""
    names = list(modules)
    return f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} not installed"


def require_packages(purpose: str, *modules: str) -> None:
    """Raise one error that names every extra that `purpose` needs and that is missing.

    Commands call it before they write anything.

    Args:
        purpose: What needs the packages, the subject of the message.

    Raises:
        MissingExtraError: A module is not installed; the message has the command.
    """
    missing = {name: missing_modules(name, modules) for name in EXTRAS}
    extra_names = [name for name, names in missing.items() if names]
    if extra_names:
        names = [module for extra_name in extra_names for module in missing[extra_name]]
        raise MissingExtraError(
            f"{purpose} needs {_join(extra_names)}: {missing_text(names)}",
            advice=install_command(",".join(extra_names)),
        )


def require_network_packages(purpose: str) -> None:
    """Raise an error unless what every network needs is installed. Errors: `require_packages`."""
    require_packages(purpose, *NETWORK_MODULES)


def missing_extra_error(purpose: str, error: ImportError) -> MissingExtraError | None:
    """Return the error that names the extra of a module that was not found; None for others.

    Args:
        error: An import failed. Only a missing module counts, not one that is damaged.
    """
    module = error.name or ""
    extra_name = extra_of_module(module)
    if not isinstance(error, ModuleNotFoundError) or extra_name is None:
        return None
    return MissingExtraError(
        f"{purpose} needs the extra {extra_name}: {missing_text([module])}",
        advice=install_command(extra_name),
    )


def _join(extra_names: list[str]) -> str:
    noun = "extras" if len(extra_names) > 1 else "extra"
    return f"the {noun} {' and '.join(extra_names)}"
