"""Making our own transformers classes known to transformers, at no cost where it is never imported.

`import hanmo` is what a command line does before anything else, and importing transformers takes a second. So the
classes are registered when transformers' own table is imported, or at once where that has happened.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."
#: Modules of model classes.
_MODELS = ("hanmo.models.unified.model",)


def _tokenizers(table: ModuleType) -> None:
    from hanmo.tokenizer.forms.segmented import SegmentedTokenizer
    from hanmo.tokenizer.forms.spm_class import HanmoSentencePieceTokenizer
    from hanmo.tokenizer.forms.word import HanmoWordTokenizer

    for cls in (HanmoWordTokenizer, HanmoSentencePieceTokenizer):
        assert issubclass(cls, SegmentedTokenizer)
        table.REGISTERED_TOKENIZER_CLASSES[cls.__name__] = cls


def _configurations(table: ModuleType) -> None:
    from hanmo.models.unified.config import UnifiedConfig

    for cls in (UnifiedConfig,):
        table.AutoConfig.register(cls.model_type, cls)


def _models(table: ModuleType) -> None:
    # These modules register their classes themselves, at their end: where one of them is what is being imported, it is
    # not there yet when it makes transformers import its table.
    for module in _MODELS:
        importlib.import_module(module)


#: Modules of transformers that hold a table -> what puts our classes there.
_TABLES: dict[str, Callable[[ModuleType], None]] = {
    _AUTO + "tokenization_auto": _tokenizers,
    _AUTO + "configuration_auto": _configurations,
    _AUTO + "modeling_auto": _models,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the others find the module, and calls `action` behind its execution."""

    def __init__(self, module: str, action: Callable[[ModuleType], None]) -> None:
        self._module, self._action = module, action

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._action(module)

            spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Register our classes now or when transformers' tables are imported."""
    for module, action in _TABLES.items():
        if module in sys.modules:
            action(sys.modules[module])
        else:
            sys.meta_path.insert(0, _Finder(module, action))
