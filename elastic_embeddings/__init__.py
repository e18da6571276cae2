"""Embeddings that grow with the ids, on stock TensorFlow.

A host index maps int64 keys to rows of vectors; optimizers with group lasso set rows of useless
keys to zero. `ElasticTable` is the table, `ElasticEmbedding` the same as a Keras layer.

Importing this package loads neither TensorFlow nor numba nor NumPy: each public name is imported
when it is first used.
"""

import re
from importlib import import_module
from pathlib import Path

# The stub lists every public name with its module, for type checkers and for this file. That is the
# method of lazy_loader (scientific-python.org/specs/spec-0001), without the dependency.
_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULES = {
    name: module for module, name in re.findall(r"^from (\S+) import (\w+) as", _STUB, re.MULTILINE)
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
