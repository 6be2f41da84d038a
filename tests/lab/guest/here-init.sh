#!/bin/sh
# Stands for L1 where this machine's own KVM can run guests: own mounts, network and processes, so that whatever a test
# sets up goes with it. Runs the agent: here-init.sh AGENT listen SOCKET...
# shellcheck shell=dash
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs run /run
mount -t tmpfs shm /dev/shm
mkdir /run/lab
busybox ifconfig lo 127.0.0.1 up
exec "$@"
