"""mmdet without mmcv's compiled operations: a stand-in, since Mask2Former's inference needs none of
them.

mmdet imports them all; the one that is called, deformable attention, has a form in plain torch
beside it, which runs off CUDA, and on
CUDA where mmcv is told that there is none.
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
    """In the place of the compiled module: every operation is there, and none can be called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """An operation that raises when it is called; the import system's own names are not
        there.
        """
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: object, **__: object) -> NoReturn:
            raise MissingExtraError(
                f"mmcv's compiled {name} was called, mmcv-lite has none",
                advice="install mmcv 2.1.0 with its operations in its place",
            )

        return absent


def import_mmdet() -> types.ModuleType:
    """mmdet, ready to build models, with the stand-in where mmcv was built without operations.

    Raises:
        MissingExtra: it is not installed, or its parts do not load together; names the command.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmcv and mmdet warn about their own imports
            if find_spec("mmcv") is not None and find_spec(EXTENSION) is None:
                _install_stub()
            found = import_module("mmdet")
            import_module("mmdet.utils").register_all_modules(init_default_scope=True)
    except (ImportError, AssertionError) as error:  # mmdet asserts which mmcv it takes
        raise MissingExtraError(
            f"judge mask2former-mmdet needs mmdet 3.3 ({error})", advice=INSTALL
        ) from error
    if isinstance(sys.modules.get(EXTENSION), StubModule):
        vars(import_module("mmcv.ops.multi_scale_deform_attn"))["IS_CUDA_AVAILABLE"] = False
    return found


def _install_stub() -> None:
    module = StubModule(EXTENSION)
    module.__spec__ = ModuleSpec(EXTENSION, None)  # mmengine asks for it
    sys.modules[EXTENSION] = module
