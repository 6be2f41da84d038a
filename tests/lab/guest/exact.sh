#!/bin/sh
# Run by L1's init in deterministic time: one guest without devices, as far as its /init.
# shellcheck shell=dash
/bin/lab-agent measure LAB-INIT -- /vmm run --kernel /guest/vmlinux --initrd /guest/initramfs.cpio --cpus 1 \
    --memory 512M --serial stdio --cmdline "console=ttyS0 quiet panic=-1 nokaslr lab.probe=1" 2>&1
