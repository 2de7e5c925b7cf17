"""The configuration's tables: frozen models whose docstrings are the reference of every key."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gepa_loop.config.data import FieldsConfig, SplitSizes
from gepa_loop.config.kinds import Name, Positive, Section, refuse_equal_samples


class ModelConfig(Section):
    """The model whose prompts are searched and whose adapter is trained."""

    name: Name = "bundled:smollm2-135m-instruct"
    """A hub id, a local folder, `bundled:smollm2-135m-instruct` or `random:tiny`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU and on processors with bfloat16 arithmetic, float32 on others."""
    device: Name = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N`, or `split`: the layers over all GPUs that torch sees, for a model that one does not hold."""
    system: Literal["none", "empty", "template"] = "none"
    """What a chat without a prompt begins with. `none`: nothing; where the chat template puts a system turn of its own there
    (Qwen 2.5), an empty one, since with that turn the model would not be without a prompt, and a prompt would replace it.
    `empty`: always an empty system turn. `template`: what the template makes of it. A student is to be served as it was trained."""
    date: datetime.date | None = None
    """What chat templates that write the date take for today; by default the day on which a run began."""
    template: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, as `enable_thinking = false`."""


class LoraConfig(Section):
    """The adapter that a student is."""

    rank: Positive = 16
    """Of the adapter of one round; several rounds add theirs."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: Literal["auto"] | tuple[Name, ...] = "auto"
    """Names of the linear layers that get an adapter; `auto`: every linear layer of the model's blocks."""


SCORERS = ("exact", "choice", "includes", "regex", "f1", "json", "model")
"""Names of the rules in `scorers`, and `model`: a judge."""


class CallConfig(Section):
    """How a model behind an API is asked."""

    model: Name
    """Any litellm model string."""
    max_tokens: Positive
    """Longest reply, in tokens. A model that thinks before it writes pays for its thoughts out of these."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest silence of the provider during a call. A full reply takes minutes, and it comes in one piece. One that drips
    may take four times as long in all."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Times that a call is repeated after a failure that may pass (rate limits, overload, timeouts, broken connections),
    with growing pauses."""


class JudgeConfig(CallConfig):
    """A model that scores replies, for `task.scorer = "model"`. Each reply to an item is judged once in a run."""

    max_tokens: Positive = 4096
    """Longest verdict, in tokens, the judge's thoughts included."""
    rubric: Name
    """What a reply is judged by, as a text or, as in `optimize.seed_prompt`, a text file. The judge reads it, the question, the
    expected answer where there is one, and what `extract` reads of the reply."""
    parallel: Positive = 8
    """Calls at a time."""
    max_usd: Annotated[float, Field(gt=0)] = 5.0
    """Budget: US dollars for verdicts in one run. Calls under way when it is reached still end; then the run stops, and goes on
    with a higher one. It is not kept where litellm knows no price of the model."""


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "jsonl": (),
    "json": (),
    "csv": ("delimiter", "encoding"),
    "parquet": (),
    "hf": ("config", "split", "revision"),
    "example": (),
}
"""`task.options` of the kinds that say themselves which they take."""

FILES = ("jsonl", "json", "csv", "parquet")
"""Kinds whose name is the path of a file."""
RECORDS = (*FILES, "hf", "python", "verifiers")
"""Kinds that have a number of records, each with fields of its own."""


