# A GPU worker for Dataflow: Beam's SDK image for the launcher's versions, torch with CUDA, captionbeam.
# From the project's root:  docker build -f containers/gpu.Dockerfile -t IMAGE .

ARG PYTHON_VERSION=3.11
ARG BEAM_VERSION=2.77.0
FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION}

ARG BEAM_VERSION=2.77.0
ARG TORCH_VERSION=2.15.0
ARG TORCHVISION_VERSION=0.29.2
# torch includes CUDA. If the workers' driver is too old for it, set an index of wheels for an older CUDA.
ARG TORCH_INDEX=
ENV UV_NO_CACHE=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Large and rarely changing layers come first, so that a change of captionbeam does not rebuild them.
RUN python -m pip install --no-cache-dir uv==0.13.9
RUN uv pip install --python "$(command -v python)" ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
      "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
WORKDIR /opt/captionbeam
COPY setup.py pyproject.toml ./
RUN uv pip install --python "$(command -v python)" -r setup.py --extra s3 "apache-beam[gcp]==${BEAM_VERSION}"

# On Dataflow, the launcher's captionbeam replaces this one.
COPY schemas schemas
COPY capmodel capmodel
COPY pipelines pipelines
COPY jobs jobs
RUN uv pip install --python "$(command -v python)" --no-deps . && rm -r /opt/captionbeam
# Python imports from its working folder first, so it must not contain sources.
WORKDIR /
RUN uv pip check --python "$(command -v python)" && \
    python -c "import apache_beam, captionbeam.jobs.cli, captionbeam.pipelines.workers.processors; assert apache_beam.__version__ == '${BEAM_VERSION}'" && \
    python -c "import torch; assert torch.version.cuda"

# Dataflow mounts the driver here.
ENV PATH=/usr/local/nvidia/bin:${PATH} LD_LIBRARY_PATH=/usr/local/nvidia/lib64${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}
ENTRYPOINT ["/opt/apache/beam/boot"]
