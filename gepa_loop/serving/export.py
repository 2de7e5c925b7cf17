"""A student as files for others: an adapter that PEFT opens, merged weights, what to serve them with, and a check of all of it.

Everything that is written is loaded again by the libraries that others will load it with, and its log-probabilities of some replies are compared
with those of the student before the export counts as done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gepa_loop.errors import ConfigError
from gepa_loop.model.base import Base
from gepa_loop.model.bundled import TINY
from gepa_loop.model.device import place_beside
from gepa_loop.model.files import model_place
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.origin import Origin
from gepa_loop.outside.files import found_at
from gepa_loop.run.files import disk_errors, write_json, write_text
from gepa_loop.serving.card import Card, write_card
from gepa_loop.serving.finished import Finished
from gepa_loop.serving.gguf_file import KINDS, check_lora, read_model, write_lora, write_model
from gepa_loop.serving.gguf_layout import pre_tokenizer, shape_of
from gepa_loop.serving.licence import copy_licence
from gepa_loop.serving.lines import serve_lines
from gepa_loop.serving.merge import merged_into
from gepa_loop.serving.ollama import Between, between_of, modelfile
from gepa_loop.serving.places import is_place
from gepa_loop.serving.rank import Ranked, in_rank
from gepa_loop.serving.talk import Talker
from gepa_loop.serving.template import served_template
from gepa_loop.serving.verify import (
    Sample,
    Verdict,
    distance,
    judged,
    read_as_peft,
    read_as_whole,
    reply_logprobs,
    samples_of,
)
from gepa_loop.serving.wanted import Exported, Wanted
from gepa_loop.task.records import Messages

CHECKED = 5
"""Questions whose replies are stored, and compared."""


def export(
    talker: Talker, chats: Sequence[Messages], wanted: Wanted, tell: Callable[[str], None]
) -> Exported:
    """Write a run's student into a folder that is not there yet, or is empty.

    Args:
        talker: The run, loaded.
        chats: Some of the task's questions, whose replies are stored for `check.py`.
        wanted: What is to be written.
        tell: Told what is being done.

    Raises:
        ConfigError: The folder holds something, or the rank cannot be had.
        EnvironmentFault: It cannot be written.
        ModelError: What was written is not the student when it is loaded again.
    """
    from transformers.utils.logging import disable_progress_bar

    folder = wanted.to
    if found_at(folder, Path.exists) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to {folder}: it is not empty", "Name a folder that is not there yet.")
    ranked = in_rank(talker.student, wanted.rank)
    between = _check_gguf(talker, wanted)
    disable_progress_bar()  # of loading and writing, between what is told
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        exported = _export(talker, chats, wanted, tell, ranked)
        if between is not None:
            _write_modelfile(talker, between, wanted)
    except BaseException:
        # Half an export would be taken for a whole one, and keep the same command from being run again.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return exported


def _export(
    talker: Talker,
    chats: Sequence[Messages],
    wanted: Wanted,
    tell: Callable[[str], None],
    ranked: Ranked,
) -> Exported:
    base, folder, student = talker.base, wanted.to, ranked.adapter
    template = served_template(talker.renderer)
    tell("asking the student for replies that are stored")
    samples = samples_of(replace(talker, student=student), chats[:CHECKED])
    lost = None
    if ranked.narrowed:
        kl = distance(talker, talker.student, samples)
        lost = f"KL(student || it) is {kl:.2g} nats a token on stored replies"
    name, said_base = _base_of(base, talker.finished, wanted)
    tell("writing the adapter")
    write_adapter(folder, student, Origin(name, base.origin.weights))
    save_tokenizer(base, folder, template)
    _write_check(folder, samples, talker)
    tell("loading it again with PEFT")
    found: dict[str, Verdict] = {"PEFT": read_as_peft(folder, base, samples)}
    if wanted.merged:
        tell("merging")
        with disk_errors(folder), merged_into(base, student) as model:
            model.save_pretrained(folder / "merged")
        save_tokenizer(base, folder / "merged", template)
        tell("loading it again with transformers")
        found["merged"] = read_as_whole(folder / "merged", base, samples)
    for kind in wanted.gguf:
        tell(f"writing GGUF, {kind}")
        file = folder / f"student-{kind}.gguf"
        if kind == "lora":
            write_lora(student, base.model.config, file)
            check_lora(file, student, base.model.config)
            continue
        with merged_into(base, student) as model:
            write_model(model, base.tokenizer, template, file, kind)
        again = read_model(file, base.model, place_beside(base.model))
        read = [reply_logprobs(again, one.prompt_ids, one.reply_ids) for one in samples]
        found[f"GGUF {kind}"] = judged(f"GGUF {kind}", read, base, samples, merged=True)
    who = f"student in rank {student.rank}" if ranked.narrowed else "student"
    verdicts = ["GGUF lora: read again, every number as the adapter has it"] if "lora" in wanted.gguf else []
    verdicts += [f"{what}: {verdict.sentence(who)}" for what, verdict in found.items()]
    copied = wanted.base is None and is_place(name)
    # The card goes with the folder wherever that is taken.
    moved = serve_lines("base" if copied else name, student.rank, Path("."), wanted)
    card = Card(
        rank=student.rank,
        how=ranked.how,
        lost=lost,
        base=name,
        copied=copied,
        verdicts=tuple(verdicts),
        commands=moved,
    )
    write_card(folder, talker, card)
    copy_licence(base.name, folder)
    said_rank = "; ".join(filter(None, (f" ({ranked.how})" if ranked.how else "", lost)))
    said = [f"adapter: rank {student.rank}{said_rank}; {said_base}", *verdicts]
    return Exported(tuple(said), serve_lines(name, student.rank, folder, wanted))


def _check_gguf(talker: Talker, wanted: Wanted) -> Between | None:
    """Refuse files that cannot be written, before anything is; what stands between turns, for a Modelfile."""
    weights = [kind for kind in wanted.gguf if kind != "lora"]
    for kind in weights:
        if kind not in KINDS:
            raise ConfigError(
                f"--gguf {kind}: not written here",
                f"Written are {', '.join(KINDS)} and lora; llama.cpp's llama-quantize makes others of f16.",
            )
    if wanted.gguf:
        shape_of(talker.base.model.config)
    if weights:
        pre_tokenizer(talker.base.tokenizer)
    if not wanted.ollama:
        return None
    if not weights:
        raise ConfigError("--ollama needs a GGUF file of weights", f"--gguf writes one: {', '.join(KINDS)}.")
    return between_of(talker.renderer)


def _write_modelfile(talker: Talker, between: Between, wanted: Wanted) -> None:
    config = talker.finished.config
    kind = next(kind for kind in wanted.gguf if kind != "lora")
    stops = [talker.base.tokenizer.decode([number]) for number in talker.base.stop_ids]
    text = modelfile(
        f"student-{kind}.gguf", between, stops, config.evaluate.temperature, config.sampling.max_tokens
    )
    write_text(wanted.to / "Modelfile", text)


def _base_of(base: Base, finished: Finished, wanted: Wanted) -> tuple[str, str]:
    """How the base is named for whoever loads the adapter, and a sentence on it; what no hub has is copied."""
    if wanted.base is not None:
        named = str(Path(wanted.base).expanduser()) if is_place(wanted.base) else wanted.base
        return named, f"base {named}, as --base says"
    name = finished.config.model.name
    place = None if name == TINY else model_place(name)
    if place is not None and not found_at(Path(place), Path.is_dir):
        return name, f"base {name} of the Hugging Face hub"
    target = (wanted.to / "base").resolve()
    with disk_errors(target):
        if place is None:
            base.model.save_pretrained(target)
        else:
            shutil.copytree(Path(place), target, ignore=shutil.ignore_patterns("*.gguf", ".*"))
    save_tokenizer(base, target, str(base.tokenizer.get_chat_template()))
    return (
        str(target),
        f"its base is copied into {target.name}/, as {name} has no id on a hub (--base OWNER/NAME names one); where the folder is moved, mend base_model_name_or_path",
    )


def save_tokenizer(base: Base, folder: Path, template: str) -> None:
    """Save a model's tokenizer with a chat template.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """
    import copy

    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    with disk_errors(folder):
        for written in tokenizer.save_pretrained(folder):
            # The tokenizer of a model that was read from GGUF would bring that file along.
            if Path(written).suffix == ".gguf":
                Path(written).unlink()


def _write_check(folder: Path, samples: Sequence[Sample], talker: Talker) -> None:
    from importlib import resources

    write_json(
        folder / "check.json",
        {
            "max_tokens": talker.finished.config.sampling.max_tokens,
            "items": [{"messages": sample.messages, "reply": sample.reply} for sample in samples],
        },
    )
    script = (resources.files("gepa_loop.serving") / "check_student.txt").read_text("utf-8")
    write_text(folder / "check.py", script)
