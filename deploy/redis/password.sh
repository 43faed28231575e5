#!/bin/sh
# Makes a random password for Redis unless there is one: the file that services read, and the
# server's access list, which holds no more than its hash. In the folder given, or that of the volume.
set -eu
cd "${1:-/run/quorum}"
if [ ! -s redis-password ]; then
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >redis-password.new
  mv redis-password.new redis-password
fi
hash=$(sha256sum <redis-password | cut -c1-64)
echo "user default on #$hash ~* &* +@all" >users.acl
