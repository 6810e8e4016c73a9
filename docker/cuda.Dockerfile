# Hanmo on NVIDIA's GPUs (a driver for CUDA 12.8 or later, and the NVIDIA container toolkit):
#   docker build -f docker/cuda.Dockerfile -t hanmo:cuda .
#   docker run --rm -it --gpus all --ipc=host -v "$PWD/runs:/work/runs" -p 8000:8000 hanmo:cuda run recipes/demo.yaml
# Behind a mirror: --build-arg PIP_INDEX_URL=https://… --build-arg TORCH_INDEX=https://…
FROM python:3.11-slim
ARG PIP_INDEX_URL=https://pypi.org/simple
# The wheels of torch bring CUDA's libraries themselves; the image needs none of its own.
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUTF8=1
# Triton compiles its launchers with a C compiler while training runs.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential libarchive13t64 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hanmo && mkdir -p /work/runs && chown -R hanmo /work
RUN python -m venv /opt/hanmo
ENV PATH=/opt/hanmo/bin:${PATH}
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)"
COPY src src
RUN pip install --index-url "${PIP_INDEX_URL}" -c constraints.txt ".[corpus,lora,tokenizers,words]"
COPY --chown=hanmo recipes /work/recipes
WORKDIR /work
USER hanmo
EXPOSE 8000 8100
ENTRYPOINT ["hanmo"]
CMD ["doctor"]
