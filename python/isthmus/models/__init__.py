"""Models: where they lie, whether they are sound, loading them, and the handles to them."""

from pathlib import Path
from typing import Final

BUILTIN_ROOT: Final = Path(__file__).parent / "builtin"
"""The folder of the embedded default model (`chat`) and its draft (`draft`)."""
