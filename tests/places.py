"""Where the repository lies, and what tests share."""

from pathlib import Path

HELPERS = Path(__file__).parent
ROOT = HELPERS.parent
