"""mmdet without mmcv's compiled operations, which Mask2Former's inference does not need.

mmdet imports all of them from a compiled module, so a stub replaces that module. The operation that
is called, deformable attention, has a form in plain torch. mmcv uses that form off CUDA, and on
CUDA where its flag says that there is none.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import NoReturn

from harope_bench.core.errors import MissingExtraError

EXTENSION = "mmcv._ext"
INSTALL = "pip install 'harope-bench[t2i,mmdet]'"


class StubModule(types.ModuleType):
    """Stub of the compiled module: every operation exists, and none can be called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """Return an operation that raises MissingExtraError when it is called.

        Names that the import system looks up (`__path__`, ...) are missing.
        """
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_missing(*_: object, **__: object) -> NoReturn:
            raise MissingExtraError(
                f"mmcv's compiled operation {name} was called, mmcv-lite has none",
                advice="install mmcv 2.1.0 with its operations in its place",
            )

        return raise_missing


def import_mmdet() -> types.ModuleType:
    """Import mmdet so that it can build models; use the stub where mmcv has no operations.

    Raises:
        MissingExtraError: mmdet is not installed, or its parts do not load together; the message
            names the command.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmcv and mmdet warn about their own imports
            if find_spec("mmcv") is not None and find_spec(EXTENSION) is None:
                _install_stub()
            mmdet = import_module("mmdet")
            import_module("mmdet.utils").register_all_modules(init_default_scope=True)
    except (ImportError, AssertionError) as error:  # mmdet asserts the version of mmcv
        raise MissingExtraError(
            f"judge mask2former-mmdet needs mmdet 3.3 ({error})", advice=INSTALL
        ) from error
    if isinstance(sys.modules.get(EXTENSION), StubModule):
        vars(import_module("mmcv.ops.multi_scale_deform_attn"))["IS_CUDA_AVAILABLE"] = False
    return mmdet


def _install_stub() -> None:
    """Register the stub as the compiled module."""
    module = StubModule(EXTENSION)
    module.__spec__ = ModuleSpec(EXTENSION, None)  # mmengine reads it
    sys.modules[EXTENSION] = module
