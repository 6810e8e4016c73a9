"""A recipe as a chain of Slurm jobs: one for each stage, arrays of them for what a stage cuts into tasks.

    corpus-0-lead        hanmo run --only corpus       looks at the input, leaves the first phase's tasks in a file
    corpus-0-reading...  an array of `hanmo work`      does them, each element its share
    corpus-1-lead        hanmo run --only corpus       goes on: leaves the tasks of the next phase
    ...
    corpus-3-end         hanmo run --only corpus       makes the end
    tokenizer            hanmo run --only tokenizer

A stage that trains on several GPUs or machines is one job with one `torchrun` a machine, which meet at the first one.
Shortly before Slurm takes the machines away (a limit, a preemption) the script is told and passes it on: a checkpoint
is written, and the job queues again and goes on from there.

Each waits for the one before to end well (afterok). It is the usual way of going on after a kill that carries a stage
from phase to phase: a head job finds what is done, by the files that tasks write last, and leaves the rest. So a second
submission after a failure redoes only what is unfinished, too.
"""

from __future__ import annotations

import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hanmo.errors import HanmoError
from hanmo.files import atomic_write
from hanmo.pool import WorkerSettings, run_tasks
from hanmo.recipe import Recipe, Stage
from hanmo.remote import existing, work_of

