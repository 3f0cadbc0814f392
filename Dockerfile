# syntax=docker/dockerfile:1
#
# Two stages: the first installs, the second runs. What runs has no compiler, no root and no shell script of ours.

FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/llm-sidecar
WORKDIR /src

# Dependencies first: this layer stays until the lock file changes. Every file is checked against its hash.
COPY requirements.lock ./
RUN /opt/llm-sidecar/bin/pip install --require-hashes --only-binary :all: -r requirements.lock

# The build tool is one of the locked packages or the image's own; nothing further is fetched.
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/llm-sidecar/bin/pip install --no-deps --no-build-isolation . \
 && /opt/llm-sidecar/bin/python -m compileall -q /opt/llm-sidecar/lib

FROM python:3.11-slim

LABEL org.opencontainers.image.title="llm-sidecar" \
      org.opencontainers.image.description="A proxy that runs every language-model call through a chain of policies" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /opt/llm-sidecar /opt/llm-sidecar
COPY config.yaml /etc/llm-sidecar/shipped.yaml
COPY policies /etc/llm-sidecar/policies

# The shipped configuration lets everybody in, so in a container it answers only to the names of the machine that
# publishes the port. A file of your own, mounted over this one, says itself who may call.
# A number as the user, so that Kubernetes can see that it is no root. /data is the only place it writes to.
RUN printf 'include: [shipped.yaml]\nserver: {hosts: [localhost, 127.0.0.1]}\n' > /etc/llm-sidecar/config.yaml \
 && mkdir /data && chown 65532:65532 /data
USER 65532:65532
WORKDIR /etc/llm-sidecar
VOLUME /data

# A container is reached from outside, so it listens on every interface of its own.
ENV PATH=/opt/llm-sidecar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LLM_SIDECAR__DATA=/data \
    LLM_SIDECAR__SERVER__HOST=0.0.0.0
EXPOSE 8080

HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/readyz', timeout=2)"]

# The process is PID 1 and handles SIGTERM itself: it drains, then exits with 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["llm-sidecar"]
CMD ["serve", "--config", "/etc/llm-sidecar/config.yaml"]
