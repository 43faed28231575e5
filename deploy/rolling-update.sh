#!/usr/bin/env bash
# deploy/rolling-update.sh SERVICE ...: replaces the containers of each service by ones of the image and
# settings as they are now, without an interruption: as many new ones join, then the old ones drain.
# COMPOSE_FILE and COMPOSE_PROJECT_NAME work as they do for docker compose.
set -euo pipefail
(($#)) || { echo "usage: $0 SERVICE ..." >&2; exit 2; }

for service in "$@"; do
  mapfile -t old < <(docker compose ps -q "$service")
  ((${#old[@]})) || { echo "$service: no container runs" >&2; exit 1; }
  echo "$service: ${#old[@]} new beside ${#old[@]} old"
  docker compose --progress quiet up -d --wait --no-deps --no-recreate --scale "$service=$((2 * ${#old[@]}))" "$service"
  echo "$service: the old ones drain"
  docker stop --time "${STOP_TIMEOUT_S:-45}" "${old[@]}" >/dev/null
  docker rm "${old[@]}" >/dev/null
done
