# A service whose clock is what FAKETIME says; durations stay true.
ARG FROM
FROM ${FROM}
USER root
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime >/dev/null \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV FAKETIME_DONT_FAKE_MONOTONIC=1
