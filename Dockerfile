# For a CPU:  docker build -t dyenet .
# For a GPU:  docker build -t dyenet --build-arg TORCH_FROM= .
# docs/cluster.md, In a container, has how it is run.
FROM python:3.12-slim

# What OpenCV's wheel expects of the system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# PyTorch's wheels hold the CUDA libraries; the host has the driver.
ARG TORCH_FROM="--index-url https://download.pytorch.org/whl/cpu"
RUN pip install --no-cache-dir torch torchvision $TORCH_FROM

COPY . /source
RUN pip install --no-cache-dir "/source[parquet]" && rm -rf /source

ENV DYENET_CACHE=/data/artifacts
WORKDIR /data
ENTRYPOINT ["dyenet"]
