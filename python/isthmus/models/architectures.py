"""What model types and tokenizer modules the installed mlx-lm has, without importing it.

Importing mlx_lm takes 0.8 s and starts mlx on the calling thread, so its folders are listed and its
two tables of renamed types are parsed out of `utils.py` instead. The answer names the module that
mlx-lm would import.

Not known here: the model folder, and whether a module can build what a configuration asks for.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelLoadFailed

MODULE_SETTINGS: Final = {
    "chat_template_type": "chat_templates",
    "tool_parser_type": "tool_parsers",
}
"""Fields of tokenizer_config.json that name a module, and the package of mlx_lm it lies in."""

MODULE_NAME: Final = re.compile(r"[a-z0-9_]{1,128}")
"""What such a field may hold; mlx-lm hands it to `importlib`, so a dot would lead elsewhere."""

_DEFINES_MODEL: Final = re.compile(r"(?m)^(class Model\b|Model *=|from \S+ import .*\bModel\b)")


@dataclass(frozen=True, slots=True)
class Architectures:
    """The model types and tokenizer modules of the installed mlx-lm, read without importing it."""

    folder: Path
    renamed: Mapping[str, str]
    renamed_by_class: Mapping[tuple[str, str], str]

    def module_of(self, config: Mapping[str, Any]) -> str | None:
        """Name the module that mlx-lm would import for a configuration, or None.

        Follows `_get_classes` of mlx_lm.utils.
        """
        model_type = str(config.get("model_type"))
        classes = config.get("architectures")
        classes = classes if isinstance(classes, list) else [classes]
        names = (self.renamed_by_class.get((model_type, str(name))) for name in classes)
        renamed = next(filter(None, names), self.renamed.get(model_type, model_type))
        return renamed if self._defines_model(renamed) else None

    def has_module(self, package: str, name: str) -> bool:
        """Tell whether mlx_lm.<package> has that module, in exactly that spelling."""
        folder = self.folder / package
        return folder.is_dir() and f"{name}.py" in os.listdir(folder)

    def _defines_model(self, name: str) -> bool:
        # Beside the architectures lie helpers (cache, base, ...) that define no model.
        if not self.has_module("models", name):
            return False
        source = (self.folder / "models" / f"{name}.py").read_text("utf-8")
        return _DEFINES_MODEL.search(source) is not None


@functools.cache
def installed_architectures() -> Architectures:
    """Read the installed mlx-lm's model types from its files.

    Raises:
        ModelLoadFailed: Cause `unsupported_type`: mlx-lm is not installed.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        raise ModelLoadFailed(
            "mlx_lm is not installed; run isthmus doctor.", phase="load", cause="unsupported_type"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    tables: dict[str, Any] = {}
    for node in ast.parse((folder / "utils.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("MODEL_REMAPPING", "MODEL_ARCHITECTURE_REMAPPING"):
                tables[name] = ast.literal_eval(node.value)
    return Architectures(
        folder,
        tables.get("MODEL_REMAPPING", {}),
        tables.get("MODEL_ARCHITECTURE_REMAPPING", {}),
    )
