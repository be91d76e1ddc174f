"""A split of a hub data set through `datasets`, at a pinned commit and with only that split's files downloaded.

Offline (HF_HUB_OFFLINE=1) the same files are read from huggingface_hub's cache, which may be copied from elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.hub import from_hub, reason_of

READ_AHEAD = 4 * 2**20
"""Bytes in one range request when only the first rows are wanted; pyarrow's own choice would be 128 MiB."""


def whole_split(identity: str, revision: str, split: str) -> Any:
    """The split as a memory-mapped `datasets.Dataset`, its files checked against the hub's checksums.

    Raises UserError for what the hub refuses, a connection that breaks, a damaged file, or a split that isn't there.
    """
    from datasets import load_dataset

    with explained(identity, revision):
        place, files, _ = split_files(identity, revision, split)
        for file in files:
            refuse_damaged(identity, revision, file)
        return load_dataset(place, revision=revision, split=split, data_files={split: files})


def first_rows(identity: str, revision: str, split: str, count: int) -> list[dict[str, Any]]:
    """The first `count` rows of the split, or all if there are fewer, by range requests no further than needed.

    No checksum covers a part of a file. Raises UserError as `whole_split` does.
    """
    import pyarrow
    import pyarrow.dataset
    from datasets import load_dataset

    with explained(identity, revision):
        place, files, form = split_files(identity, revision, split)
        options = {}
        if form == "parquet":
            cache = pyarrow.CacheOptions(prefetch_limit=0, range_size_limit=READ_AHEAD)
            options["fragment_scan_options"] = pyarrow.dataset.ParquetFragmentScanOptions(cache_options=cache)
        stream = load_dataset(
            place, revision=revision, split=split, data_files={split: files}, streaming=True, **options
        )
        return list(islice(stream, count))


def split_files(identity: str, revision: str, split: str) -> tuple[str, list[str], str]:
    """Where to load from, the split's files there, and their format, as the repository's README lays them out.

    Raises UserError naming the splits that there are.
    """
    from datasets import load_dataset_builder
    from huggingface_hub import is_offline_mode, snapshot_download

    place = identity
    if is_offline_mode():
        place = snapshot_download(identity, repo_type="dataset", revision=revision, local_files_only=True)
    builder = from_hub(identity, partial(load_dataset_builder, place, revision=revision))
    files = builder.config.data_files
    if split not in files:
        raise UserError(f"{identity} at {revision}: found splits {sorted(files)}, needed {split!r}")
    return place, list(files[split]), builder.name


def refuse_damaged(identity: str, revision: str, file: str) -> None:
    """Download one file, named hf://datasets/<identity>@<revision>/<path>, and compare its SHA-256 with the hub's.

    Raises UserError, and removes the damaged file from the cache, if they differ. A local file was compared when it
    came.
    """
    from huggingface_hub import hf_hub_download

    prefix = f"hf://datasets/{identity}@{revision}/"
    if not file.startswith(prefix):
        return
    path = file.removeprefix(prefix)
    fetch = partial(hf_hub_download, identity, path, repo_type="dataset", revision=revision)
    blob = Path(from_hub(f"{identity}: {path}", fetch)).resolve()
    if (
        len(blob.name) == 64 and (found := file_sha256(blob)) != blob.name
    ):  # the cache names large files by their SHA-256
        blob.unlink()
        raise UserError(f"{identity}: {path}: found SHA-256 {found}, needed {blob.name}; the download is damaged and "
                        "was removed. Run again; if it stays, a proxy alters it")  # fmt: skip


@contextmanager
def explained(identity: str, revision: str) -> Iterator[None]:
    """Turn what `datasets` and huggingface_hub raise for a user's or a network's fault into a UserError."""
    from datasets.exceptions import DatasetNotFoundError
    from httpx2 import HTTPError
    from huggingface_hub.errors import LocalEntryNotFoundError

    offline = "Offline, choose data=default, or copy huggingface_hub's cache from a machine that reaches the hub"
    try:
        yield
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            remedy = "accept its terms on the hub and set HF_TOKEN"
        else:
            remedy = "check its id and revision in conf/data, and HF_TOKEN if it is private"
        raise UserError(f"{identity} at {revision}: {error} Needed a data set that can be read: {remedy}") from error
    except (HTTPError, OSError, ValueError) as error:
        if reason := reason_of(error):
            raise UserError(f"{identity} at {revision}: {reason}") from error
        if isinstance(error, HTTPError) and not isinstance(error, ConnectionError | LocalEntryNotFoundError):
            raise UserError(f"{identity} at {revision}: the download broke off: {str(error).splitlines()[0]}. "
                            f"Run again: files that came whole are kept. {offline}") from error  # fmt: skip
        if not isinstance(error, ConnectionError | LocalEntryNotFoundError):
            raise
        raise UserError(
            f"{identity} at {revision}: can't be reached: {str(error).splitlines()[0]}. {offline}"
        ) from error
