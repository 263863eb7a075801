# Runs the demo on a CPU: docker build -t runner . && docker run --rm runner
FROM python:3.11-slim

# make installs and runs; the C compiler builds the kernels; git is read for the commit that a run records.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /runner
COPY . .
RUN make install

CMD ["make", "demo"]
