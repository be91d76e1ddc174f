"""Put the tuned model and its card on the Hugging Face Hub, in one commit; private unless asked.

Reads   models/dpo-merged (with the folder `license`, where its base has terms), models/card/README.md
Writes  the Hub's repository that is named, with HF_TOKEN or the token of `hf auth login`
Run     graft push OWNER/NAME [--public] [--adapter]
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.lineage import read_lineage, refuse_damaged
from tools.lib.chat_models import model_directory
from tools.lib.command_line import parser_of

TUNED = "dpo"
"""The model that the card is about."""

CARD = Path("models/card/README.md")
ADAPTER = Path("models/dpo")


def main() -> None:
    parser = parser_of("push", __doc__)
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the Hub; made if it isn't there")
    parser.add_argument("--public", action="store_true", help="everybody may read it; by default nobody else may")
    parser.add_argument("--adapter", action="store_true", help="the adapter too, below adapter/")
    parser.add_argument("--message", default="Tuned by Graft", help="of the commit")
    given = parser.parse_args()
    exit_on_user_error("push", lambda: push(given), interrupted="the repository on the Hub has all of it or none")


def push(given: argparse.Namespace) -> None:
    """Upload it and say where it is. Raises UserError for what must not be passed on, and for what the Hub refuses."""
    from httpx2 import HTTPError

    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP, as downloads go
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    files = dict(what_to_push(model_directory(TUNED), given.adapter))
    size = sum(path.stat().st_size for path in files.values()) / 2**20
    print(f"push: {len(files)} files, {size:.0f} MiB, to {given.repository}", flush=True)
    hub = HfApi()
    try:
        hub.create_repo(given.repository, private=not given.public, exist_ok=True)
        if not given.public and not hub.repo_info(given.repository).private:
            raise UserError(f"{given.repository} is there and public; say --public if that is meant, or name another")
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        done = hub.create_commit(given.repository, operations, commit_message=given.message)
    except LocalTokenNotFoundError:
        raise UserError(
            "found no token of the Hub; needed one that may write: set HF_TOKEN, or hf auth login"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(refusal(given.repository, error.response.status_code, str(error))) from None
    except HFValidationError as error:
        raise UserError(f"{given.repository}: {first_line(error)}; needed OWNER/NAME") from None
    except (HTTPError, OSError) as error:
        raise UserError(f"the Hub can't be reached: {first_line(error)}; nothing was changed there") from None
    print(done.commit_url)


def what_to_push(directory: Path, with_adapter: bool) -> Iterator[tuple[str, Path]]:
    """Yield each file by its name on the Hub. Raises UserError where the card is missing, of other weights or has no
    licence, and for weights that changed.
    """
    refuse_damaged(directory)
    if not CARD.is_file():
        raise UserError(f"{CARD}: no such file; needed the model's card: dvc repro report")
    card = CARD.read_text(encoding="utf-8")
    if read_lineage(directory)["weights_sha256"] not in card:
        raise UserError(f"{CARD}: is about other weights than {directory}; dvc repro report writes it for these")
    licence = re.search(r"^license: *(\S+)", card, flags=re.MULTILINE)
    if not licence or licence[1].strip("'\"") in ("unknown", "null"):
        raise UserError(
            f"{CARD}: found no licence, since the base model's is not known; needed prepare_base.origin: whoever gets "
            "the model must know it"
        )
    yield "README.md", CARD
    for path in files_of(directory):
        if path.name != "README.md":
            yield path.relative_to(directory).as_posix(), path
    if with_adapter:
        refuse_damaged(ADAPTER)
        for path in files_of(ADAPTER):
            yield f"adapter/{path.relative_to(ADAPTER).as_posix()}", path


def files_of(directory: Path) -> Iterator[Path]:
    """Yield every file of a model, those in folders too, in order."""
    yield from (path for path in sorted(directory.rglob("*")) if path.is_file())


def refusal(repository: str, status: int, said: str) -> str:
    """What the Hub's refusal means and what to do."""
    advice = {
        401: "the token is wrong or expired: set HF_TOKEN to one that may write",
        403: "the token may not write there: give it the right to, or name a repository of your own",
        404: "no such owner, or the token may not see it",
        413: "too large for this account",
    }.get(status, "try again later" if status >= 500 or status == 429 else first_line(Exception(said)))
    return f"{repository}: the Hub said {status}: {advice}; nothing was changed there"


def first_line(error: Exception) -> str:
    """The first line of what an error says, safe to print."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])


if __name__ == "__main__":
    main()
