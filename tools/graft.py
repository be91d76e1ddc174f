"""One command for all that people run: `graft` and what follows is said by `graft --help`.

Reads   dvc.yaml, dvc.lock, metrics/runs/ for what a run will take
Run     graft run [KEY=VALUE ...] [STAGE ...]      graft chat      graft sweep sft.lora.r=8,16
        graft --install-completion                 for bash, zsh or fish

Every other command is a module of tools/, with all of that module's options; it works from any folder of the
repository, whether its environment is activated or not.
"""

import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.family import NAMES
from tools.lib.expected_run import expected_run, keys_of_lock
from tools.lib.phrases import is_korean

REPORT = Path("metrics/eval_report.html")
BASE_LINK = Path("data/raw/base")
FORWARDED = {
    "scores": "Show the scores of the last run, and what each stage cost.",
    "chat": "Talk to the tuned model, or to base, sft, rl or kto.",
    "arena": "Compare two models blind in a browser, and vote.",
    "review": "Accept, edit or reject the questions made of your documents, in a browser.",
    "compare": "What changed between the scores of two commits.",
    "sweep": "Run the whole chain for every combination of KEY=A,B and compare them.",
    "promote": "Make the best point of a sweep the workspace.",
    "export": "Write a model for Ollama, llama.cpp or vLLM.",
    "push": "Put the tuned model and its card on the Hugging Face Hub, private unless asked.",
    "doctor": "See whether this machine and this repository are ready.",
    "repair": "Put the repository in order after DVC was killed.",
}
COMPLETED: dict[str, Callable[[], list[str]]] = {
    "chat": lambda: NAMES,
    "export": lambda: NAMES,
    "sweep": keys_of_lock,
}
"""What a shell offers for the words after these."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.callback()
def ready() -> None:
    """Fine-tune a language model on your own questions: run the chain, look at what came of it, talk to it.

    From any folder of the repository. `graft COMMAND --help` says more of a command.
    """
    find_programs()
    go_home()


def offered(words: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """What completes the beginning of a word, as Typer asks for it."""

    def complete(incomplete: str) -> list[str]:
        try:
            go_home()
            return [word for word in words() if word.startswith(incomplete)]
        except UserError:
            return []

    return complete


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE | STAGE | DVC OPTION]...",
            help="KEY=VALUE runs an experiment with other values; a stage runs as far as that one",
            autocompletion=offered(keys_of_lock),
        ),
    ] = None,
) -> None:
    """Run what is out of date of the chain, and show the scores."""
    words = words or []
    values = [word for word in words if "=" in word and not word.startswith("-")]
    others = [word for word in words if word not in values]
    if values:
        refuse_uncommitted_link()
    wait_for([sys.executable, "-m", "tools.repair"])
    command = (
        ["dvc", "exp", "run", *(part for value in values for part in ("-S", value))] if values else ["dvc", "repro"]
    )
    if not values:
        wait_for(["dvc", "repro", "--quiet", "config"])  # says which sections of params.lock.yaml are others now
        print(expected_run([word for word in others if not word.startswith("-")], is_korean(os.environ)), flush=True)
    wait_for([*command, *others])
    become("scores", [])


@app.command()
def report() -> None:
    """Open the report of the last run in a browser."""
    if not REPORT.is_file():
        raise UserError(
            f"{REPORT}: no such file; `dvc repro report` makes it of scores that are here, `dvc pull` fetches it "
            "where a remote has it, `graft run` runs all"
        )
    # Both languages stand on the page; the part after # leaves one of them.
    address = f"{REPORT.absolute().as_uri()}#{'ko' if is_korean(os.environ) else 'en'}"
    print(address)
    webbrowser.open(address)


def forward(name: str) -> None:
    """Add the command of a module of tools/, which gets its words as they are."""
    words_of_a_module = typer.Argument(metavar="[WORD]...", autocompletion=offered(COMPLETED.get(name, list)))

    @app.command(name, help=FORWARDED[name], context_settings=PASSED_ON)
    def command(words: Annotated[list[str] | None, words_of_a_module] = None) -> None:
        given = list(words or [])
        if name == "sweep" and not {"--multirun", "-m", "--help", "-h"} & set(given):
            given.insert(0, "--multirun")
        become(name, given)


for each in FORWARDED:
    forward(each)


def go_home() -> None:
    """Make the root of the repository that this folder is in the working directory. Raises UserError outside of one."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "stages").is_dir():
            os.chdir(folder)
            return
    raise UserError(f"{Path.cwd()}: found no dvc.yaml and stages/ here or above; needed a folder of the repository")


def refuse_uncommitted_link() -> None:
    """Raise UserError where the link to a local base model isn't committed: DVC's experiments can't put it aside."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(BASE_LINK)], capture_output=True).returncode
    if changed == 1 and BASE_LINK.is_symlink():
        raise UserError(
            f"{BASE_LINK}: found a link to a local base model that isn't committed; needed a committed one, since an "
            f"experiment starts from what is. git add {BASE_LINK}, git commit, and run it again"
        )


def find_programs() -> None:
    """Have `dvc` and what it starts come from the environment that this command is in."""
    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"


def become(name: str, words: list[str]) -> None:
    """Go on as `python -m tools.NAME`, so that signals and exit statuses are that program's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"tools.{name}", *words])


def wait_for(command: list[str]) -> None:
    """Run a program that says by itself what is wrong; end with its status unless that is 0.

    Ctrl-C goes to it alone: it saves a checkpoint first.
    """
    sys.stdout.flush()
    before = signal.signal(signal.SIGINT, lambda *_: None)
    status = subprocess.Popen(command).wait()
    signal.signal(signal.SIGINT, before)
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def main() -> None:
    """What the program `graft` is."""
    exit_on_user_error("graft", app, interrupted="nothing was started")


if __name__ == "__main__":
    main()
