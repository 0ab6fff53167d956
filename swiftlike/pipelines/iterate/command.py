"""`swiftlike iterate RECIPE`: plan, say what will be done, do it stage by stage."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.declare import Stage
from swiftlike.core.errors import UserError
from swiftlike.core.files import has_optimiser, whole_checkpoints
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.core.secrets import apart
from swiftlike.pipelines.iterate import ahead, plan, state
from swiftlike.pipelines.iterate import machine as machines
from swiftlike.pipelines.iterate.jobs import Launch, Local, Log, jobs_of
from swiftlike.pipelines.iterate.progress import Progress
from swiftlike.pipelines.iterate.reading import find
from swiftlike.pipelines.iterate.recipe import Recipe, Step, load
from swiftlike.pipelines.iterate.status import table

log = get_logger(__name__)
_BEAT = 10.0  # seconds between signs of life


def run(run: Run, kinds: Mapping[str, Stage], check: ahead.Check) -> int:
    """Run a recipe, or show it. `check` gives what is wrong with the words of a stage."""
    args = run.iterate
    words = list(args.recipe)
    status = words[0] == "status" or args.status
    words = words[1:] if words[0] == "status" else words
    recipe = load(find(words[0]), words[1:], kinds)
    choice = plan.Choice(from_stage=args.from_stage, only=args.only, force=args.force)
    if status:
        sys.stdout.write(table(recipe))
        return 0
    ahead.checked(recipe, check)
    planned = plan.look_ahead(recipe, choice)
    if args.dry_run:
        sys.stdout.write(ahead.script(planned, args.shards))
        for problem in ahead.outside(recipe):
            log.warning("not there yet: %s", problem)
        return 0
    if args.launcher == "slurm":
        from swiftlike.pipelines.iterate.slurm import batch

        sys.stdout.write(batch(run, words))
        return 0
    if missing := ahead.outside(recipe):
        raise UserError(f"{recipe.path}: what stages read or need is not there", problems=missing)
    machine = machines.machine_of(os.environ)
    if machine.count > 1 and args.force:
        raise UserError("--force is for one machine", hint="remove what a stage wrote, and it is run again")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: stages are told, and may save
    with state.locked(recipe.root, machine.rank) as lock:
        launch = launcher(run, lock)
        try:
            Driver(run, recipe, machine, launch)(planned, plan.considered(recipe, choice))
        finally:
            launch.close()
    return 0


def launcher(run: Run, lock: int) -> Launch:
    """What places processes."""
    if run.iterate.launcher == "ray":
        from swiftlike.pipelines.iterate.ray import OnRay

        return OnRay(run.iterate.ray_address, run.iterate.gpus_per_stage)
    return Local(lock)


class Driver:
    """Does the steps of a recipe on this machine, in step with the others."""

    def __init__(self, run: Run, recipe: Recipe, machine: machines.Machine, launch: Launch) -> None:
        self.args, self.recipe, self.machine, self.launch = run.iterate, recipe, machine, launch
        self.progress = Progress(len(recipe.steps))
        self.mark: state.Mark | None = None  # of the stage at hand
        self.beaten = 0.0

    def __call__(self, planned: Sequence[plan.Planned], allowed: set[str]) -> None:
        """Say what will be done, then do it. UserError when a stage fails."""
        works = [one for one in planned if one.works]
        for one in works if len(works) < len(planned) else ():
            log.info("to do: %s (%s)", one.step.name, one.why)
        begun = time.monotonic()
        for step in self.recipe.steps:
            if self.machine.leads:
                self._lead(step, allowed)
            else:
                self._follow(step, allowed)
        log.info("finished: %s (%d stages, %.0f s)", self.recipe.root, len(self.recipe.steps), time.monotonic() - begun)

    def _lead(self, step: Step, allowed: set[str]) -> None:
        decided = plan.decide(self.recipe, step, allowed, self.args.force)
        if not decided.works:
            self._skip(decided)
            return
        self.progress.begin(step.name, decided.why)
        self._inputs_are_there(step)
        self.mark = None
        resume = decided.action == plan.RESUME
        try:
            words = self._begin(step, resume)
            if not (resume and step.stage.resumes and step.output.exists()):
                self._launch(step, words)
            self._wait_for_output(step)
            rows = state.rows_of(step)
            if wrong := state.wrong_rows(step):
                log.warning("%s: %d rows went wrong and are left out: see %s", step.name, *wrong)
            self._note(step, state=state.DONE, seconds=self.progress.end(rows), rows=rows)
        except UserError:
            self._failed(step)
            raise
        except OSError as error:
            self._failed(step)
            raise UserError(f"stage {step.name}: {error.filename or step.folder}: {error.strerror}") from None

    def _begin(self, step: Step, resume: bool) -> list[str]:
        parts = state.parts_of(self.recipe, step)
        words = self._prepare(step, resume)
        self.mark = state.Mark(
            state=state.RUNNING,
            identity=state.identity_of(parts),
            parts=parts,
            words=apart(words)[0],
            started=time.time(),
            where=f"{socket.gethostname()}:{step.folder.absolute()}",
        )
        self._note(step)
        return words

    def _note(self, step: Step, **values: Any) -> None:
        assert self.mark is not None
        self.mark = dc.replace(self.mark, **values)
        state.write_mark(self.recipe.root, step, self.mark)

    def _failed(self, step: Step) -> None:
        self.progress.wipe()
        if self.mark is not None:  # it had begun
            with contextlib.suppress(OSError):  # a disk without room
                self._note(step, state=state.FAILED)

    def _answer(self, step: Step) -> None:
        """Tell the other machines, those that come late or again as well, that the stage is ready for them."""
        found = state.calls(self.recipe.root, step, self.machine.count)
        if self.mark is not None and set(found) - set(self.mark.calls):
            self._note(step, calls=found)

    def _skip(self, decided: plan.Planned) -> None:
        if decided.action == plan.SKIP:
            self.progress.skip(decided.step.name)

    def _inputs_are_there(self, step: Step) -> None:
        missing = []
        for one in (one for one in self.recipe.steps if one.name in step.inputs):
            mark = state.read_mark(self.recipe.root, one)
            if not one.output.exists():
                missing.append(f"{one.name}: there is no {one.output}")
            elif mark is not None and mark.state != state.DONE:
                missing.append(f"{one.name}: it was not finished")
        if missing:
            raise UserError(
                f"stage {step.name} cannot begin: what it reads is not there", problems=missing,
                hint="run the stages before it: leave out --only and --from_stage",
            )  # fmt: skip

    def _prepare(self, step: Step, resume: bool) -> list[str]:
        """The folder as the stage needs it, and its words."""
        if not resume:
            if backup := state.put_aside(self.recipe.root, step, self.args.keep_backups):
                log.info("%s: what was there is in %s", step.name, backup)
        elif step.stage.trains:
            return self._continued(step)
        elif not step.stage.resumes:
            state.clear(step)
        # a command whose output is the folder itself makes it
        (step.folder.parent if step.output == step.folder else step.folder).mkdir(parents=True, exist_ok=True)
        return list(step.words)

    def _continued(self, step: Step) -> list[str]:
        """A training goes on from its newest whole checkpoint, or from the start."""
        found = whole_checkpoints(step.output)
        if not found or not has_optimiser(found[-1]):
            state.clear(step)
            return list(step.words)
        return [*step.words, "--resume_from_checkpoint", str(found[-1])]

    def _launch(self, step: Step, words: Sequence[str]) -> None:
        env: dict[str, str] = {}
        if step.stage.trains:
            env = self.machine.training(step.processes)
        elif step.processes is not None:
            env = {"NPROC_PER_NODE": str(step.processes)}
        jobs = jobs_of(step, words, env, self.args.shards, self.machine)
        stage_log = Log(state.log_file(self.recipe.root, step, self.machine.rank))
        stage_log.add(shlex.join(apart(words)[0]), None)

        def say(text: str) -> None:
            self.progress.say(text)
            self._beat(step)
            if self.machine.leads:
                self._answer(step)

        self.launch(step, jobs, stage_log, say)

    def _wait_for_output(self, step: Step) -> None:
        def there() -> bool | None:
            self._answer(step)
            return step.output.exists() or None

        if self.machine.count == 1 and not there():
            raise UserError(f"stage {step.name} has ended, and there is no {step.output}")
        machines.wait(
            there,
            lambda: f"{step.output} (stage {step.name}): {missing_shards(step)}",
            self.args.wait_timeout,
            lambda: state.beats(self.recipe.root, step, range(1, self.machine.count)),
        )

    def _beat(self, step: Step) -> None:
        """Show machines that wait for this one that it works."""
        if self.machine.count > 1 and time.monotonic() - self.beaten > _BEAT:
            self.beaten = time.monotonic()
            state.beat(self.recipe.root, step, self.machine.rank)

    def _follow(self, step: Step, allowed: set[str]) -> None:
        """Do this machine's part of a step, when the first machine has made it ready."""
        if step.name not in allowed:
            return
        word = state.call(self.recipe.root, step, self.machine.rank)
        ready = self._when(step, lambda mark: _settled(step, mark) or word in mark.calls, "begin")
        if _settled(step, ready):
            self._skip(plan.Planned(step, plan.SKIP, ""))
            return
        self.progress.begin(step.name, f"part {self.machine.rank} of {self.machine.count}")
        if step.stage.trains or (step.stage.sharded and not step.output.exists()):
            self._launch(step, ready.words)
        self._when(step, lambda mark: _settled(step, mark), "end")
        self.progress.end(None)

    def _when(self, step: Step, fits: Callable[[state.Mark], bool], what: str) -> state.Mark:
        """The mark that the first machine has left of this very stage."""

        def find() -> state.Mark | None:
            mark = state.read_mark(self.recipe.root, step)
            if mark is None or not fits(mark):
                return None
            return mark if mark.identity == state.identity_of(state.parts_of(self.recipe, step)) else None

        return machines.wait(
            find,
            lambda: f"machine 0 to {what} stage {step.name}",
            self.args.wait_timeout,
            lambda: state.beats(self.recipe.root, step, range(1)),
        )


def _settled(step: Step, mark: state.Mark) -> bool:
    return mark.state == state.DONE and step.output.exists()


def missing_shards(step: Step) -> str:
    """Which pieces are there."""
    from swiftlike.stages.shards import find_shards

    found: list[str] = []
    for folder in sorted(step.folder.glob(f"{step.output.name}.*")):
        if folder.is_dir():
            try:
                find_shards(Path(folder))
            except UserError as error:
                found += error.problems or (error.message,)
    return "; ".join(found) or "no shard is there"
