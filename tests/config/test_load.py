"""Precedence, and errors that name the key, the value and the source."""

import json
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from gepa_loop.config.document import whole_document
from gepa_loop.config.explain import SYNONYMS, all_keys
from gepa_loop.config.layers import presets
from gepa_loop.config.load import load_config
from gepa_loop.config.objectives import FullKL, TokenKL
from gepa_loop.config.tables import ModelConfig, TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, ModelError, TaskError
from gepa_loop.lab import seed_prompt, seed_source
from gepa_loop.model.base import load_base
from gepa_loop.task import examples
from gepa_loop.task.items import load_task


def test_every_preset_loads() -> None:
    assert {"demo", "smoke"} <= set(presets())
    for name, about in presets().items():
        load_config(name, env={})
        assert len(about) > 20


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "smoke"\n[distill]\nlr = 0.2\nsteps = 7\ngroup = 2\n')
    env = {
        "GEPA_LOOP_DISTILL__LR": "0.3",
        "GEPA_LOOP_DISTILL__STEPS": "8",
        "GEPA_LOOP_CACHE": "/x",
        "OTHER": "1",
    }
    config = load_config(str(file), ["distill.lr=4e-1"], env)
    assert (config.distill.lr, config.distill.steps, config.distill.group) == (0.4, 8, 2)
    assert config.distill.rollouts == load_config("smoke", env={}).distill.rollouts


def test_the_default_is_the_local_file_then_the_demo(tmp_path: Path) -> None:
    assert load_config(env={}, cwd=tmp_path) == load_config("demo", env={})
    (tmp_path / "gepa-loop.toml").write_text('preset = "smoke"\nseed = 5\n')
    assert load_config(env={}, cwd=tmp_path).seed == 5


def test_a_files_paths_start_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "seed.txt").write_text("Hello.")
    (tmp_path / "c.toml").write_text('preset = "smoke"\n[optimize]\nseed_prompt = "seed.txt"\n')
    config = load_config(str(tmp_path / "c.toml"), env={}, cwd=Path("/"))
    assert config.optimize.seed_prompt is None
    assert config.optimize.seed_prompt_file == str(tmp_path / "seed.txt")


LONG = "Say it in one line. " * 20  # 400 bytes: too long for a file's name
CHINESE = "\u8bf7\u7528\u4e00\u53e5\u8bdd\u56de\u7b54" * 12


@pytest.mark.parametrize(
    "text",
    [
        "Answer.",
        "Answer the question.",
        "Say yes or no: a/b?",
        LONG.strip(),
        CHINESE,
        "x" * 900,
        "a/b\nc.txt",
        "Yes.No.",
        "v1.5",
        "请回答是/否。",
        "请只给出答案/数字",
    ],
)
def test_a_text_is_a_text_wherever_it_is_read(tmp_path: Path, text: str) -> None:
    if len(text) < 40 and "/" not in text:
        (tmp_path / text).write_text("a file of that very name")
    config = load_config("smoke", [f"optimize.seed_prompt={json.dumps(text)}"], env={}, cwd=tmp_path)
    assert (config.optimize.seed_prompt, config.optimize.seed_prompt_file) == (text, None)
    assert (
        seed_prompt(config.optimize).text == text and seed_source(config.optimize) == "optimize.seed_prompt"
    )


@pytest.mark.parametrize(
    "name",
    [
        "prompts/roter.txt",
        "roter.txt",
        "my notes.MD",
        "prompts/roter",
        "/nowhere/x",
        "../x",
        "roter.jinja",
        "提示/路由.txt",
    ],
)
def test_what_looks_like_a_file_is_one_or_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--set .*: optimize.seed_prompt = '.*': there is no such file"
    ) as caught:
        load_config("smoke", [f"optimize.seed_prompt={name}"], env={}, cwd=tmp_path)
    assert caught.value.exit_code == 2
    path = tmp_path / "inner" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not name.startswith("/"):
        path.write_text("Hello.")
        config = load_config("smoke", [f"optimize.seed_prompt={name}"], env={}, cwd=tmp_path / "inner")
        assert seed_prompt(config.optimize).text == "Hello." and seed_source(config.optimize) == str(
            path.resolve()
        )


