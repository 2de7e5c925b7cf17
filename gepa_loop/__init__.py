"""Find the prompt whose distilled student is best."""

from importlib.metadata import version

__version__ = version("gepa-loop")
