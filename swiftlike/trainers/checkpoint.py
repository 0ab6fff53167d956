"""What a checkpoint holds beyond transformers' own files, and where training continues from."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from swiftlike.core.checksums import seal
from swiftlike.core.errors import UserError
from swiftlike.core.files import write_args
from swiftlike.core.merge import Run
from swiftlike.models.reward_files import fill_head, read_head, save_reward_model
from swiftlike.models.reward_head import base_of
from swiftlike.trainers.finite import FiniteTrainer
from swiftlike.trainers.saving import rotate, whole_or_gone
from swiftlike.trainers.stopping import outlive

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
HEADS = ("v_head.", "score.", "lm_head.")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


class CheckpointTrainer(FiniteTrainer):
    """Saves processor files, arguments and the objective's state, and continues from them exactly.

    `source_folder` is where the model came from, `run` what args.json will hold, `made_of` what a run that goes on
    must have as well. With a `classifier_pad`, its padding token, a reward model is saved as a sequence classifier.
    """

    def __init__(
        self,
        *args: Any,
        source_folder: Path,
        image_processor: Any,
        run: Run,
        made_of: dict[str, Any],
        classifier_pad: int | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*args, **keywords)
        self.classifier_pad = classifier_pad
        self.source_folder, self.image_processor, self.run, self.made_of = source_folder, image_processor, run, made_of
        self._restored: dict[str, Any] | None = None
        self.add_callback(_Restore(self))

    def _get_dataloader(self, *args: Any, **keywords: Any) -> Any:
        loader = super()._get_dataloader(*args, **keywords)
        inner = getattr(loader, "base_dataloader", loader)  # of accelerate's wrapper: the one that starts workers
        inner.worker_init_fn = functools.partial(outlive, inner.worker_init_fn)
        return loader

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        reward = self.card.record == "rewards"
        if isinstance(model, PreTrainedModel) and not reward:
            super()._save(str(folder), state_dict)  # on all ranks: sharded weights are gathered in it
        if not self.args.should_save:
            return
        if reward or not isinstance(model, PreTrainedModel):
            folder.mkdir(parents=True, exist_ok=True)
            if reward:
                save_reward_model(model, folder, state_dict, self.classifier_pad)
            else:
                model.save_pretrained(folder, state_dict=state_dict, selected_adapters=["default"])
            self.processing_class.save_pretrained(folder)
            if reward and self.classifier_pad is not None:
                end_at_the_stop(folder)
            torch.save(self.args, folder / "training_args.bin")
        save_processor(self.source_folder, folder, self.image_processor)
        write_args(folder, self.run)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # older ones go when this one is whole
        with whole_or_gone(folder, self.args.should_save):
            super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:  # every rank has its own
                torch.save(self._own(), folder / f"objective_{self.args.process_index}.pt")
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                seal(folder, {"step": self.state.global_step, **self.made_of})
        self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(folder.parent, limit, {folder, *([Path(best)] if best else [])})

    def _own(self) -> dict[str, Any]:
        """What the log and the objective have gathered, for `restore`."""
        return {
            "loss": self.state_of_loss,
            "seen": self.seen,
            "tally": self.tally.sums,
            "sum_of_losses": self._tr_loss.cpu(),
            "last_logged": self._globalstep_last_logged,
            "total": self._total_loss_scalar,
            "skipped": (self.skipped, self.skipped_since_log),
        }

    def train(self, resume_from_checkpoint: Any = None, **keywords: Any) -> Any:
        """Train, from the start or from a checkpoint folder."""
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            path = folder / f"objective_{self.args.process_index}.pt"
            first = folder / "objective_0.pt"  # of a run with fewer ranks: what the objective knows is the same on all
            if first.is_file():
                self._restored = read_state(path if path.is_file() else first, self.state_of_loss)
            if not path.is_file() and self._restored is not None:
                self._restored |= {"seen": self.seen, "tally": {}}
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **keywords)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.card.record == "rewards":
            folder = Path(self.state.best_model_checkpoint)
            head = base_of(self.accelerator.unwrap_model(self.model)).v_head
            fill_head(head, read_head(folder) or {}, folder)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Heads are kept apart: a value head in its own file, and a classifier has no language-model head."""
        if self.card.record == "rewards":
            kept = {
                field: [name for name in getattr(load_result, field) if not name.startswith(HEADS)]
                for field in ("missing_keys", "unexpected_keys")
            }
            load_result = load_result._replace(**kept)
        super()._issue_warnings_after_load(load_result)

    def restore(self) -> None:
        """Put back what the log had gathered when the checkpoint was written, so that its next line is the same."""
        if self._restored is None:
            return
        self.state_of_loss, self.seen = self._restored["loss"], self._restored["seen"]
        device = self.args.device
        self.tally.sums = {name: pair.to(device) for name, pair in self._restored["tally"].items()}
        self._tr_loss = self._restored["sum_of_losses"].to(device)
        self._globalstep_last_logged = self._restored["last_logged"]
        self.skipped, self.skipped_since_log = self._restored.get("skipped", (0, 0))


def read_state(path: Path, like: Any) -> dict[str, Any]:
    """What an objective knew when a checkpoint was written: numbers, tensors, and its own state, of the class of
    `like`. UserError when there is anything else in the file: a pickle could run code."""
    own = [] if like is None else [type(like)]
    try:
        with torch.serialization.safe_globals(own):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{path} holds more than the numbers that swiftlike writes there: {why}",
            hint="name the checkpoint before it, or start from its weights alone: --resume_only_model true",
        ) from None


class _Restore(TrainerCallback):
    def __init__(self, trainer: CheckpointTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.restore()


def end_at_the_stop(folder: Path) -> None:
    """A classifier reads the last token: what its chat template writes behind the end token of the last answer goes."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        ended = "{% else %}{% filter trim %}" + text + "{% endfilter %}{% endif %}"
        path.write_text("{% if add_generation_prompt %}" + text + ended, encoding="utf-8")


def save_processor(source: Path, folder: Path, image_processor: Any) -> None:
    """The files that turn pictures into tensors, as the model's own folder has them."""
    if image_processor is not None:
        image_processor.save_pretrained(folder)
    for name in (*PROCESSOR_FILES, *TEMPLATE_FILES):
        if (source / name).is_file() and not (folder / name).is_file():
            shutil.copyfile(source / name, folder / name)


def steps_done(folder: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
