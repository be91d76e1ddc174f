"""Rows per second and peak memory of the data stages on synthetic rows, each size in its own process.

Run     python -m bench.data [--sizes 1000 10000 100000 1000000] [--conversations 200000] [--base models/base]
Prints  a table: rows, seconds, processor seconds (which other programs disturb least), rows per second, peak MiB, with
        the near-duplicate index and without. Exit status 1 if memory without the index more than doubles, or processor
        time per row grows by half, from 10,000 rows to the largest size
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
PLACES = [
    "도서관",
    "수영장",
    "보건소",
    "시민청",
    "체육관",
    "미술관",
    "박물관",
    "주차장",
    "회의실",
    "강당",
    "공방",
    "분소",
    "민원실",
    "상담실",
]
MATTERS = [
    "이용료",
    "수수료",
    "전화번호",
    "여는",
    "시각",
    "닫는",
    "시각",
    "정원",
    "좌석",
    "신청",
    "기한",
    "처리",
    "기간",
    "담당",
    "부서",
    "필요한",
    "서류",
]
WORDS = [
    "신청",
    "접수",
    "이용",
    "안내",
    "예약",
    "취소",
    "환불",
    "회원",
    "단체",
    "평일",
    "주말",
    "오전",
    "오후",
    "행사",
    "강좌",
    "대관",
    "대출",
    "반납",
]


def write_questions(path: Path, count: int) -> None:
    """Rows of Q&A: four wordings a fact, one row in fifty a near-duplicate, one in a hundred without an answer."""
    generator, last = random.Random(0), {"instruction": "", "output": ""}
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            fact = number // 4
            place, matter = generator.choice(PLACES), generator.choice(MATTERS)
            words = " ".join(generator.choices(WORDS, k=6))
            answer = f"{fact}번 {place}의 {matter} 안내는 {generator.randrange(10**6)}입니다."
            row = {
                "id": f"q{number}", "fact_id": f"f{fact}",
                "instruction": f"{fact}번 {place}에서 {words} 때 {matter} 안내는 어떻게 되나요?",
                "output": "" if number % 100 == 7 else answer,
            }  # fmt: skip
            if number % 50 == 1:
                row |= {"instruction": last["instruction"].replace("되나요", "되나여"), "output": last["output"]}
            last = row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_conversations(path: Path, count: int) -> None:
    """Chats of two to six messages, 60 words each, in UltraChat's columns."""
    generator = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            texts = [" ".join(generator.choices(words, k=60)) for _ in range(2 * generator.randint(1, 3))]
            texts[0] = f"Question {number}: {texts[0]}?"
            messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
            file.write(json.dumps({"prompt": texts[0], "prompt_id": str(number), "messages": messages}) + "\n")


def run_one(kind: str, count: int, base: Path, with_index: bool) -> None:
    """Prepare `count` synthetic rows in a scratch directory and print one JSON line."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("models").mkdir()
        Path("models/base").symlink_to(base)
        source = Path("rows.jsonl")
        subprocess.run([sys.executable, "-m", "bench.data", "--write", kind, str(count), str(source.resolve())],
                       cwd=REPOSITORY, check=True)  # fmt: skip
        started, used_before = time.monotonic(), time.process_time()
        report = prepare(kind, source, count, with_index)
        seconds, used = time.monotonic() - started, time.process_time() - used_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": used, "peak_mib": peak, "kept": report["kept"]}))


def prepare(kind: str, source: Path, count: int, with_index: bool) -> dict[str, Any]:
    """Run the stage on the rows."""
    from stages.lib.pdf_qa.qa_store import QuestionStore
    from stages.lib.schema.choices import RowSource
    from stages.lib.schema.data import PreparePdfQa, PrepareUltrachat, Rows
    from stages.prepare_pdf_qa import prepare_pdf_qa
    from stages.prepare_ultrachat import prepare_ultrachat

    if kind == "conversations":
        held_out = 200
        train = Rows(source=RowSource.jsonl, path=str(source), shuffle_seed=42, skip=held_out)
        evaluation = Rows(source=RowSource.jsonl, path=str(source), shuffle_seed=42, take=held_out)
        return prepare_ultrachat(PrepareUltrachat({"en": train}, {"en": evaluation}, max_tokens=2048), Path())
    if not with_index:
        QuestionStore.drop_near_duplicates = lambda self: []  # to tell its memory from the rest's
    return prepare_pdf_qa(PreparePdfQa(files=[str(source)], max_tokens=512), Path())


def measured(kind: str, count: int, base: Path, with_index: bool) -> dict[str, float]:
    """What one size costs, in a process of its own."""
    command = [sys.executable, "-m", "bench.data", "--one", kind, str(count), "--base", str(base)]
    done = subprocess.run(command + [] * with_index + ["--without-index"] * (not with_index), cwd=REPOSITORY,
                          check=True, capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--conversations", type=int, default=200_000)
    parser.add_argument("--base", type=Path, default=REPOSITORY / "models/base")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--without-index", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    base = arguments.base.resolve()
    if arguments.write:
        kind, count, path = arguments.write
        (write_questions if kind == "questions" else write_conversations)(Path(path), int(count))
        return
    if arguments.one:
        return run_one(arguments.one[0], int(arguments.one[1]), base, not arguments.without_index)
    print("| rows | kept | s | CPU s | rows/s | peak MiB | without the index: CPU s | peak MiB |")
    print("| --- " * 8 + "|", flush=True)
    plain = {}
    for size in arguments.sizes:
        one, plain[size] = (measured("questions", size, base, with_index) for with_index in (True, False))
        print(f"| {size} Q&A | {one['kept']} | {one['seconds']:.1f} | {one['cpu']:.1f} | {size / one['seconds']:.0f} "
              f"| {one['peak_mib']:.0f} "
              f"| {plain[size]['cpu']:.1f} | {plain[size]['peak_mib']:.0f} |", flush=True)  # fmt: skip
    if arguments.conversations:
        one = measured("conversations", arguments.conversations, base, True)
        print(f"| {arguments.conversations} chats | {one['kept']} | {one['seconds']:.1f} | {one['cpu']:.1f} "
              f"| {arguments.conversations / one['seconds']:.0f} | {one['peak_mib']:.0f} | | |")  # fmt: skip
    largest = max(arguments.sizes, default=0)
    if 10_000 in plain and largest > 10_000:
        memory = plain[largest]["peak_mib"] / plain[10_000]["peak_mib"]
        pace = plain[largest]["cpu"] / largest / (plain[10_000]["cpu"] / 10_000)
        print(f"from 10000 to {largest} rows: memory x{memory:.2f} (at most 2), CPU per row x{pace:.2f} (at most 1.5)")
        sys.exit(memory > 2 or pace > 1.5)


if __name__ == "__main__":
    main()
