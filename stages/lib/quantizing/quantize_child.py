"""llama.cpp's own quantisation (llama_model_quantize) of one GGUF file, in a process that may abort without harm.

Run     python -m stages.lib.quantizing.quantize_child bf16.gguf q4_k_m.gguf q4_k_m [--threads 2]
"""

import argparse
import os


def main() -> None:
    from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize
    from gguf import LlamaFileType

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("format", help="llama.cpp's name: q8_0, q4_k_m, …")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    params = LlamaModelQuantizeParams()
    params.ftype = LlamaFileType[f"MOSTLY_{given.format.upper()}"].value
    params.nthread = given.threads
    model_quantize(given.source, given.out, params)


if __name__ == "__main__":
    main()
