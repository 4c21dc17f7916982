"""Every command ends with one next step, which can be copied, and which never is in the way."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import tiny
from rich.console import Console

from carectl import scaling, specs
from carectl.app import main
from carectl.console import progress, steps, tables
from carectl.console.clean import PlainConsole
from carectl.console.output import Output
from carectl.identity import Identity
from carectl.plan import Planned
from carectl.runs import Run, Status

TRAINED, PROBED, FAILED = (
    "digits-care-simclr-s0-0123456789ab",
    "probe-digits-care-simclr-s0-ba9876543210",
    "digits-simclr-s0-aaaaaaaaaaaa",
)


class Told(NamedTuple):
    """What a command printed and how it ended."""

    out: str
    err: str
    code: int


Ask = Callable[[str], Told]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in a project with a done pretraining, a probe of it and one that failed."""
    monkeypatch.chdir(tmp_path)
    plan = [
        {"run": name, "sha256": name[-12:] * 5, "kind": "probe" if name == PROBED else "pretrain"}
        for name in (TRAINED, PROBED, FAILED)
    ]
    scaling.fill(tmp_path / "runs", plan)
    failed = tmp_path / "runs" / FAILED
    (failed / "result.json").unlink()
    (failed / "attempts/1/error.json").write_text(json.dumps({"message": "no luck", "at": 0}))
    (tmp_path / "spec.yaml").write_text(specs.dump(tiny()))

    def run(text: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["carectl", *shlex.split(text)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Told(*capsys.readouterr(), code=int(ended.value.code or 0))

    return run


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("spec check spec.yaml -o seed=1", "carectl pretrain spec.yaml -o seed=1 --dry-run"),
        ("spec show spec.yaml", "carectl pretrain spec.yaml --dry-run"),
        ("spec schema", "begin a spec with # yaml-language-server: $schema=care.schema.json"),
        ("spec diff spec.yaml spec.yaml -o seed=1", "carectl spec show spec.yaml -o seed=1"),
        ("spec diff spec.yaml 0123456789ab", f"carectl status {TRAINED}"),
        ("data list", "carectl data prepare cifar10"),
        ("data list --data-dir else", "carectl data prepare cifar10 --data-dir else"),
        ("data prepare digits", "carectl pretrain digits/care-barlow --dry-run"),
        ("data verify chains", "carectl pretrain pointcloud/care --dry-run"),
        ("status", f"carectl status {FAILED} shows all of it and why"),
        ("status --state done", "carectl status "),
        ("status --state stale", "carectl status lists the runs of all states"),
        ("status --runs-dir none", "carectl pretrain digits/care-simclr --runs-dir none"),
        (f"status {TRAINED}", f"carectl eval {TRAINED} probes it"),
        (f"status {PROBED}", "carectl status lists all runs"),
        (f"status {FAILED}", f"carectl logs {FAILED} shows what it said"),
        (f"logs {TRAINED}", f"carectl eval {TRAINED} probes it"),
        (f"logs {FAILED}", f"carectl retry {FAILED}, once what the log says is mended"),
        (f"logs {FAILED} --runs-dir ./runs", f"carectl retry {FAILED}, once"),
        (f"cancel {TRAINED}", "carectl status lists what can be cancelled"),
        ("pretrain spec.yaml --dry-run", "the same command without --dry-run submits this plan"),
        ("reproduce table1 --profile digits --dry-run", "the same command without --dry-run"),
        (
            "report fig7 --profile digits --only 'λ = 0' --seeds 0,1 -o optimizer.lr=0.2",
            "carectl reproduce fig7 --profile digits --only 'λ = 0' --seeds 0,1 "
            "-o optimizer.lr=0.2 runs what is missing",
        ),
    ],
)
def test_a_command_ends_with_one_next_step(ask: Ask, command: str, step: str) -> None:
    told = ask(command)
    assert told.code == 0, told
    (said,) = [line for line in (told.out + told.err).splitlines() if line.startswith("Next: ")]
    assert said.startswith(f"Next: {step}")
    assert said in (told.out.splitlines()[-1:] + told.err.splitlines()[-1:])


@pytest.mark.parametrize("command", ["spec show spec.yaml", "spec schema", f"logs {FAILED}"])
def test_what_is_kept_in_a_file_has_no_next_step_in_it(ask: Ask, command: str) -> None:
    told = ask(command)
    assert "Next: " not in told.out and told.err.startswith("Next: ")


