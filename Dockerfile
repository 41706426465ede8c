# Training on a GPU: docs/gpu.md. Not built yet where this was written. The machine needs NVIDIA's driver and container toolkit.
FROM python:3.11
WORKDIR /unfold
COPY . .
RUN pip install --no-cache-dir --require-hashes -r constraints.txt \
    && pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && pip install --no-cache-dir -e '.[gpu]'
ENV TF_CPP_MIN_LOG_LEVEL=3
ENTRYPOINT ["python", "-m"]
