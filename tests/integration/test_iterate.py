"""The engine of recipes, on stages that are small programs: what runs, what does not, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .judges import judge

COPY = """
import sys, time, pathlib
text, source, target, *rest = sys.argv[1:]
for _ in range(int(rest[0]) if rest else 0):
    time.sleep(0.1)
if rest[1:] and pathlib.Path(rest[1]).exists():
    print("the disk is on fire"); sys.exit(3)
lines = pathlib.Path(source).read_text().splitlines()
print(f"copying {len(lines)} lines", flush=True)
pathlib.Path(target).write_text("".join(f"{line}{text}\\n" for line in lines))
"""
RECIPE = """
output_dir: OUT
text: {first: a, second: b}
slow: 0
rounds: 1
stages:
  first: {program: [PYTHON, COPY, "${text.first}", SEEDS, "${out:first}"], output: rows.jsonl}
  iter:
    from: 0
    to: ${rounds}
    stages:
      second:
        program: [PYTHON, COPY, "${text.second}", "${last:third,${out:first}}", "${out:second}", "${slow}", FIRE]
        output: rows.jsonl
      third: {program: [PYTHON, COPY, "!", "${out:second}", "${out:third}"], output: rows.jsonl}
"""
ALL = ["first", "iter0/second", "iter0/third", "iter1/second", "iter1/third"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "copy.py").write_text(COPY)
    (tmp_path / "seeds.jsonl").write_text("1\n2\n")
    text = RECIPE.replace("OUT", str(tmp_path / "out")).replace("PYTHON", sys.executable)
    text = text.replace("COPY", str(tmp_path / "copy.py")).replace("SEEDS", str(tmp_path / "seeds.jsonl"))
    (tmp_path / "recipe.yaml").write_text(text.replace("FIRE", str(tmp_path / "fire")))
    return tmp_path / "recipe.yaml"


def start(recipe: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "swiftlike", "iterate", str(recipe), *words]
    return subprocess.Popen(
        command, env=os.environ | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def iterate(recipe: Path, *words: str, code: int = 0, **env: str) -> str:
    process = start(recipe, *words, **env)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return out + errors


def ran(said: str) -> list[str]:
    return [name for name in ALL if f"{name}: done in" in said]


def rows(recipe: Path, name: str) -> list[str]:
    return (recipe.parent / "out" / name / "rows.jsonl").read_text().split()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_stages_run_once_in_order(recipe: Path) -> None:
    assert ran(iterate(recipe)) == ALL
    assert rows(recipe, "iter1/third") == ["1ab!b!", "2ab!b!"]
    again = iterate(recipe)
    assert ran(again) == []
    assert "iter1/third: done before" in again
    table = iterate(recipe, "--status")
    assert [line.split()[:3] for line in table.splitlines() if line.startswith("iter")] == [
        [name, "done", "2"] for name in ALL[1:]
    ]
    log = (recipe.parent / "out/stages/iter0/third.log.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in log][1:] == ["copying 2 lines"]


def test_status_before_the_recipe(recipe: Path) -> None:
    process = start(Path("status"), str(recipe))
    assert "iter0/second  to do" in process.communicate(timeout=60)[0]


def test_a_change_runs_a_stage_and_all_that_follow(recipe: Path) -> None:
    iterate(recipe)
    said = iterate(recipe, "text.second=c")
    assert ran(said) == ALL[1:]
    assert said.index("to do: iter1/third (after iter1/second)") < said.index("[1/5]")
    assert rows(recipe, "iter1/third") == ["1ac!c!", "2ac!c!"]
    (backup,) = (recipe.parent / "out").glob("backup_*/iter1/third/rows.jsonl")
    assert backup.read_text().split() == ["1ab!b!", "2ab!b!"]
    assert "to be run again" in iterate(recipe, "--status")
    iterate(recipe, "--keep_backups", "false")
    assert len([*(recipe.parent / "out").glob("backup_*/iter1/third")]) == 1


def test_an_input_from_outside_counts(recipe: Path) -> None:
    iterate(recipe)
    (recipe.parent / "seeds.jsonl").write_text("3\n")
    said = iterate(recipe, "--dry_run")
    assert f"# first (run: file {recipe.parent / 'seeds.jsonl'} changed)" in said
    assert ran(iterate(recipe)) == ALL
    assert rows(recipe, "iter0/second") == ["3ab"]


def test_a_result_edited_by_hand_is_used(recipe: Path) -> None:
    iterate(recipe)
    (recipe.parent / "out/iter0/third/rows.jsonl").write_text("9\n")
    assert ran(iterate(recipe)) == ALL[3:]
    assert rows(recipe, "iter1/third") == ["9b!"]


def test_more_rounds_go_on(recipe: Path) -> None:
    iterate(recipe, "rounds=0")
    assert ran(iterate(recipe)) == ALL[3:]


def test_a_part_of_the_stages(recipe: Path) -> None:
    said = iterate(recipe, "--only", "iter0/second", code=2)
    assert "first: there is no" in said
    assert ran(iterate(recipe, "--only", "first", "iter0")) == ALL[:3]
    assert ran(iterate(recipe, "--from_stage", "iter1", "text.first=z")) == ALL[3:]
    assert rows(recipe, "iter1/third") == ["1ab!b!", "2ab!b!"]
    assert ran(iterate(recipe, "--only", "third", "--force")) == ["iter0/third", "iter1/third"]
    said = iterate(recipe, "--only", "thrid", code=2)
    assert "did you mean 'third'?" in said


def test_a_failure_names_stage_and_log_and_the_next_run_goes_on(recipe: Path) -> None:
    (recipe.parent / "fire").touch()
    said = iterate(recipe, code=2)
    assert "stage iter0/second failed (exit code 3)" in said
    assert "the disk is on fire" in said
    assert "out/stages/iter0/second.log.jsonl" in said
    assert "failed" in iterate(recipe, "--status")
    (recipe.parent / "fire").unlink()
    assert ran(iterate(recipe)) == ALL[1:]


def test_a_flag_that_a_stage_does_not_have_is_found_first(recipe: Path) -> None:
    text = recipe.read_text() + "  pairs: {command: sample, args: {dataset: x.jsonl, temprature: 1}}\n"
    recipe.write_text(text)
    said = iterate(recipe, code=2)
    assert "pairs: --temprature: unknown flag; did you mean --temperature" in said
    assert not (recipe.parent / "out").exists()


def test_no_two_runs_in_a_folder(recipe: Path) -> None:
    first = start(recipe, "slow=40")
    until(lambda: (recipe.parent / "out/stages/iter0/second.log.jsonl").exists())
    said = iterate(recipe, code=2)
    assert f"another run (process {first.pid}) works in" in said
    first.send_signal(signal.SIGINT)
    assert "stopped" in first.communicate(timeout=60)[1]
    assert first.returncode == 130


def test_killed_at_any_moment_it_goes_on(recipe: Path) -> None:
    for delay in (0.3, 0.8, 1.1, 1.5, 0.2, 1.9):
        process = start(recipe, "slow=3")
        time.sleep(delay)
        process.kill()
        process.wait()
    iterate(recipe, "slow=3")
    assert rows(recipe, "iter1/third") == ["1ab!b!", "2ab!b!"]
    assert [*(recipe.parent / "out").glob("backup_*")] == []


def test_the_stages_of_a_killed_run_do_not_outlive_it(recipe: Path, tmp_path: Path) -> None:
    """Ours end with it; the lock waits for programs that do not."""
    process = start(recipe, "slow=15", "rounds=0")
    until(lambda: (recipe.parent / "out/stages/iter0/second.log.jsonl").exists())
    process.kill()
    process.wait()
    begun = time.monotonic()
    said = iterate(recipe, "slow=15", "rounds=0")
    assert ran(said) == ALL[1:3]
    assert time.monotonic() - begun > 1.5


def test_machines_work_in_step(recipe: Path) -> None:
    machines = [start(recipe, DIST_NNODES="2", DIST_NODE_RANK=str(rank)) for rank in (1, 0)]
    said = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert ran(said[1]) == ALL
    assert "finished" in said[0]
    assert rows(recipe, "iter1/third") == ["1ab!b!", "2ab!b!"]


def test_a_machine_that_never_comes(recipe: Path) -> None:
    said = iterate(recipe, "--wait_timeout", "1", code=2, DIST_NNODES="2", DIST_NODE_RANK="1")
    assert "waited 1 s for machine 0 to begin stage first" in said
    assert "start the same command there again" in said


def test_force_is_for_one_machine(recipe: Path) -> None:
    assert "--force is for one machine" in iterate(recipe, "--force", code=2, DIST_NNODES="2")


def test_an_unfinished_input_is_not_taken(recipe: Path) -> None:
    (recipe.parent / "fire").touch()
    iterate(recipe, code=2)
    (recipe.parent / "out/iter0/second/rows.jsonl").write_text("half\n")
    said = iterate(recipe, "--from_stage", "iter0/third", code=2)
    assert "iter0/second: it was not finished" in said


def test_the_environment_of_flags_counts(recipe: Path) -> None:
    iterate(recipe)
    assert ran(iterate(recipe, "--only", "first", SWIFTLIKE_TEMPERATURE="0.5")) == ["first"]


def test_files_that_are_not_there_are_found_first(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "  pairs: {command: score, args: {dataset: gone.jsonl, rule: judge.py:f}}\n")
    said = iterate(recipe, code=2)
    assert "stage pairs: --dataset: there is no gone.jsonl" in said
    assert "stage pairs: --rule: there is no judge.py" in said
    assert "not there yet: stage pairs" in iterate(recipe, "--dry_run")


def test_what_a_stage_leaves_running_does_not_hold_it(recipe: Path) -> None:
    text = (
        recipe.read_text() + '  left: {program: [bash, -c, "sleep 60 & echo x > $0", "${out:left}"], output: x.txt}\n'
    )
    recipe.write_text(text)
    begun = time.monotonic()
    iterate(recipe, "rounds=-1", code=2)
    iterate(recipe, "--only", "left")
    assert time.monotonic() - begun < 50


def test_sigterm_reaches_the_stages(recipe: Path) -> None:
    process = start(recipe, "slow=600")
    until(lambda: (recipe.parent / "out/stages/iter0/second.log.jsonl").exists())
    process.terminate()
    assert "stopped" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert ran(iterate(recipe, "slow=0")) == ALL[1:]


def test_nowhere_to_write(recipe: Path) -> None:
    (recipe.parent / "file").write_text("")
    assert "cannot write in" in iterate(recipe, f"output_dir={recipe.parent}/file/out", code=2)


def test_a_full_disk(recipe: Path, tmp_path: Path) -> None:
    """The stage fails and is named; when there is room again, the same command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        out = f"output_dir={disk}/out"
        iterate(recipe, out, "--only", "first")
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"x" * 4096)
            except OSError:
                pass
        said = iterate(recipe, out, code=2)
        assert "iter0/second" in said
        assert "No space left on device" in said
        (disk / "ballast").unlink()
        assert ran(iterate(recipe, out)) == ALL[1:]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_script_for_slurm(recipe: Path) -> None:
    said = iterate(recipe, "--launcher", "slurm", "--slurm_nodes", "3", "--slurm_options", "partition=a100")
    assert "#SBATCH --nodes=3\n" in said
    assert "#SBATCH --partition=a100\n" in said
    assert subprocess.run(["bash", "-n"], input=said, text=True, check=False).returncode == 0
    stand_in = 'scontrol() { echo here; }; srun() { shift; SLURM_NODEID=0 "$@"; }; export -f scontrol srun\n'
    env = os.environ | {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(["bash"], input=stand_in + said, text=True, env=env, capture_output=True, timeout=300)
    assert ran(done.stderr) == ALL, done.stderr


def test_stages_on_ray(recipe: Path) -> None:
    pytest.importorskip("ray")
    assert ran(iterate(recipe, "--launcher", "ray", "rounds=0")) == ALL[:3]
    (recipe.parent / "fire").touch()  # a file that a word names counts as an input
    said = iterate(recipe, "--launcher", "ray", code=2)
    assert "stage iter0/second failed (exit code 3)" in said
    assert "the disk is on fire" in said


JUDGED = """
output_dir: OUT
url: URL
stages:
  judge:
    command: score
    output: scored.jsonl
    args: {dataset: ROWS, scorer: judge, judge_model: j, judge_url: "${url}", judge_retries: 2, judge_timeout: 30,
           judge_cache: CACHE, judge_concurrency: 2}
"""


class Busy:
    """Too busy at first, then marks; about rows that say so it talks rubbish or breaks."""

    left = 0

    @classmethod
    def says(cls, asked: str, key: str) -> tuple[int, str]:
        cls.left -= 1
        if cls.left >= 0 or "breaks" in asked:
            return 429 if cls.left >= 0 else 500, "no"
        return 200, "what a day" if "rubbish" in asked else "[[7]]"


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[Callable[[list[str]], Path]]:
    def make(answers: list[str]) -> Path:
        rows = [{"prompt": f"q{k}", "completions": [answer, "ok"]} for k, answer in enumerate(answers)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = JUDGED.replace("OUT", str(tmp_path / "out")).replace("ROWS", str(tmp_path / "rows.jsonl"))
        text = text.replace("CACHE", str(tmp_path / "replies.sqlite"))
        path = tmp_path / "judged.yaml"
        path.write_text(text.replace("URL", url))
        return path

    with judge(Busy.says) as url:
        yield make


def test_a_judge_that_is_busy_talks_rubbish_or_breaks(judged: Callable[[list[str]], Path], tmp_path: Path) -> None:
    Busy.left = 2
    said = iterate(judged(["fine", "rubbish", "breaks", "fine too"]))
    assert "judge: done in" in said
    assert f"judge: 2 rows went wrong and are left out: see {tmp_path}/out/judge/scored.errors.jsonl" in said
    errors = (tmp_path / "out/judge/scored.errors.jsonl").read_text()
    assert "no mark in the judge's reply: 'what a day'" in errors
    assert "rows.jsonl:3" in errors
    assert len((tmp_path / "out/judge/scored.jsonl").read_text().splitlines()) == 2


def test_a_judge_that_is_not_there_stops_the_stage(judged: Callable[[list[str]], Path], tmp_path: Path) -> None:
    path = judged(["fine", "fine too"])
    said = iterate(path, "url=http://127.0.0.1:9/v1", code=2)
    assert "stage judge failed (exit code 2)" in said
    assert "the judge at http://127.0.0.1:9/v1/ does not answer" in said
    Busy.left = 1000
    assert "does not answer: Error code: 429" in iterate(path, code=2)
    Busy.left = 0
    assert "judge: done in" in iterate(path)
    Busy.left = 0
