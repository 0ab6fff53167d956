"""Uploading a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run


def push(run: Run, folder: Path, name: str) -> None:
    """Upload all files of a folder to --hub_model_id, which is made where it does not exist.

    UserError when the hub cannot be reached or refuses; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = run.hub
    api = HfApi(token=hub.hub_token)
    repository = hub.hub_model_id or name
    try:
        made = api.create_repo(repository, private=hub.hub_private_repo or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=hub.commit_message, ignore_patterns=["export.json"]
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"--push_to_hub: {api.endpoint} did not take {repository}: {reason}",
            hint="log in with `hf auth login` or give --hub_token; see --hub_model_id",
        ) from error
    sys.stdout.write(f"uploaded: {done.commit_url}\n")
