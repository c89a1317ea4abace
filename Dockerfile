# harope-bench on CPUs: the core with the extras torch and figures. It generates and evaluates the
# micro checkpoints and imports official results.
#
# This file follows hadolint's rules (tests/test_packaging.py checks those that need no program), but
# the image has not been built where the project is developed: there is no Docker and no registry.
#
#   docker build -t harope-bench .
#   docker run --rm -v "$PWD/runs:/runs" harope-bench reproduce table2 --scale micro --out /runs/table2

FROM python:3.12-slim-bookworm AS build

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY harope_bench ./harope_bench

# PyTorch's index has wheels without CUDA; from PyPI torch brings 4 GB of CUDA libraries.
RUN python -m venv /opt/harope-bench \
    && /opt/harope-bench/bin/pip install --no-cache-dir torch torchvision \
        --index-url https://download.pytorch.org/whl/cpu \
    && /opt/harope-bench/bin/pip install --no-cache-dir '.[torch]'

FROM python:3.12-slim-bookworm

COPY --from=build /opt/harope-bench /opt/harope-bench

# A user without rights owns the folders that are written: runs and registered checkpoints.
RUN useradd --create-home --uid 1000 bench \
    && mkdir /runs \
    && chown bench:bench /runs
USER 1000
WORKDIR /runs
ENV PATH="/opt/harope-bench/bin:$PATH" \
    HAROPE_BENCH_HOME="/runs/.harope-bench"

ENTRYPOINT ["harope-bench"]
CMD ["--help"]
