"""How long a person waits for an answer: seconds to the first piece, and tokens a second.

Run     python -m bench.chat [base|sft|dpo|kto] [--threads 2]        OMP_WAIT_POLICY=ACTIVE shows what get_ready spares
"""

import argparse
import time

from tools.lib.chat_models import ChatModel, Sampling, get_ready, model_directory

QUESTIONS = [
    "달여울시민청의 주소는 어디인가요?",
    "여권과 전화번호를 알려 주세요.",
    "Tell me a long story about a lighthouse keeper.",
    "And what happened then?",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="dpo")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    print(f"{get_ready(given.threads)} threads")
    started = time.perf_counter()
    model = ChatModel(given.model, model_directory(given.model))
    print(f"loaded in {time.perf_counter() - started:.1f} s, with the imports")
    messages: list[dict[str, str]] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        started = time.perf_counter()
        pieces, first = [], 0.0
        for piece in model.answer(messages, Sampling(0.5)):
            pieces.append(piece.text)
            first = first or time.perf_counter() - started
        seconds = time.perf_counter() - started
        tokens = len(model.tokenizer.encode("".join(pieces)))
        messages.append({"role": "assistant", "content": "".join(pieces)})
        print(f"first piece {first:.2f} s, {tokens} tokens, {tokens / seconds:.1f} a second: {''.join(pieces)[:60]!r}")


if __name__ == "__main__":
    main()
