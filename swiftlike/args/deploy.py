"""The server: where it listens, who may ask, and what one request may cost."""

from pathlib import Path
from typing import Any

from swiftlike.core.declare import arg, section
from swiftlike.core.merge import DEFAULT

OURS = ("max_body", "max_queue", "owned_by", "log_interval")  # flags of our own server only


@section
class PictureArgs:
    max_image_tokens: int | None = arg(None, "most tokens one picture may take; it is made smaller to fit", ge=1)
    max_pixels: int | None = arg(None, "most pixels of one picture (Qwen-VL)", ge=1, aliases=("image_max_pixels",))
    min_pixels: int | None = arg(None, "fewest pixels of one picture (Qwen-VL)", ge=1, aliases=("image_min_pixels",))
    max_tiles: int | None = arg(
        None, "most tiles that one picture is cut into (InternVL: max_num)", ge=1, aliases=("max_num",)
    )
    max_image_size_mb: float = arg(64.0, "picture files above this size are refused", ge=0)


@section
class DeployArgs:
    host: str = arg("127.0.0.1", "address to listen on; 0.0.0.0: every network of this machine (set --api_key then)")
    port: int = arg(8000, "port to listen on; 0: a free one, which the log names", ge=0, le=65535)
    api_key: str | None = arg(None, "clients must send it as `Authorization: Bearer KEY`", secret=True)
    ssl_keyfile: str | None = arg(None, "private key (PEM) for https")
    ssl_certfile: str | None = arg(None, "certificate (PEM) for https")
    served_model_name: list[str] = arg(
        [], "names that requests may use for the model; none: its registered name or its folder's"
    )
    owned_by: str = arg("swiftlike", "who /v1/models says a model belongs to")
    max_logprobs: int = arg(20, "most alternatives per token that `logprobs` may ask for", ge=0)
    max_body: int = arg(32, "largest body of a request, in MiB; more is answered with 413", ge=1)
    max_queue: int = arg(
        1024, "most answers that are generated or wait at the same time (pt); more are answered with 429", ge=1
    )
    allowed_local_media_path: str | None = arg(
        None, "folder that file:// pictures may come from; none: no files of this machine"
    )
    allowed_media_domains: list[str] = arg(
        [],
        "hosts that http(s) pictures may come from, private ones included (pt); none: any host with public addresses",
    )
    drain_timeout: float = arg(60.0, "seconds that running answers have to finish after SIGTERM or Ctrl-C", ge=0)
    verbose: bool = arg(True, "a log line for each request: status, time and tokens, never texts")
    log_interval: float = arg(20.0, "seconds between log lines with rates, while there is work; 0: none", ge=0)


def problems(run: Any) -> list[str]:
    """What is wrong with the server's settings."""
    deploy, found = run.deploy, []
    if bool(deploy.ssl_keyfile) != bool(deploy.ssl_certfile):
        found.append("--ssl_keyfile and --ssl_certfile belong together")
    files = [(flag, getattr(deploy, flag)) for flag in ("ssl_keyfile", "ssl_certfile")]
    found += [f"--{flag}: no file {file!r}" for flag, file in files if file and not Path(file).is_file()]
    folder = deploy.allowed_local_media_path
    if folder and not Path(folder).is_dir():
        found.append(f"--allowed_local_media_path: no folder {folder!r}")
    if deploy.api_key is not None and not deploy.api_key.isascii():
        found.append("--api_key: only ASCII characters can be sent in a header")
    if run.use.infer_backend == "vllm":
        found += [
            f"--{flag} says nothing to vLLM's server" for flag in OURS if run.origin.get(flag, DEFAULT) != DEFAULT
        ]
    if not (run.use.ckpt_dir or run.use.adapters or run.model.model or run.model.model_type):
        found.append("which model? give --ckpt_dir, --adapters or --model (see `swiftlike list models`)")
    return found
