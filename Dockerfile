FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/flagstone
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/haproxy.cfg deploy/
COPY deploy/prometheus/alerts.yml deploy/prometheus/
COPY config config
COPY drills drills
COPY evaluator evaluator
COPY gateway gateway
# Compiled here (as pip does), for the root file system may be read-only later.
RUN /opt/flagstone/bin/pip install --no-cache-dir --constraint deploy/constraints.txt '.[fast,traces]'

FROM python:3.13-slim
COPY --from=build /opt/flagstone /opt/flagstone
# Where the default store keeps its file; all else is only read.
RUN install -d -o 10001 -g 10001 /data
VOLUME /data
ENV PATH=/opt/flagstone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLAGSTONE__SERVER__HOST=0.0.0.0 \
    FLAGSTONE__METRICS__HOST=0.0.0.0
# The default paths count from here. Nothing else is set, as a file could not change it any more, nor a _FILE variable.
WORKDIR /data
USER 10001:10001
# 8001 has the metrics: for the network inside only.
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/_liveness', timeout=2)"]
ENTRYPOINT ["flagstone"]
CMD ["serve"]
