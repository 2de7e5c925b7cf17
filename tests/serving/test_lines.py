"""Lines for a shell, as a shell reads them."""

from __future__ import annotations

import shlex
from pathlib import Path

from gepa_loop.serving.lines import serve_lines
from gepa_loop.serving.wanted import Wanted

FOLDER = Path("/tmp/my ex; echo 'x'")


def test_a_folder_of_any_name_is_one_word() -> None:
    wanted = Wanted(FOLDER, merged=True, gguf=("lora", "f16"), ollama=True)
    lines = serve_lines("my base", 8, FOLDER, wanted)
    adapter, merged, check, llama, ollama = map(shlex.split, lines)
    assert adapter[:3] == ["vllm", "serve", "my base"] and f"student={FOLDER}" in adapter
    assert adapter[-1] == f"{FOLDER}/chat_template.jinja"
    assert merged == ["vllm", "serve", f"{FOLDER}/merged"] and check == ["python", f"{FOLDER}/check.py"]
    assert llama == ["llama-server", "-m", f"{FOLDER}/student-f16.gguf", "--jinja"]
    assert ollama[:6] == ["ollama", "create", "student", "-f", f"{FOLDER}/Modelfile", "&&"]
    assert lines[-1].endswith(" && ollama run student")


def test_vllm_is_told_a_rank_that_it_takes() -> None:
    for rank, told in ((1, "1"), (3, "8"), (8, "8"), (300, "320"), (512, "512")):
        words = shlex.split(serve_lines("b", rank, Path("x"), Wanted(Path("x")))[0])
        assert words[words.index("--max-lora-rank") + 1] == told
    assert serve_lines("b", 513, Path("x"), Wanted(Path("x"))) == ("python x/check.py",)
