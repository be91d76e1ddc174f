"""Talk to the models in a browser, and compare two of them blind: the page's votes are data for the next DPO.

Reads   models/{base,sft-merged,dpo-merged,preference-merged,rl-merged,pruned,healed-merged}
Writes  data/raw/votes/votes.jsonl, a line a vote
Run     graft arena [base sft dpo kto] [--port 8765]        then open the address that it prints

Only this machine reaches it unless --host says otherwise, and it asks nobody for anything.
"""

import argparse
from pathlib import Path

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.quantizing.sampling import TEMPERATURES, TOP_P
from tools.lib.chat_models import (
    MAX_NEW_TOKENS,
    ChatModel,
    Sampling,
    available_models,
    get_ready,
    model_directory,
)
from tools.lib.command_line import parser_of
from tools.lib.doorkeeper import names_of

VOTES = Path("data/raw/votes")
TEMPERATURE = 0.7
"""Of both sides, so that the vote is on the models alone."""


def main() -> None:
    parser = parser_of("arena", __doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(TEMPERATURES)}; default: all")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets whoever reaches this machine ask and vote")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name by which browsers reach this machine"
    )
    parser.add_argument("--port", type=int, default=8765, help="0: any free one")
    parser.add_argument("--temperature", type=float, help=f"default: {TEMPERATURE} to compare; a chat: {TEMPERATURES}")
    parser.add_argument("--top-p", type=float, default=TOP_P)
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all that this process may use")
    given = parser.parse_args()
    exit_on_user_error("arena", lambda: serve(given), interrupted="every vote that was answered is kept")


def serve(given: argparse.Namespace) -> None:
    """Load the models and serve the page until Ctrl-C."""
    try:
        from tools.lib.arena_app import Arena, arena_application
        from tools.lib.local_page import listening
        from tools.lib.local_page import serve as serve_page
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, and this needs it: pip install -e '.[chat]'") from None
    temperature = TEMPERATURE if given.temperature is None else given.temperature
    sampling = Sampling(temperature, given.top_p, given.max_new_tokens)
    directories = {name: model_directory(name) for name in given.models or available_models()}
    if not directories:
        raise UserError("found no model in models/, needed one: `dvc repro` or `dvc pull`")
    with listening(given.host, given.port) as server:
        get_ready(given.threads)
        models = []
        for name, directory in directories.items():
            print(f"arena: loading {name}", flush=True)
            models.append(ChatModel(name, directory))
        arena = Arena(models, VOTES, sampling, given.temperature)
        serve_page("arena", arena_application(arena, names_of(given.host, given.allow_host)), server)


if __name__ == "__main__":
    main()