@pytest.mark.parametrize(
    ("command", "broken", "step"),
    [
        ("spec check spec.yaml", "carectl.specs.load", "the same command again"),
        (f"logs {TRAINED} -f", "carectl.runs.logs", f"carectl status {TRAINED} shows how it goes"),
    ],
)
def test_ctrl_c_ends_with_a_next_step_too(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, command: str, broken: str, step: str
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(broken, interrupt)
    told = ask(command)
    assert told.code == 130 and told.out == ""
    assert told.err.splitlines()[-1] == f"Next: {step}"


@pytest.mark.parametrize("command", ["status", f"status {TRAINED}", "data list", f"cancel {PROBED}",
                                     "spec check spec.yaml", "spec show spec.yaml"])  # fmt: skip
def test_with_json_the_next_step_is_for_people(ask: Ask, command: str) -> None:
    told = ask(f"{command} --json")
    assert "Next: " not in told.out and "Next: " in told.err
    assert json.loads(told.out)["version"] == 1


def test_a_dataset_of_ones_own_is_not_to_be_got(ask: Ask) -> None:
    told = ask("data prepare folder")
    assert told.code == 2 and "carectl data verify folder --path FOLDER" in told.err


@pytest.mark.parametrize(
    ("error", "code", "step"),
    [
        (KeyError("x"), 1, "Next: report the lines above"),
        (
            FileNotFoundError(2, "No such file", "runs/a/spec.yaml"),
            3,
            "spec.yaml is not there; put",
        ),
    ],
)
def test_what_nobody_foresaw_has_a_next_step_and_json_too(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, step: str
) -> None:
    def broken(*given: object) -> None:
        raise error

    monkeypatch.setattr("carectl.specs.load", broken)
    told = ask("spec check spec.yaml --json")
    assert told.code == code and step in told.err.splitlines()[-1]
    assert json.loads(told.out)["error"]["exit_code"] == code


@pytest.mark.parametrize(
    "wrong", ["status --nonsense", "nonsense", "spec check", "export x --epoch y"]
)
def test_a_wrong_call_names_the_help_and_is_an_object_with_json(ask: Ask, wrong: str) -> None:
    told = ask(f"{wrong} --json")
    assert told.code == 2 and "-h' for help." in told.err
    assert json.loads(told.out)["error"]["exit_code"] == 2
    assert ask(wrong).out == ""


def test_an_export_without_a_checkpoint_is_refused_before_torch_is_loaded(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "care_core.interchange.export", None)
    told = ask(f"export {TRAINED}")
    assert told.code == 3 and f"carectl status {TRAINED} says how far it is" in told.err


def test_targets_without_the_profile_are_said_to_be_left_out(ask: Ask) -> None:
    told = ask("reproduce all --profile digits-all --dry-run --json")
    left = json.loads(told.out)["left_out"]
    assert set(left) == {f"fig{n}" for n in range(5, 10)} | {"composition", "pointcloud"}
    assert set(left.values()) == {"no profile 'digits-all'"}
    assert "left out: fig5, fig6, fig7, fig8, fig9, composition, pointcloud (no profile" in told.err


def test_what_was_cancelled_is_not_left_to_retry_failed() -> None:
    assert steps.again(["done", "failed"], "").startswith("carectl retry --failed")
    assert "retry --failed" not in steps.again(["cancelled", "blocked"], "")
    assert steps.after(Run(Path("runs/a")), Status("cancelled"), " --runs-dir x") == (
        "carectl retry a --runs-dir x takes it up where it stopped"
    )


def planned(name: str, reason: str, depends: tuple[str, ...] = ()) -> Planned:
    spec = tiny()
    return Planned("pretrain", name, Identity({}, "0" * 64, name), spec, "", spec.launch, depends,
                   run_id=name, reason=reason)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_plan_cuts_no_id_and_no_action_whatever_the_width(width: int) -> None:
    trained, probe = f"digits-care-{'x' * 20}-000000000000", f"probe-{'x' * 30}-111111111111"
    plan = [
        planned(trained, ""),
        planned(probe, f"the probe has to wait for {trained}", (trained,)),
    ]
    console = Console(width=width)
    with console.capture() as caught:
        console.print(tables.plan_table(plan, end="table1", width=width))
    shown = caught.get()
    assert f"└─ {probe}" in shown and "…" not in shown and shown.count(trained) == 2
    assert max(map(len, shown.splitlines())) <= width
    assert "the probe has to wait" in " ".join(shown.split())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_progress_cuts_no_state_and_no_hash(width: int) -> None:
    found = Run(Path("runs/digits-care-simclr-s0-0123456789ab"))
    rows = [(found, Status("running", "on a machine with a long name, device cuda:0")),
            (found, Status("queued", "waiting for a free slot"))]  # fmt: skip
    console = Console(width=width)
    with console.capture() as caught:
        console.print(progress.active_table(rows, width))
    for line, state in zip(caught.get().splitlines(), ("running ", "queued "), strict=True):
        assert line.startswith(state) and "0123456789ab" in line
    progress.active_table([], width)


def test_a_terminal_narrower_than_an_id_does_not_cut_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PlainConsole, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "40")
    name = f"{'long-' * 12}000000000000"
    Output(as_json=False).listing(tables.plan_table([planned(name, "why")], width=40))
    assert name in capsys.readouterr().out


def test_in_a_pipe_the_details_of_a_run_are_whole_lines(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "runs" / TRAINED / "result.json").write_text(
        json.dumps({"kind": "pretrain", "weights_sha256": "ab" * 100})
    )
    lines = ask(f"status {TRAINED}").out.splitlines()
    assert [line for line in lines if line.endswith("ab" * 100)]
    assert all(line == line.rstrip() for line in lines)
    assert sum(line.startswith("kind") for line in lines) == 1
