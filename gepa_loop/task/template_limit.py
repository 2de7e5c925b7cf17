"""Whether a chat template comes to an end: it is a program of whoever made the model.

Jinja's sandbox keeps a template from the machine, but not from running for ever: `range` stops at 100,000, two of them in
each other do not, and neither do macros that call each other or a text times 10^10. No thread and no signal ends that
everywhere, so a foreign template is first rendered in a process of its own, which can be killed. What only begins to loop
with a certain item, or with template arguments, is not found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from gepa_loop.errors import ModelError

SECONDS = 20.0
"""For templates that need milliseconds; the process starts in a fifth of a second."""

BYTES = 2 * 10**9
"""Memory of that process."""

CHARACTERS = 10**6
"""Of the longest text that a chat of three words may become."""

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag of transformers' own, which changes nothing of the text."""

_RENDER = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
except (ImportError, OSError, ValueError):
    pass
import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
source = json.load(sys.stdin)
chats = [["user"], ["system", "user"], ["user", "assistant"]]
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
def refuse(message):
    raise jinja2.TemplateError(message)
environment.globals.update(raise_exception=refuse, strftime_now=lambda form: "1999-01-01")
longest = 0
for roles in chats:
    for generate in (True, False):
        turns = [{"role": role, "content": "QUESTION"} for role in roles]
        try:
            text = environment.from_string(source).render(
                messages=turns, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>"
            )
            longest = max(longest, len(text))
        except MemoryError:
            longest = -1
            break
        except Exception:
            pass  # it refuses these turns, or knows more than this environment: that is found out later
print(longest)
"""


def check_template_ends(name: str, source: str, seconds: float = SECONDS) -> None:
    """Refuse a chat template that does not end, or that makes far too much of a few words.

    Args:
        name: The model's, for the message of an error.
        source: The template.
        seconds: Longest time.

    Raises:
        ModelError: It took longer, more memory than `BYTES`, or made more than `CHARACTERS`.
    """
    program = _RENDER.replace("BYTES", str(BYTES))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            input=json.dumps(_GENERATION.sub("", source)),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"did not end in {seconds:g} seconds"
    else:
        if done.returncode > 0:
            return  # nothing is known: the process could not begin
        longest = -1 if done.returncode else int(done.stdout)
        if 0 <= longest <= CHARACTERS:
            return
        large = f"makes {longest:,} characters of a few words"
        why = f"takes more than {BYTES / 1e9:g} GB" if longest < 0 else large
    raise ModelError(
        f"model.name = {name!r}: its chat template {why}",
        "Use another copy of the model, or mend chat_template in its tokenizer_config.json or chat_template.jinja.",
    )
