#!/bin/sh
# Makes a random password for Grafana's `admin` unless there is one. Grafana takes it at its first start.
set -eu
cd /run/quorum
if [ ! -s grafana-password ]; then
  head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >grafana-password.new
  mv grafana-password.new grafana-password
fi
