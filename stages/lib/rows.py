"""Rows of a data set, from a hub or from a file in the same schema, chosen by the same rules."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.records import read_jsonl
from stages.lib.schema import Rows, RowSource


def load_rows(rows: Rows) -> list[dict[str, Any]]:
    """Load the rows that `rows` asks for, in its order.

    The shuffle is that of `datasets.Dataset.shuffle(seed)`, a permutation by numpy's default generator, so that a
    file and a hub data set of equal length give the same order. Raises UserError if the source can't be read or is
    shorter than `skip` + `take`.
    """
    source: Any = list(read_jsonl(Path(rows.path))) if rows.source is RowSource.jsonl else hub_dataset(rows)
    order = np.arange(len(source))
    if rows.shuffle_seed >= 0:
        order = np.random.default_rng(rows.shuffle_seed).permutation(len(source))
    needed = rows.skip + max(rows.take, 1)
    if len(source) < needed:
        raise UserError(
            f"{rows.path or rows.id}: found {len(source)} rows, needed {needed} (skip {rows.skip}, take {rows.take})"
        )
    order = order[rows.skip : rows.skip + rows.take if rows.take else None]
    return [source[int(index)] for index in order]


def hub_dataset(rows: Rows) -> Any:
    """A split of a hub data set at a pinned revision."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(rows.id, revision=rows.revision, split=rows.split)
    except (ConnectionError, OSError, DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{rows.id} at {rows.revision}, split {rows.split}: can't be reached: {reason}. "
            "Offline, choose data=default, or fill the cache on a machine that reaches the hub and copy it"
        ) from error
