"""The command line's surface: what it offers, what it refuses and how, what a script can read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import Project, tiny

from care_core.spec import PretrainSpec
from carectl import specs
from carectl.app import app

HEAVY = ("torch", "mlflow", "submitit", "torchvision", "sklearn", "matplotlib", "pydantic")
SUBMITTING = {"--backend", "--gpus", "--devices", "--detach", "--dry-run", "--json", "--runs-dir",
              "--data-dir", "--experiment", "--tag"}  # fmt: skip
GRID = {"--profile", "--only", "--seeds"}
SURFACE = {
    "pretrain": SUBMITTING | {"-o", "--upload"},
    "eval": SUBMITTING | {"-o", "--epoch", "--probe", "--plots"},
    "reproduce": SUBMITTING | GRID | {"-o"},
    "report": GRID | {"-o", "--json", "--runs-dir", "--data-dir", "--experiment"},
    "status": {"--watch", "--state", "--json", "--runs-dir"},
    "logs": {"-f", "--rank", "--runs-dir"},
    "cancel": {"--json", "--runs-dir"},
    "retry": {
        "--failed",
        "--backend",
        "--devices",
        "--detach",
        "--dry-run",
        "--json",
        "--runs-dir",
    },
    "import": {"--dataset", "--output", "--json"},
    "export": {"--epoch", "--output", "--onnx", "--json", "--runs-dir"},
    "doctor": {"--json", "--runs-dir", "--data-dir"},
    "bench": {
        "--batch-size",
        "--backbone",
        "--precision",
        "--compile",
        "-o",
        "--repeats",
        "--threads",
        "--scaling",
        "--json",
        "--runs-dir",
    },
    "spec check": {"-o", "--json"},
    "spec show": {"-o", "--json"},
    "spec schema": set(),
    "spec diff": {"-o", "--json", "--runs-dir"},
    "data list": {"--data-dir", "--json"},
    "data prepare": {"--data-dir", "--imagenet"},
    "data verify": {"--data-dir", "--path", "--quick"},
}


def commands() -> dict[str, object]:
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {k}": v for k, v in inner.items()} if inner else {name: command}
    return found


def test_the_surface_is_what_scripts_rely_on() -> None:
    offered = {
        name: {p.opts[0] for p in command.params if p.param_type_name == "option"}  # type: ignore[attr-defined]
        for name, command in commands().items()
    }
    assert offered == SURFACE


def test_every_command_says_what_it_does_with_an_example() -> None:
    for name, command in commands().items():
        assert f"Example: carectl {name}" in command.help, name  # type: ignore[attr-defined]


def test_the_command_line_starts_without_anything_heavy() -> None:
    code = f"import sys, carectl.app\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pretrain", "cifar10/care-simcrl"], 2, "did you mean 'cifar10/care-simclr'"),
        (["pretrain", "cifar10/simclr"], 3, "carectl data prepare cifar10 --data-dir data"),
        (["pretrain", "cifar10/simclr", "--data-dir", "there"], 3, "there/cifar-10-batches-py"),
        (["pretrain", "digits/simclr", "-o", "training.batch_size=2000"], 2,
         "2000 is larger than digits, which has 1437 images"),
        (["pretrain", "digits/care-simclr", "-o", "equivariance.splits=7"], 2,
         "7 splits do not divide the 128 images"),
        (["pretrain", "digits/care-simclr", "-o", "equivariance.weight=-1"], 2, "must be ≥ 0"),
        (["pretrain", "digits/simclr", "--devices", "9"], 3, "GPU 9 is not here"),
        (["pretrain", "digits/simclr", "--tag", "x"], 2, "key=value"),
        (["pretrain", "digits/simclr", "--backend", "cloud"], 2, "one of local, slurm"),
        (["pretrain", "digits/simclr", "--gpus", "2"], 3, "cpu:N for N CPU slots"),
        (["pretrain", "digits/simclr", "--devices", "cpu:0"], 2, "such as cpu:4"),
        (["pretrain", "digits/simclr", "--gpus", "3"], 2, "cannot be shared out to 3 ranks"),
        (["retry"], 2, "give --failed"),
        (["retry", "nothing"], 2, "no run 'nothing'"),
        (["eval", "nothing"], 2, "no run 'nothing'"),
        (["eval", "nothing", "--probe", "linaer"], 2, "must be one of linear, knn, geometry"),
        (["reproduce", "table2"], 2, "no target 'table2', did you mean 'table1'?"),
        (["reproduce", "table1", "--profile", "digit"], 2, "did you mean 'digits'"),
        (["reproduce", "table1", "--profile", "digits", "--seeds", "0,x"], 2, "--seeds 0,x"),
        (["reproduce", "table1", "--profile", "digits", "--only", "BYOL"], 2, "matches nothing"),
        (["status", "nothing"], 2, "carectl status"),
        (["status", "--state", "dead"], 2, "must be one of"),
        (["logs", "nothing"], 2, "no run"),
        (["cancel", "nothing"], 2, "no run"),
        (["data", "prepare", "imagenet"], 3, "no dataset 'imagenet'"),
        (["data", "verify", "stl10"], 3, "stl10_binary/train_X.bin: missing"),
        (["pretrain"], 2, "Missing argument"),
        (["pretrain", "digits/simclr", "--gpu", "1"], 2, "No such option"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_sentence_with_its_exit_code(
    project: Project, arguments: list[str], code: int, said: str
) -> None:
    done = project.carectl(*arguments, code=code)
    assert said in done.stderr
    assert done.stdout == ""
    assert not list(project.runs.glob("*/spec.json"))


def test_a_wrong_spec_shows_every_mistake_at_its_place(project: Project) -> None:
    (project.path / "my.yaml").write_text("name: a\ndata: {name: digits}\nsede: 1\nseed: -1\n")
    done = project.carectl("pretrain", "my.yaml", code=2)
    assert done.stderr.startswith("my.yaml:3:1: sede: unknown key, did you mean 'seed'?\n  sede: 1")
    assert "my.yaml:4:7: seed: must be ≥ 0, not -1\n  seed: -1\n        ^" in done.stderr


def test_a_runs_folder_that_cannot_be_written_is_an_error_of_the_environment(
    project: Project,
) -> None:
    (project.path / "file").write_text("")
    done = project.carectl("pretrain", "digits/simclr", "--runs-dir", "file/runs", code=3)
    assert "file" in done.stderr
    assert "--runs-dir" in done.stderr


def test_a_failed_download_says_what_to_do_by_hand(project: Project) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = project.carectl("data", "prepare", "cifar10", code=3, **nowhere)
    assert "check the network" in done.stderr
    assert "carectl data verify cifar10" in done.stderr


def test_data_list_names_what_is_there_and_what_is_not(project: Project) -> None:
    (project.path / "data/cifar-100-python").mkdir(parents=True)
    for file in ("train", "test", "meta"):
        (project.path / "data/cifar-100-python" / file).write_text("")
    found = {d["name"]: d for d in project.json("data", "list")["datasets"]}
    assert found["digits"]["present"]
    assert found["cifar100"]["present"]
    assert not found["cifar10"]["present"]
    assert found["cifar10"]["detail"] == "data/cifar-10-batches-py is not there"
    shown = project.carectl("data", "list").stdout
    assert "Next: carectl data prepare cifar10" in shown


def test_with_json_stdout_is_one_versioned_object(project: Project) -> None:
    name = project.write(tiny())
    for arguments in (["spec", "check", name], ["spec", "show", name], ["data", "list"],
                      ["status"], ["pretrain", name, "--dry-run"]):  # fmt: skip
        done = project.carectl(*arguments, "--json")
        assert json.loads(done.stdout)["version"] == 1
        assert done.stdout.count("\n") == 1


def test_in_a_pipe_there_are_no_escape_codes(project: Project) -> None:
    done = project.carectl("pretrain", project.write(tiny()))
    assert "\x1b" not in done.stdout + done.stderr
    assert "queued" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("Next: carectl eval ")


def test_a_shown_spec_is_the_whole_spec(project: Project) -> None:
    shown = project.carectl("spec", "show", "cifar10/care-simclr").stdout
    (project.path / "again.yaml").write_text(shown)
    again = specs.load(project.path / "again.yaml")
    assert again == specs.load(specs.find("cifar10/care-simclr"))
    schema = json.loads(project.carectl("spec", "schema").stdout)
    assert set(schema["properties"]) == {*PretrainSpec.model_fields, "official"}


def test_spec_diff_names_what_separates_two_specs(project: Project) -> None:
    done = project.carectl("spec", "diff", "cifar10/simclr", "cifar10/care-simclr")
    assert done.stdout.splitlines() == [
        "equivariance.weight: 0.0 → 0.01",
        "name: cifar10/simclr → cifar10/care-simclr",
    ]


def test_readme_shows_only_commands_and_options_that_exist() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    shown = re.findall(r"^(?:\.venv/bin/)?carectl ([^#\n]*)", text, re.M)
    shown += re.findall(r"`carectl ([^`]*)`", text)
    assert len(shown) > 8
    offered = commands()
    for line in shown:
        words = line.split()
        name = " ".join(words[:2]) if words[0] in ("spec", "data") else words[0]
        assert name in offered, line
        known = {o for p in offered[name].params for o in p.opts}  # type: ignore[attr-defined]
        assert {w for w in words if w.startswith("-")} <= known, line