#: Exit status of a stage that waits for its array job (EX_TEMPFAIL of sysexits.h).
WAITING = 75
#: Seconds before its end at which Slurm tells a job that trains.
WARNING = 120
#: Limits and sizes as sbatch takes them.
_TIME = re.compile(r"\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
#: Stages that compute with a model, and so are given the GPUs that were asked for.
_ON_GPU = ("pretrain", "sft", "distill", "answers", "reward", "dpo", "grpo", "eval", "generation")


class Waiting(Exception):
    """A stage can only go on when array jobs have done the tasks of a phase."""

    def __init__(self, phase: str, tasks: int) -> None:
        self.phase = phase
        super().__init__(f"{tasks} tasks of '{phase}' are left to the array jobs")


def slug(title: str) -> str:
    """A phase's name in file and job names."""
    return re.sub(r"\W+", "-", title)


def leave(title: str, function: Callable[[Any], Any], tasks: Sequence[Any], out: Path) -> NoReturn:
    """Write the tasks down for `work` and stop the stage.

    They are pickled, since all of them share what makes each large (settings, names of files); the file lies in the
    stage's own folder and is read by nothing but `work`.
    """
    with atomic_write(_tasks_file(out, title), "wb") as file:
        pickle.dump((function, list(tasks)), file)
    raise Waiting(title, len(tasks))


def _tasks_file(out: Path, title: str) -> Path:
    return work_of(out) / "tasks" / f"{slug(title)}.pickle"


def work(folder: Path, phase: str, share: int, shares: int, workers: int) -> tuple[int, int]:
    """Do one share of the tasks that were left for a phase; returns (done now, done before).

    Args:
        folder: the stage's.
        share, shares: every `shares`-th task from `share` on.
        workers: processes.

    Raises:
        HanmoError: a task's own fault.
    """
    path = _tasks_file(folder, phase)
    if not path.is_file():  # the phase had nothing left to do
        return 0, 0
    with path.open("rb") as file:
        function, tasks = pickle.load(file)
    mine = tasks[share::shares]
    done = existing([task.done for task in mine])
    left = [task for task in mine if task.done not in done]
    for _ in run_tasks(function, left, workers):
        pass
    return len(left), len(mine) - len(left)


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for; what is empty or 0 is left to the cluster's defaults.

    Attributes:
        time: limit in Slurm's form, e.g. "1-12:00:00".
        cpus: processors of a job, and of each element of an array.
        mem: memory in Slurm's form, e.g. "16G".
        gpus: for the stages that compute with a model; on each machine for those that train on several.
        array: elements of an array job.
        more: further options of sbatch, each as it is written ("--account=lab").
        nodes: machines that train together.
    """

    partition: str = ""
    time: str = ""
    cpus: int = 4
    mem: str = ""
    gpus: int = 0
    array: int = 16
    more: tuple[str, ...] = ()
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.time and not _TIME.fullmatch(self.time):
            raise HanmoError(f"--time: '{self.time}' is no limit that Slurm knows; give e.g. 90 or 1-12:00:00")
        if self.mem and not _MEMORY.fullmatch(self.mem):
            raise HanmoError(f"--mem: '{self.mem}' is no size that Slurm knows; give e.g. 16G")


@dataclass(frozen=True)
class _Script:
    name: str
    body: str
    stage: Stage
    array: bool = False
    #: Started on every machine of the job, told before the job ends, and queued again then.
    trains: bool = False


def write_scripts(recipe: Recipe, file: Path, overrides: Sequence[str], out: Path, resources: Resources) -> Path:
    """Write OUT/slurm/NN-*.sh and submit.sh; returns the latter.

    Args:
        file, overrides: the recipe's file, and the settings given beside it.
        out: the run's folder, which all machines must see.
    """
    folder = out / "slurm"
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "logs").mkdir(parents=True)
    run = [sys.executable, "-m", "hanmo", "run", str(file.resolve()), *overrides, "--out", str(out)]
    lines = [
        "#!/usr/bin/env bash",
        "# Submits the jobs of this run. Run it again after a failure: what is done is not done again.",
        "set -euo pipefail",
        f"cd {shlex.quote(str(folder))}",
    ]
    last: dict[str, str] = {}
    number = 0
    for stage in recipe.stages:
        after = [f"${last[name]}" for name in dict.fromkeys(stage.after)]
        for script in _scripts_of(stage, run, out / stage.name, resources):
            number += 1
            path = folder / f"{number:02d}-{script.name}.sh"
            with atomic_write(path) as handle:
                handle.write(_text(script, resources))
            depends = f'--dependency="afterok:{":".join(after)}" ' if after else ""
            lines.append(f"job_{number}=$(sbatch --parsable {depends}{path.name})")
            lines.append(f"job_{number}=${{job_{number}%%;*}}  # behind the number may stand the cluster's name")
            after = [f"$job_{number}"]
        last[stage.name] = f"job_{number}"
    lines.append('echo "submitted, the last job is $job_' + str(number) + '"')
    submit = folder / "submit.sh"
    with atomic_write(submit) as handle:
        handle.write("\n".join(lines) + "\n")
    submit.chmod(0o755)
    return submit


def _scripts_of(stage: Stage, run: list[str], folder: Path, resources: Resources) -> list[_Script]:
    alone = [*run, "--only", stage.name]
    if stage.kind.process != "hanmo.child":  # the kinds of stages that several processes do
        return [_Script(stage.name, _training(stage, alone, resources), stage, trains=True)]
    phases = stage.settings.phases() if isinstance(stage.settings, WorkerSettings) else []
    if not phases:
        return [_Script(stage.name, shlex.join(alone), stage)]
    leading = shlex.join([*alone, f"{stage.name}.executor=slurm"]) + f" || [ $? -eq {WAITING} ]"
    scripts = []
    for index, phase in enumerate(phases):
        scripts.append(_Script(f"{stage.name}-{index}-lead", leading, stage))
        words = shlex.join([sys.executable, "-m", "hanmo", "work", str(folder), "--phase", phase])
        words += f' --share "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --workers {resources.cpus}'
        scripts.append(_Script(f"{stage.name}-{index}-{slug(phase)}", words, stage, True))
    # What is left now is little; a phase that was not foreseen would be done here, in one job.
    scripts.append(
        _Script(f"{stage.name}-{len(phases)}-end", shlex.join([*alone, f"{stage.name}.executor=local"]), stage)
    )
    return scripts


def _training(stage: Stage, run: list[str], resources: Resources) -> str:
    """The body of a script that trains."""
    here = resources.gpus or getattr(stage.settings, "processes", 0) or 1
    words = shlex.join(run)
    if resources.nodes * here > 1:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(resources.nodes)]
        launch += ["--nproc-per-node", str(here), "--max-restarts", "3", "--rdzv-backend", "c10d"]
        launch += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
        words = shlex.join(launch) + ' --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" ' + shlex.join(run[1:])
    # `wait` returns when a signal came, too, and is then called again for what still runs.
    return f"""export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={WARNING - 10}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
told= step=
trap 'told=1; kill -USR1 "$step" 2>/dev/null || true' USR1
echo "the machines meet at $first:$port"
srun {words} &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do
  status=0
  wait "$step" || status=$?
done
if [ -n "$told" ] && [ "$status" -ne 0 ]; then
  echo "told to stop; the job queues again and goes on from its checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def _text(script: _Script, resources: Resources) -> str:
    options = [
        f"--job-name={script.name}",
        f"--output=logs/{script.name}-{'%A_%a' if script.array else '%j'}.log",
        "--kill-on-invalid-dep=yes",
        f"--nodes={resources.nodes if script.trains else 1}",
        "--ntasks-per-node=1" if script.trains else "--ntasks=1",
    ]
    if script.trains:
        options += [f"--signal=B:USR1@{WARNING}", "--requeue", "--open-mode=append"]
    gpus = "gpus-per-node" if script.trains else "gpus"
    for name, value in (
        ("partition", resources.partition),
        ("time", resources.time),
        ("cpus-per-task", resources.cpus),
        ("mem", resources.mem),
        (gpus, resources.gpus if script.stage.kind.do in _ON_GPU else 0),
        ("array", f"0-{resources.array - 1}" if script.array else ""),
    ):
        if value:
            options.append(f"--{name}={value}")
    options += resources.more
    head = "\n".join(f"#SBATCH {option}" for option in options)
    return f"#!/usr/bin/env bash\n{head}\nset -euo pipefail\ncd {shlex.quote(str(Path.cwd()))}\n{script.body}\n"


def submit(script: Path) -> str:
    """Run submit.sh and return what it said.

    Raises:
        HanmoError: no Slurm here, or it refused a job.
    """
    if shutil.which("sbatch") is None:
        raise HanmoError(f"no sbatch on this machine: run {script} where Slurm is (or give --dry-run)")
    done = subprocess.run([str(script)], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise HanmoError(f"{script}: sbatch refused a job ({' '.join(done.stderr.split()):.300})")
    return done.stdout.strip()
