# The Flex Template's launcher: a worker image with Google's launcher program. It can also run workers.
# docker build -f containers/flex.Dockerfile --build-arg WORKER_IMAGE=IMAGE -t LAUNCHER .

ARG WORKER_IMAGE
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:20260122_RC00 AS launcher

# hadolint ignore=DL3006
FROM ${WORKER_IMAGE}
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY containers/flex_launcher.py /template/flex_launcher.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/flex_launcher.py
ENTRYPOINT ["/opt/apache/beam/boot"]
