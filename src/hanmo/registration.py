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

_AUTO, _LAYERS = "transformers.models.auto.", "transformers.modeling_layers"
#: Modules of model classes.
_MODELS = (
    "hanmo.models.linglong.modeling",
    "hanmo.models.unified.model",
    "hanmo.models.megatron_t5.model",
)


def _tokenizers(table: ModuleType) -> None:
    from hanmo.tokenizer.forms.segmented import SegmentedTokenizer
    from hanmo.tokenizer.forms.spm_class import HanmoSentencePieceTokenizer
    from hanmo.tokenizer.forms.word import HanmoWordTokenizer

    for cls in (HanmoWordTokenizer, HanmoSentencePieceTokenizer):
        assert issubclass(cls, SegmentedTokenizer)
        table.REGISTERED_TOKENIZER_CLASSES[cls.__name__] = cls


def _configurations(table: ModuleType) -> None:
    from hanmo.models.linglong.configuration import LingLongConfig
    from hanmo.models.megatron_t5.config import MegatronT5Config
    from hanmo.models.unified.config import UnifiedConfig

    for cls in (LingLongConfig, UnifiedConfig, MegatronT5Config):
        table.AutoConfig.register(cls.model_type, cls)


def _model_tables(table: ModuleType) -> None:
    # Our classes need this module, which imports the tables itself: they are registered when all of it is there.
    if _LAYERS not in sys.modules:
        importlib.import_module(_LAYERS)


def _models(layers: ModuleType) -> None:
    # These modules register their classes themselves, at their end: one of them may be what is being imported.
    for module in _MODELS:
        importlib.import_module(module)


#: Modules of transformers -> what puts our classes into their tables, in the order in which that is looked at.
_TABLES: dict[str, Callable[[ModuleType], None]] = {
    _AUTO + "tokenization_auto": _tokenizers,
    _AUTO + "configuration_auto": _configurations,
    _LAYERS: _models,
    _AUTO + "modeling_auto": _model_tables,
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
