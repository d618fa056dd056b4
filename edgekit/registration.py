"""Makes `from_pretrained` know the IR after `import edgekit`, without importing transformers for it.

The command line must start in a third of a second and transformers takes seconds, so `import edgekit` cannot import it.
Where transformers is loaded already the classes are registered at once; otherwise a finder on `sys.meta_path` waits for
transformers' own auto modules and registers right after each has been executed. See docs/adr/0005-registration.md.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

CONFIG_MODULE = "transformers.models.auto.configuration_auto"
MODEL_MODULE = "transformers.models.auto.modeling_auto"


def _register_config() -> None:
    from transformers import AutoConfig

    from edgekit.ir.config import EdgekitConfig

    AutoConfig.register(EdgekitConfig.model_type, EdgekitConfig, exist_ok=True)


def _register_model() -> None:
    from transformers import AutoModelForSequenceClassification

    from edgekit.ir.config import EdgekitConfig
    from edgekit.ir.encoder import EdgekitForSequenceClassification

    AutoModelForSequenceClassification.register(EdgekitConfig, EdgekitForSequenceClassification, exist_ok=True)


_WAITING = {CONFIG_MODULE: _register_config, MODEL_MODULE: _register_model}


class _Loader(importlib.abc.Loader):
    """Runs a module's own loader, then registers."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _WAITING[module.__name__]()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds only the two auto modules, with whatever finder comes after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _WAITING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Registers the IR's classes now where transformers is loaded, else as soon as it is."""
    for name, register in _WAITING.items():
        if name in sys.modules:
            register()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