class TaskConfig(Section):
    """What is asked, what is expected, and what a reply is worth."""

    kind: Literal[
        "reasoning_gym", "jsonl", "json", "csv", "parquet", "hf", "python", "verifiers", "example"
    ] = "reasoning_gym"
    """Where items come from. `jsonl`: a file with a JSON object in each line; `json`: one with a list of them; `csv`: a table with a
    header, whatever parts its cells; `parquet`; `hf`: a dataset of the Hugging Face hub, or a folder that `datasets` reads; `verifiers`: an
    environment of one turn, whose rewards are the scores."""
    name: Name
    """A reasoning-gym task, the path of a file, the id of a dataset or the path of its folder, `file.py:Name`, `package.module:Name`, an environment,
    or one of the tasks that come with gepa-loop: `router`, `extract`, `policy`, `style`, `desk`, `returns`. Name is a class that extends
    `gepa_loop.Task`, or a function that returns records."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reasoning-gym task, of the factory, of the class or of the environment's taskset; of `csv` `delimiter` and `encoding`, found out without them; of `hf` `config`,
    `split` (without it all splits) and `revision`."""
    fields: FieldsConfig = FieldsConfig()
    group: Name | None = None
    """A field of the records (a customer, a document, a thread): records with the same value never are in two splits, as related
    ones would tell a split's answers to another. A split's last group is cut to the size, and the rest of it not used. Records whose
    questions differ in case and white space alone are such a group without it."""
    extract: Literal["tags", "boxed", "last_number", "last_line", "whole"] = "last_number"
    """How the answer is read from a completion, without it `whole` where a judge or a class of yours scores; `tags` is `<answer>...</answer>`. Nothing is read from a thought,
    `<think>...</think>`. Answers that could not score 1 if a reply gave them word for word are named at load, and nine of
    ten are an error."""
    scorer: Name | None = None
    """What an answer is worth beside the expected one, from 0 to 1, where the task brings no scorer of its own: `exact`, the
    same text or number (the default); `choice`, it names the right one of all answers, which differ in their words, and no other; `includes`, the expected
    answer occurs in it as words and numbers of its own (7 is not in 17); `regex`, the expected answer matches in it; `f1`, of the words; `json`, the share of right fields;
    `model`, what the model of `task.judge` says; or `file.py:function` or `package.module:function` of yours, (record, reply) -> number. `extract`
    says what is read of the reply."""
    judge: JudgeConfig | None = None
    """For `scorer = "model"`."""
    partial: bool = False
    """Hand on the fractions that reasoning-gym's scorers give, often for text around the answer, instead of full marks only."""
    splits: SplitSizes = SplitSizes()

    @model_validator(mode="before")
    @classmethod
    def _judges_read_all(cls, given: Any) -> Any:
        if isinstance(given, dict) and (given.get("scorer") == "model" or given.get("kind") == "verifiers"):
            return {"extract": "whole", **given}
        return given

    @model_validator(mode="after")
    def _judge_is_asked(self) -> TaskConfig:
        if self.scorer == "model" and self.judge is None:
            raise ValueError("scorer = 'model' needs a judge: set judge.model and judge.rubric")
        if self.judge is not None and self.scorer != "model":
            raise ValueError(f"judge is there, and scorer = {self.scorer!r} asks none: set scorer = 'model'")
        return self

    @model_validator(mode="after")
    def _scorer_is_read(self) -> TaskConfig:
        if self.kind == "verifiers" and self.scorer is None and self.extract != "whole":
            raise ValueError(f"extract = {self.extract!r}: an environment's rewards read the whole reply")
        if self.scorer is not None and self.kind == "reasoning_gym":
            raise ValueError(f"scorer = {self.scorer!r}: reasoning-gym's tasks bring their own")
        if self.scorer is not None and ":" not in self.scorer and self.scorer not in SCORERS:
            raise ValueError(
                f"scorer = {self.scorer!r}: neither file.py:function, package.module:function nor one of {', '.join(SCORERS)}"
            )
        if self.partial and self.kind != "reasoning_gym":
            raise ValueError(
                "partial is about reasoning-gym's scorers; other scores are always handed on as they are"
            )
        return self

    @model_validator(mode="after")
    def _options_are_read(self) -> TaskConfig:
        known = OPTIONS.get(self.kind)
        if known is not None and (other := [key for key in self.options if key not in known]):
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise ValueError(f"options.{other[0]} is there, and a {self.kind} task {takes}")
        return self

    @model_validator(mode="after")
    def _records_are_there(self) -> TaskConfig:
        if self.kind == "python" and self.fields != FieldsConfig(split=self.fields.split):
            raise ValueError(
                "fields is there, and a factory gives question and answer itself; only fields.split is read"
            )
        if self.kind not in RECORDS:
            for key, given in (("fields", self.fields != FieldsConfig()), ("group", self.group is not None)):
                if given:
                    raise ValueError(f"{key} is there, and a {self.kind} task has no records of yours")
            if self.splits.shares:
                raise ValueError(
                    f"splits.{next(iter(self.splits.shares))} is a share, and a {self.kind} task makes items without end: "
                    "give a number"
                )
        return self


