"""Make a point of a sweep the workspace, ready to commit.

Reads   the latest multirun/sweep/<time>/points.json (or --sweep's), the point's DVC experiment
Writes  params.yaml, params.lock.yaml, dvc.lock, metrics/, models/, data/prepared: as they were in the experiment
Run     graft promote [POINT]     the best point, or the one whose name begins so
"""

import json
from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from tools.lib.command_line import parser_of
from tools.lib.points import DIGEST, experiments, git
from tools.lib.queue import dvc
from tools.lib.sweep_table import figure_text, label
from tools.sweep import SWEEPS


def promote(name: str, sweep: Path | None) -> None:
    """Apply the point. Raises UserError for no such point, and for a workspace that has changes to lose."""
    content = read_sweep(sweep)
    row = choose(content["rows"], name)
    refuse_changes()
    commit = experiments().get(DIGEST.search(row["name"])[1])  # type: ignore[index]
    if commit is None:
        raise UserError(f"{row['name']}: its experiment is gone from this repository. Give the sweep's command again")
    dvc("exp", "apply", commit)
    print(f"{label(row)}: {content['metric']} {figure_text(row, 'score')} is the workspace now")
    print(f'then: git add --all && git commit --message "{label(row)}"; dvc repro has nothing to run')


def read_sweep(sweep: Path | None) -> dict[str, Any]:
    """The comparison that a sweep ended with; of the latest one for None."""
    found = sorted(SWEEPS.glob("*/points.json")) if sweep is None else [sweep / "points.json"]
    if not found or not found[-1].is_file():
        where = found[-1] if found else SWEEPS
        raise UserError(f"{where}: no finished sweep; run `graft sweep …` first")
    return json.loads(found[-1].read_text(encoding="utf-8"))


def choose(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The row whose name begins with `name`, or the best for ""; says how far it stands out.

    Rows come the best first. Raises UserError unless exactly one fits and it has a score.
    """
    scored = [row for row in rows if row.get("score") is not None]
    listed = "\n".join(f"  {row['name']}" for row in scored) or "  none"
    if not name:
        if not scored:
            raise UserError(f"no point of {len(rows)} has a score; nothing to choose from")
        print(shown(distinction(scored)))
        return scored[0]
    fitting = [row for row in scored if row["name"].startswith(name)]
    if len(fitting) != 1:
        raise UserError(f"{name!r}: found {len(fitting)} points that begin so, needed one of:\n{listed}")
    return fitting[0]


def distinction(scored: list[dict[str, Any]]) -> str:
    """Whether the best of the rows, ordered the best first, can be told from the others by the 95 % intervals."""
    best, others = scored[0], scored[1:]
    overlapping = [row for row in others if row["low"] <= best["high"] and best["low"] <= row["high"]]
    if not others:
        return "the only point with a score"
    if not overlapping:
        return f"the best, and no interval of the other {len(others)} reaches its own"
    lines = [f"  {label(row)}: {figure_text(row, 'score')}" for row in overlapping]
    return (
        f"the best, {label(best)}: {figure_text(best, 'score')}, is NOT distinguishable from {len(overlapping)} of the "
        f"other {len(others)}: their intervals overlap. Chance may have put it first; the cheaper may be the better "
        "choice:\n" + "\n".join(lines)
    )


def refuse_changes() -> None:
    """Raise UserError if tracked files have uncommitted changes: the point would replace them."""
    changed = [line for line in git("status", "--porcelain", "--untracked-files=no").splitlines() if line]
    if changed:
        raise UserError(
            "the workspace has uncommitted changes, which the point would replace:\n"
            + "\n".join(changed)
            + "\nCommit them or put them back (git restore .), then promote"
        )


def main() -> None:
    parser = parser_of("promote", __doc__)
    parser.add_argument("point", nargs="?", default="", help="beginning of a point's name; the best if left out")
    parser.add_argument("--sweep", type=Path, help="multirun/sweep/<time>; the latest if left out")
    arguments = parser.parse_args()
    exit_on_user_error("promote", lambda: promote(arguments.point, arguments.sweep))


if __name__ == "__main__":
    main()
