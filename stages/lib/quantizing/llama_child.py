"""llama.cpp's own server with one GGUF file, in a process that may abort without harm to the stage: it answers on
127.0.0.1 alone, to OpenAI's clients too (/v1).

Run     python -m stages.lib.quantizing.llama_child FILE [--port 8080] [--threads 2] [--context 2048]

Its first line on standard output is its address. It ends with its standard input: Ctrl-D, or Ctrl-C.
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: one that is free")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--context", type=int, default=0, help="tokens of a prompt with its answer; 0: all it can")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        serve(given.file, given.port, given.threads, given.context)


def serve(file: Path, port: int, threads: int, context: int) -> None:
    """Answer until standard input ends. One conversation at a time, so that no answer depends on another."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port = [HOST], port
    params.ui = params.endpoint_slots = False
    params.offline, params.cors_origins = True, ""  # no page of another origin reads answers
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