@pytest.mark.parametrize("text", ["yes/no.jinja", "Answer/number", "Read notes.txt"])
def test_a_text_that_looks_like_a_path_can_be_given_as_one_as_the_hint_says(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as caught:
        load_config("smoke", [f"optimize.seed_prompt={text}"], env={}, cwd=tmp_path)
    assert "optimize.seed_prompt_file, or write a space behind it" in caught.value.hint
    spaced = load_config("smoke", [f"optimize.seed_prompt={text} "], env={}, cwd=tmp_path)
    assert seed_prompt(spaced.optimize).text == text
    (tmp_path / "p").write_text(text)
    named = load_config("smoke", ["optimize.seed_prompt_file=p"], env={}, cwd=tmp_path)
    assert seed_prompt(named.optimize).text == text


def test_the_seed_prompts_file_has_a_key_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain name").write_text("Hello.")
    config = load_config("smoke", ["optimize.seed_prompt_file=plain name"], env={}, cwd=tmp_path)
    assert seed_prompt(config.optimize).text == "Hello."
    # The last source decides, whichever key it uses.
    (tmp_path / "c.toml").write_text('preset = "smoke"\n[optimize]\nseed_prompt_file = "plain name"\n')
    own = load_config("c.toml", ["optimize.seed_prompt=Another text."], env={}, cwd=tmp_path)
    assert (own.optimize.seed_prompt, own.optimize.seed_prompt_file) == ("Another text.", None)
    for sets, message in (
        (["optimize.seed_prompt_file=none"], "optimize.seed_prompt_file = 'none': there is no such file"),
        (["optimize.seed_prompt=A b.", "optimize.seed_prompt_file=plain name"], "both are given"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("smoke", sets, env={}, cwd=tmp_path)
    (tmp_path / "none.toml").write_text('[task]\nname = "lcm"\n[optimize]\nminibatch = 2\n')
    with pytest.raises(ConfigError, match=r"optimize.seed_prompt is required: a search starts from a prompt"):
        seed_prompt(load_config("none.toml", env={}, cwd=tmp_path).optimize)


def test_names_too_long_for_a_file_are_no_traceback(tmp_path: Path) -> None:
    config = load_config("smoke", ["task.kind=jsonl", f"task.name={'x' * 300}"], env={}, cwd=tmp_path)
    with pytest.raises(TaskError, match="File name too long"):
        load_task(config.task, 0)
    with pytest.raises(ConfigError, match="neither a file nor a preset"):
        load_config("y" * 300, env={}, cwd=tmp_path)
    with pytest.raises(ModelError, match=r"x{300}"):
        load_base(ModelConfig(name="x" * 300))


def test_section_texts_belong_to_their_task(tmp_path: Path) -> None:
    assert load_config("smoke", env={}).optimize.reflection.sections
    assert load_config("smoke", ["task.options.max_value=50"], env={}).optimize.reflection.sections
    assert load_config("smoke", ["task.name=gcd"], env={}).optimize.reflection.sections == ()
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "c.toml").write_text(
        'preset = "smoke"\n[task]\nkind = "jsonl"\nname = "t.jsonl"\n'
        '[optimize.reflection]\nsections = [{ mends = "cut", text = "Own." }]\n'
    )
    config = load_config("c.toml", ["task.splits.test=9"], env={}, cwd=tmp_path)
    assert [one.text for one in config.optimize.reflection.sections] == ["Own."]


def test_a_newer_file_of_the_same_kind_has_the_same_fields(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[task]\nkind = "csv"\nname = "a.csv"\ngroup = "who"\nfields = { system = "drop" }\n'
    )
    newer = load_config("c.toml", ["task.name=b.csv"], env={}, cwd=tmp_path).task
    assert (newer.group, newer.fields.system) == ("who", "drop")
    other = load_config("c.toml", ["task.name=b.jsonl", "task.kind=jsonl"], env={}, cwd=tmp_path).task
    assert (other.group, other.fields.system) == (None, "keep")
    with pytest.raises(ConfigError, match="a factory gives question and answer itself"):
        load_config(
            "c.toml", ["task.kind=python", "task.name=m:f", "task.fields.after=x"], env={}, cwd=tmp_path
        )


def test_a_jsonl_task_has_no_options(tmp_path: Path) -> None:
    sets = ["task.kind=jsonl", "task.name=t.jsonl", "task.options.shuffle=true"]
    with pytest.raises(ConfigError, match=r"--set task.options.shuffle=true: .*a jsonl task takes none"):
        load_config("smoke", sets, env={}, cwd=tmp_path)
    # Those of the preset's own task are not meant for it.
    assert load_config("smoke", sets[:2], env={}, cwd=tmp_path).task.options == {}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["distil.lr=1"], r"--set distil.lr=1: unknown key distil; the nearest is distill"),
        (["distill.lrr=1"], r"unknown key distill.lrr; the nearest is distill.lr"),
        (["distill.learning_rate=1e-4"], "unknown key distill.learning_rate; the nearest is distill.lr$"),
        (["distill.max_grad_norm=1"], "the nearest is distill.max_norm$"),
        (["sampling.batch_size=8"], "the nearest is sampling.batch$"),
        (["distill.batch_size=8"], "the nearest is distill.rollouts$"),
        (["lora.r=8"], "the nearest is lora.rank$"),
        (["distill.lr=fast"], r"--set distill.lr=fast: distill.lr = 'fast'"),
        (["distill.lr=nan"], "distill.lr"),
        (["distill.group=3"], r"rollouts \(8\) must be a multiple of group \(3\)"),
        (["distill.steps"], "not of the form key.path=value"),
        (["task.splits.tset=3"], "nearest is task.splits.test"),
        (["model.dtype=int8"], "model.dtype = 'int8'"),
    ],
)
def test_bad_values_name_key_value_and_source(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("smoke", sets, env={})
    assert caught.value.exit_code == 2


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file nor a preset") as caught:
        load_config("smke", env={})
    assert "Did you mean smoke?" in caught.value.hint
    with pytest.raises(ConfigError, match=r"GEPA_LOOP_DISTILL__LRR: unknown key distill\.lrr"):
        load_config("smoke", env={"GEPA_LOOP_DISTILL__LRR": "1"})
    (tmp_path / "broken.toml").write_text("[distill\n")
    with pytest.raises(ConfigError, match=r"broken.toml: not valid TOML"):
        load_config(str(tmp_path / "broken.toml"), env={})
    (tmp_path / "typo.toml").write_text('preset = "smoke"\n[optimize.reflection]\nmodle = "x"\n')
    with pytest.raises(
        ConfigError, match=r"typo.toml: unknown key optimize.reflection.modle; .* optimize\.reflection\.model"
    ):
        load_config(str(tmp_path / "typo.toml"), env={})


def test_another_task_does_not_inherit_the_presets_options() -> None:
    assert load_config("smoke", env={}).task.options
    assert load_config("smoke", ["task.name=chain_sum"], env={}).task.options == {}
    kept = load_config("smoke", ["task.options.max_value=20"], env={}).task.options
    assert kept == {"min_value": 1, "max_value": 20}


def test_all_keys_reach_the_leaves() -> None:
    assert {"seed", "distill.lr", "task.splits.train", "optimize.reflection.model"} <= set(all_keys())


@pytest.mark.parametrize("section", ["optimize", "evaluate"])
def test_equal_samples_are_refused(section: str) -> None:
    greedy = [f"{section}.samples=4", f"{section}.temperature=0.0"]
    with pytest.raises(ConfigError, match=rf"{section}.*4 equal completions"):
        load_config("demo", greedy, env={})
    load_config("demo", [f"{section}.samples=4", f"{section}.temperature=0.7"], env={})


def test_the_sampled_mean_decides_by_default_and_greedy_is_one_completion() -> None:
    plain = load_config("smoke", env={}).evaluate
    assert (plain.samples, plain.temperature, plain.greedy) == (4, 1.0, False)
    greedy = load_config("smoke", ["evaluate.temperature=0"], env={}).evaluate
    assert (greedy.samples, greedy.temperature, greedy.greedy) == (1, 0.0, True)
    assert load_config("smoke", ["evaluate.samples=2"], env={}).evaluate.samples == 2


def test_every_recipe_names_its_source() -> None:
    folder = resources.files("gepa_loop.config") / "presets"
    for name in presets():
        text = (folder / f"{name}.toml").read_text("utf-8")
        assert name in ("demo", "sums", "smoke", *examples.NAMES) or "\n# Source: " in text, name


def test_a_preset_may_build_on_another() -> None:
    plain, hybrid = load_config("sokoban-qwen3-4b", env={}), load_config("sokoban-hybrid", env={})
    assert hybrid.objective.adv_tau == 0.5 and plain.objective.adv_tau == 0
    assert hybrid.model_copy(update={"objective": plain.objective}) == plain


def test_another_objective_does_not_inherit_the_presets_keys() -> None:
    config = load_config("opsd", ["objective.type=token_kl", "objective.discount=0.5"], env={})
    assert isinstance(config.objective, TokenKL) and config.objective.discount == 0.5
    same = load_config("opsd", ["objective.type=full_kl", "objective.clip=0.1"], env={})
    assert isinstance(same.objective, FullKL) and (same.objective.clip, same.objective.divergence) == (
        0.1,
        "forward_kl",
    )
    assert load_config("sdft", ["teacher.kind=live"], env={}).teacher.privileged == ""


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["objective.type=kl"], "objective.type = 'kl': there are full_kl, token_kl"),
        (
            ["objective.type=sft", "objective.beta=0.5"],
            "objective.beta does not belong to objective.type = 'sft'",
        ),
        (["objective.bta=0.5"], "unknown key objective.bta; the nearest is objective.beta"),
        (["teacher.rate=0.5"], "teacher.rate does not belong to teacher.kind = 'base'"),
        (["teacher.kind=adapter"], "teacher.path is required"),
        (["teacher.privileged_text=look"], "teacher.privileged_text = 'look': it must hold {value}"),
        (["objective.type=token_kl", "distill.on_policy=0.5"], "objective token_kl needs 1"),
        (["loop.max_control_loss=0.1"], "max_control_loss = 0.1: there is no distill.control"),
        (
            ["distill.lr=1", "objective.type=sft", "distill.on_policy=1"],
            "--set distill.on_policy=1: distill.on_policy = 1.0: objective sft needs 0",
        ),
        (["objective.type=grpo", "distill.group=1"], "distill.group must be 2 or more"),
        (["objective.type=sequence_kl", "distill.group=1"], "distill.group must be 2 or more"),
        (
            [
                "objective.type=sequence_kl",
                "objective.kl_std=true",
                "objective.use_full_reward_baseline=false",
            ],
            "kl_std = true needs",
        ),
        (
            ["objective.type=token_kl", "objective.student=trainer", "objective.discount=1"],
            "neither a discount",
        ),
        (["objective=grpo"], "it is a table; set objective.type"),
        (["objective=grpo", "objective.adv_tau=1"], "it is a table; set objective.type"),
        (["distill=4"], "--set distill=4: distill = 4: it is a table; set distill.KEY"),
        (["objective.type=grpo", "objective.adv_tau=0"], "= 0: nothing is trained"),
        (["teacher.kind=server", "teacher.url=localhost", "teacher.name=x"], "must begin with http://"),
        (["objective.token_mask=[8, 0.1]"], "the lower bound comes first"),
        (["objective.token_mask=8"], "objective.token_mask = 8: input should be a list"),
        (["objective.type=sft", "objective.adv_tau=1"], "sft imitates and takes no reward"),
        (["objective.type=grpo", "teacher.kind=live"], "objective grpo reads no teacher"),
        (["sampling.temperature=0"], "distill.group = 4 at sampling.temperature 0 are 4 equal completions"),
        (["objective.skip_tokens=8"], "leaves no token to train"),
        (
            ["distill.updates=9"],
            "--set distill.updates=9: distill: updates (9) is over the number of groups (2)",
        ),
        (["distill.horizon=[[1, 4]]"], "must begin with 0"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", sets, env={})
    assert message in str(caught.value)


def test_the_order_of_flags_and_of_the_environment_does_not_matter() -> None:
    sets = ["objective.discount=0.5", "objective.type=token_kl", "task.options.max_value=9", "task.name=gcd"]
    one, other = (load_config("smoke", found, env={}) for found in (sets, sets[::-1]))
    assert one == other and one.task.options == {"max_value": 9}
    assert isinstance(one.objective, TokenKL) and one.objective.discount == 0.5
    env = {"GEPA_LOOP_OBJECTIVE__KL_TAU": "0.5", "GEPA_LOOP_OBJECTIVE__TYPE": "grpo"}
    found = load_config("sdft", ["teacher.kind=base"], env=env).objective
    assert found.type == "grpo" and found.kl_tau == 0.5


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(str(file), env={})
    file.write_text('preset = ["demo"]')
    with pytest.raises(ConfigError, match="is no preset"):
        load_config(str(file), env={})


@pytest.mark.timeout(20)
def test_a_file_of_settings_has_an_end_and_a_depth(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"seed = 1 #" + b" " * 2**20)
    with pytest.raises(
        ConfigError, match=r"mine.toml: it has 1,048,586 bytes, and at most 1,048,576 are read"
    ):
        load_config(str(file), env={})
    for text, message in (
        ("seed = " + "[" * 10**5, "nested too deeply"),
        ("seed = " + "9" * 5_000, "4300 digits"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=rf"mine.toml: not valid TOML: .*{message}"):
            load_config(str(file), env={})
        # As a value of a flag it is a text, which is no seed.
        with pytest.raises(ConfigError, match=r"--set seed="):
            load_config("smoke", [text.replace(" ", "")], env={})


def test_a_search_for_students_takes_its_own_values_for_what_nobody_set() -> None:
    plain = load_config("router", ["seed=1"], env={})
    assert plain.for_aim("prompt") is plain
    taken = plain.for_aim("student").optimize
    assert (taken.accept, taken.accept_margin, taken.brevity, taken.max_prompt_tokens) == (
        "margin",
        0,
        0,
        4096,
    )
    # 100 items of pareto for the seed; 8 accepted at 2 x 8 and 100; 24 rejected at 2 x 8.
    assert taken.max_rollouts == 100 + 8 * 116 + 24 * 16
    assert plain.optimize.accept == "test" and plain.optimize.max_rollouts == 400
    others = {key for key, value in taken if value != getattr(plain.optimize, key)}
    assert others == {"accept", "brevity", "max_prompt_tokens", "max_rollouts"}
    own = ["accept='test'", "brevity=0.2", "max_prompt_tokens=99", "max_rollouts=300"]
    sets = load_config("router", [f"optimize.{one}" for one in own], env={})
    assert sets.for_aim("student").optimize == sets.optimize
    assert plain.for_aim("student").for_aim("student") == plain.for_aim("student")


def test_the_default_search_for_students_costs_what_its_key_says() -> None:
    assert Config(task=TaskConfig(name="lcm")).for_aim("student").optimize.max_rollouts == 1088
    demo = load_config("demo", env={})
    assert demo.loop.front == 4 and demo.for_aim("student").optimize.max_rollouts == 576


def test_a_size_is_a_number_or_a_share(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[task]\nkind = "jsonl"\nname = "t.jsonl"\n[task.splits]\ntest = 1.0\n')
    for given in ("1.0", "10.0", "0.0", "-0.5", "1.5"):
        sets = ["task.kind=jsonl", "task.name=t.jsonl", f"task.splits.test={given}"]
        with pytest.raises(ConfigError) as caught:
            load_config("smoke", sets, env={}, cwd=tmp_path)
        assert str(caught.value) == (
            f"--set {sets[-1]}: task.splits.test = {given}: neither a whole number nor a share, which lies between 0 and 1"
        )
    with pytest.raises(ConfigError, match=r"t\.toml: task\.splits\.test = 1\.0: neither"):
        load_config("t.toml", env={}, cwd=tmp_path)
    splits = load_config("smoke", [*sets[:2], "task.splits={train=0.5,test=3}"], env={}).task.splits
    assert (splits.shares, splits.test) == ({"train": 0.5}, 3)


def test_shares_are_shown_in_their_places() -> None:
    sets = ["task.kind=jsonl", "task.name=t.jsonl", "task.splits={train=0.5,race=0.1,select=3}"]
    config = load_config("smoke", sets, env={})
    shown = config.model_dump(mode="json")["task"]["splits"]
    assert shown == {"train": 0.5, "pareto": shown["pareto"], "race": 0.1, "select": 3, "test": shown["test"]}
    assert '"train":0.5' in config.model_dump_json() and "shares" not in config.model_dump_json()
    # A document has them, too, and means the same.
    assert "train = 0.5\n" in whole_document(config) and "shares =" not in whole_document(config)
    again = load_config(tomllib.loads(whole_document(config)), env={})
    assert again.task == config.task and again.task.splits.shares == {"train": 0.5, "race": 0.1}
    # A run's config.json of before has a key for them.
    assert (
        load_config({"task": {"name": "lcm", "splits": {"test": 4, "shares": {}}}}, env={}).task.splits.test
        == 4
    )


def test_what_other_trainers_call_a_key_is_a_key_here() -> None:
    assert set(SYNONYMS.values()) <= set(all_keys())
    assert not {key.rpartition(".")[2] for key in all_keys()} & set(SYNONYMS)
