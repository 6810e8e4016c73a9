# Hanmo on processors alone:
#   docker build -f docker/cpu.Dockerfile -t hanmo .
#   docker run --rm -it -v "$PWD/runs:/work/runs" -p 8000:8000 hanmo run recipes/demo.yaml
# Behind a mirror: --build-arg PIP_INDEX_URL=https://… --build-arg TORCH_INDEX=https://…
FROM python:3.11-slim AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_INDEX_URL=${PIP_INDEX_URL} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# llama.cpp is built from source; its code takes what the processor at hand can do, so that the image is made where it runs.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake git && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/hanmo
ENV PATH=/opt/hanmo/bin:${PATH}
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The large ones first: they stay in the build's cache while the source changes.
RUN pip install --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)"
COPY src src
RUN pip install -c constraints.txt ".[corpus,gguf,lora,tokenizers,words]"

FROM python:3.11-slim
# The compiler of torch.compile needs one of C++ while it runs.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libarchive13t64 libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hanmo && mkdir -p /work/runs && chown -R hanmo /work
COPY --from=build /opt/hanmo /opt/hanmo
COPY --chown=hanmo recipes /work/recipes
ENV PATH=/opt/hanmo/bin:${PATH} PYTHONUTF8=1
WORKDIR /work
USER hanmo
EXPOSE 8000 8100
ENTRYPOINT ["hanmo"]
CMD ["doctor"]
