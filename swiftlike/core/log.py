"""One logger for the project: rank 0 speaks, the others only warn, third parties are quiet."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

from swiftlike.core.secrets import scrub

ROOT = "swiftlike"
_QUIET = ("transformers", "datasets", "accelerate", "peft", "huggingface_hub", "modelscope", "torch.distributed")
_SILENT = ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "PIL", "matplotlib", "absl", "tensorboard", "h5py")
_once: set[str] = set()


def rank(env: Mapping[str, str] | None = None) -> int:
    """This process among all of the run."""
    return _number(env, "RANK", 0)


def local_rank(env: Mapping[str, str] | None = None) -> int:
    """This process among those of its machine."""
    return _number(env, "LOCAL_RANK", 0)


def world_size(env: Mapping[str, str] | None = None) -> int:
    """How many processes the run has."""
    return _number(env, "WORLD_SIZE", 1)


def is_main(env: Mapping[str, str] | None = None) -> bool:
    """Whether this process speaks and writes for the run."""
    return rank(env) == 0


def _number(env: Mapping[str, str] | None, name: str, default: int) -> int:
    text = (os.environ if env is None else env).get(name, "")
    return int(text) if text.isdigit() else default


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """`12:03:44 text`, with the level when it is not information and the rank when it is not 0."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        who = f"[rank {rank()}] " if rank() else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {who}{level}{record.getMessage()}"
        return scrub(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


def get_logger(name: str = ROOT) -> logging.Logger:
    """A logger below `swiftlike`: pass `__name__`."""
    return logging.getLogger(name)


def configure(level: str = "info") -> logging.Logger:
    """Set up the project's logger on stderr; calling it again starts over. Ranks other than 0 only warn."""
    logger = logging.getLogger(ROOT)
    for old in [handler for handler in logger.handlers if isinstance(handler.formatter, _Format)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(level.upper() if is_main() else logging.WARNING)
    quiet_third_parties()
    return logger


def quiet_third_parties() -> None:
    """Warnings only from the libraries that we drive, errors only from those below them."""
    # transformers resets its own logger when it is imported, from this variable
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning" if is_main() else "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING if is_main() else logging.ERROR)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
    # sets its own level when it is imported, by whoever finds it installed, and writes to stdout, where results go
    logging.getLogger("DeepSpeed").addFilter(_errors)


def _errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def warn_once(message: str) -> None:
    """A warning that is shown the first time only, however often the code passes here."""
    if message not in _once:
        _once.add(message)
        get_logger().warning(message)