class VllmConfig(Section):
    """For `engine = "vllm"`."""

    memory: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Share of the GPU's memory for the engine: its own copy of the weights, the adapters, and its cache. Between two
    steps' rollouts training has it back."""


class SamplingConfig(Section):
    """What generates completions, and how."""

    engine: Literal["auto", "torch", "cuda", "vllm"] = "auto"
    """What generates: `torch` is plain PyTorch; `cuda` is fused and needs a GPU and a model of the Llama family;
    `vllm` is vLLM beside the model, which needs the extra of that name. `auto` chooses and says why."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Temperature of the distillation's rollouts. 0 is greedy."""
    max_tokens: Positive = 32
    """Longest completion, in tokens."""
    batch: Positive = 64
    """Most rows generated together, rows of like length in one batch. On a CPU a batch has at most so many times 512
    positions, prompts, padding and completions counted: fewer rows where they are long."""
    canary: Annotated[float, Field(gt=0)] | None = None
    """Nats by which the sampler's log-probabilities may differ, in the mean, from the trained model's on the fixed prompts that
    check a finished student before it is scored, and with vLLM every new adapter; more is an error, and so is what is nearer to
    the model without the adapter, or with the one before it. By default 0.001 in float32 and 0.2 in bfloat16."""
    vllm: VllmConfig = VllmConfig()


class EvaluateConfig(Section):
    """How scores are taken that decide: of the search's finalists, of held-out checks, and of students."""

    samples: Positive = 4
    """Completions for each item, whose mean is its score. Without it 4, or 1 where `temperature` is 0."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """That at which the student will be served; 0 is greedy. Last tables show greedy and sampled scores in any case."""

    @model_validator(mode="before")
    @classmethod
    def _one_greedy_completion(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("temperature") == 0:
            return {"samples": 1, **given}
        return given

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @model_validator(mode="after")
    def _samples_differ(self) -> EvaluateConfig:
        refuse_equal_samples(self.samples, self.temperature)
        return self


class RaceConfig(Section):
    """How the students of a round race (`gepa-loop loop`): all are trained to a rung, and those that are behind there are dropped."""

    on: bool = True
    """Whether they do; else all are distilled to their end."""
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.2, 0.4)
    """Shares of `distill.steps`. A rung is the first held-out check at or after one."""
    behind: Annotated[float, Field(gt=0)] = 2.0
    """A student is dropped that is behind the leader, paired by item, by more than so many standard errors."""
    prompt: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Weight of the prompt's own score beside its student's in what is compared, item by item; 0: students alone."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """And so are the last ones beyond this share of those before the rung; two stay in any case, and who has the same as the leader,
    item by item."""


class LoopConfig(Section):
    """The rounds of `gepa-loop loop`, and what a winner must be."""

    rounds: Positive = 1
    """Searches and races, each on top of the student that won before."""
    front: Positive = 8
    """Most prompts besides the seed that the search of a round hands on: of its front and beyond, by their means on `pareto`.
    Those that help have students, which race; so has the seed prompt where it helps."""
    alpha: Annotated[float, Field(ge=0.001, le=0.5)] = 0.05
    """Chance that a run finds a false winner, at most, of however many rounds. The r-th round, from 1, tests at
    2 alpha / (r (r + 1)), two-sided and after Holm's correction over the students that are tested on `select`: see
    `scores.decision.level_of_round`."""
    min_gap: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """A candidate whose prompt gains no more than this over no prompt, on the items that its student would race on, is not
    distilled. An objective that reads no prompt (`grpo`, or a `teacher_tau` of 0) has one student a round, whatever the prompts
    gain."""
    max_forgetting: Annotated[float, Field(gt=0)] | None = None
    """A student that is further than this from the model of its round on texts that have nothing to do with the task cannot win:
    KL(model || student) in nats a token; the texts are in the module `distill.forgetting`. None: no limit."""
    max_control_loss: Annotated[float, Field(ge=0, le=1)] | None = None
    """A student that scores lower than the model of its round by more than this, on `distill.control`, cannot win. None: no limit."""
