# Stands for Beam's official image of Python 3.11, which no registry is asked for: Debian's Python, the packages of
# Beam's own list, Beam's boot program.

FROM scratch
ADD root.tar /
RUN rm /usr/lib/python3.11/EXTERNALLY-MANAGED && ln -s python3 /usr/bin/python

ARG BEAM_VERSION
COPY requirements.txt /tmp/
RUN python -m pip install --quiet --no-cache-dir --root-user-action ignore uv==0.13.9 && \
    uv pip install --quiet --no-cache --python /usr/bin/python --no-deps -r /tmp/requirements.txt \
      "apache-beam==${BEAM_VERSION}" && \
    uv pip check --python /usr/bin/python && \
    python -m pip uninstall --quiet --yes --root-user-action ignore uv

# What new virtual environments begin with, such as the one that the boot program makes.
RUN rm /usr/share/python-wheels/pip-*.whl /usr/share/python-wheels/setuptools-*.whl && \
    python -m pip download --quiet --no-cache-dir --no-deps --dest /usr/share/python-wheels \
      $(grep -E "^(pip|setuptools)==" /tmp/requirements.txt)
COPY boot /opt/apache/beam/boot
ENTRYPOINT ["/opt/apache/beam/boot"]
