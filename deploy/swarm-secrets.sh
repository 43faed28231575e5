#!/usr/bin/env bash
# deploy/swarm-secrets.sh [PREFIX]: makes a password for the Redis of deploy/swarm.yml, as two secrets of
# the swarm (PREFIX as in SECRETS, by default quorum). It is nowhere else: this machine keeps no copy.
set -euo pipefail
prefix=${1:-quorum}
umask 077
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
sh "$(dirname "$0")/redis/password.sh" "$folder"
docker secret create "$prefix-redis-password" "$folder/redis-password" >/dev/null
docker secret create "$prefix-redis-acl" "$folder/users.acl" >/dev/null
echo "made $prefix-redis-password and $prefix-redis-acl"
