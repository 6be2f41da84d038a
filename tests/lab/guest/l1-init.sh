#!/bin/busybox sh
# L1's first process. Stage 1, in the initramfs: modules, then the host's root by virtiofs under a tmpfs overlay.
# Stage 2, in the new root: file systems, shares, network, the agent.
# Kernel command line: lab.share1=PATH.. mounts the share of that tag at PATH, lab.modules=DIR holds lib/modules/VERSION,
# lab.auto runs /auto from the initramfs itself and powers off (no shares, no agent).
# shellcheck shell=dash
b=/bin/busybox
lab=/run/lab

stage1() {
    $b mkdir -p /proc /sys /dev /run /lower /rw /newroot /tmp
    $b mount -t proc proc /proc && $b mount -t sysfs sys /sys && $b mount -t devtmpfs dev /dev
    while read -r module; do $b insmod "/modules/$module" || echo "LAB-L1 insmod $module failed"; done </modules/order
    case " $($b cat /proc/cmdline) " in *" lab.auto "*) stage_auto ;; esac
    $b mount -t virtiofs -o ro share0 /lower || echo "LAB-L1 no root"
    $b mount -t tmpfs -o size=90% rw /rw && $b mkdir /rw/upper /rw/work
    $b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /newroot
    $b mkdir -p /newroot/dev /newroot/proc /newroot/sys /newroot/run
    for d in dev proc sys; do $b mount -o move /$d /newroot/$d; done
    $b mount -t tmpfs run /newroot/run && $b mkdir /newroot$lab
    $b cp $b /bin/lab-agent /init /newroot$lab/
    exec $b switch_root /newroot $lab/init stage2
}

stage_auto() {
    $b mount -t debugfs debug /sys/kernel/debug
    $b mkdir -p $lab /dev/shm && $b cp $b $lab/
    $b mount -t tmpfs shm /dev/shm
    $b --install -s /bin
    /auto </dev/null
    $b poweroff -f
}

stage2() {
    b=$lab/busybox
    $b mkdir -p /dev/shm /dev/pts /dev/net
    $b mount -t tmpfs -o size=90% shm /dev/shm && $b mount -t devpts pts /dev/pts
    $b mount -t debugfs debug /sys/kernel/debug && $b mount -t tracefs trace /sys/kernel/tracing
    $b mount -t cgroup2 cgroup /sys/fs/cgroup
    # What every Linux has: programs read /dev/stdin.
    $b ln -sf /proc/self/fd /dev/fd && $b ln -sf fd/0 /dev/stdin && $b ln -sf fd/1 /dev/stdout && $b ln -sf fd/2 /dev/stderr
    [ -c /dev/net/tun ] || $b mknod /dev/net/tun c 10 200
    for word in $($b cat /proc/cmdline); do
        value=${word#*=}
        case $word in
            lab.share*=*)
                tag=${word%%=*}
                $b mkdir -p "$value" && $b mount -t virtiofs -o ro "${tag#lab.}" "$value" || echo "LAB-L1 no $value"
                ;;
            lab.modules=*) modules=$value ;;
        esac
    done
    version=$($b uname -r)
    $b mkdir -p "/lib/modules/$version" && $b mount -o bind "$modules/lib/modules/$version" "/lib/modules/$version"
    $b mount -t tmpfs modprobe /etc/modprobe.d
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$lab HOME=/root TERM=dumb LANG=C.UTF-8
    $b hostname lab
    $b ifconfig lo 127.0.0.1 up
    modprobe -a kvm_amd tun virtio_net || echo "LAB-L1 modprobe failed"
    $b ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
    echo 1 >/proc/sys/vm/overcommit_memory
    ulimit -n 65536
    cd / || exit
    $b setsid $lab/lab-agent </dev/null &
    echo -1000 >"/proc/$!/oom_score_adj"
    echo "LAB-L1 ready after $($b cut -d' ' -f1 /proc/uptime) s"
    while :; do $b sleep 100000; done
}

case ${1-} in stage2) stage2 ;; *) stage1 ;; esac
