"""The command line's surface: what it offers, what it refuses and how, what a script can read."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import Project, tiny
from rich.console import Console
from rich.style import Style

from care_core.spec import PretrainSpec
from carectl import runs, scaling, specs
from carectl.app import app
from carectl.console import colours, tables

HEAVY = ("torch", "mlflow", "submitit", "torchvision", "sklearn", "matplotlib", "pydantic")


def commands() -> dict[str, object]:
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {k}": v for k, v in inner.items()} if inner else {name: command}
    return found


def test_every_command_says_what_it_does_with_an_example() -> None:
    for name, command in commands().items():
        assert f"Example: carectl {name}" in command.help, name  # type: ignore[attr-defined]


def test_help_is_plain_text_that_fits_60_columns_but_for_examples(project: Project) -> None:
    for command in ([], ["eval"], ["reproduce"], ["bench"]):
        shown = project.carectl(*command, "--help", COLUMNS="60").stdout
        assert "\x1b" not in shown
        wide = [line for line in shown.splitlines() if len(line) > 60]
        assert all(line.startswith("  carectl ") for line in wide), wide
    top = project.carectl("--help").stdout
    assert "Exit codes:" in top and "..." not in top.replace("[ARGS]...", "")


def test_a_reader_that_goes_away_is_no_failed_job(project: Project) -> None:
    script = f"{shlex.join(project.command('spec', 'schema'))} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", f"sleep 0; {script}"], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert (done.stdout, done.stderr) in (("141\n", ""), ("0\n", ""))  # 0: it was read in time


def test_colours_can_be_read_on_black_and_on_white() -> None:
    def luminance(red: int, green: int, blue: int) -> float:
        parts = [((v / 255 + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for style in set(colours.STYLES.values()):
        colour = Style.parse(style).color
        assert colour is not None
        light = luminance(*colour.get_truecolor())
        assert min(1.05 / (light + 0.05), (light + 0.05) / 0.05) >= 3.5, style


def test_status_begins_with_a_summary_and_what_failed(project: Project) -> None:
    plan = [{"run": f"a-{n:012}", "sha256": f"{n:012}" * 5, "kind": "probe"} for n in range(60)]
    scaling.fill(project.runs, plan)
    (project.runs / plan[7]["run"] / "result.json").unlink()
    note = {"message": "no luck", "at": 0}
    (project.runs / plan[7]["run"] / "attempts/1/error.json").write_text(json.dumps(note))
    shown = project.carectl("status").stdout.splitlines()
    assert shown[0] == "60 runs: 1 failed, 59 done"
    assert shown[2].split()[:2] == [plan[7]["run"], "failed"]
    assert len(shown) == 64  # a pipe has all of them
    assert len(project.json("status")["runs"]) == 60


def test_a_narrow_terminal_keeps_ids_and_states(project: Project) -> None:
    scaling.fill(project.runs, [{"run": f"long-{'x' * 30}-0", "sha256": "0" * 64, "kind": "probe"}])
    run = next(runs.listing(project.runs))
    table = tables.status_table([(run, runs.status(run))], 60)
    console = Console(width=60)
    with console.capture() as caught:
        console.print(table)
    assert f"long-{'x' * 30}-0  done" in caught.get()


def test_ui_refuses_in_a_sentence_what_it_cannot_serve(project: Project) -> None:
    (project.path / "mlflow.db").unlink()
    assert "nothing was tracked yet" in project.carectl("ui", code=2).stderr
    (project.path / "mlflow.db").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "give another" in project.carectl("ui", "--port", str(port), code=3).stderr
    address = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    assert "http://127.0.0.1:9" in project.carectl("ui", **address).stdout


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
        (["data", "prepare", "imagenet"], 2, "did you mean 'imagenet100'"),
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
        if words[0] == "--install-completion":  # of carectl itself
            continue
        name = " ".join(words[:2]) if words[0] in ("spec", "data") else words[0]
        assert name in offered, line
        known = {o for p in offered[name].params for o in p.opts}  # type: ignore[attr-defined]
        assert {w for w in words if w.startswith("-")} <= known, line
