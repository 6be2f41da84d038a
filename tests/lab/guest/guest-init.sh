#!/bin/busybox sh
# The first process of a test guest. It loads the modules, then runs what the kernel command line says, and powers off.
#   lab.test=VERB[,VERB]   the functions below whose names start with `test_`; a /script in the initramfs runs after them
#   lab.root=/dev/vda      mount this disk on /mnt, read-only; the verb `inside` then runs a program of that disk
#   lab.ip=A.B.C.D lab.gw=A.B.C.E      address of eth0 (/24) and the host's
#   lab.dhcp=1             ask for an address of eth0 instead, and tell it
#   lab.name=NAME          the hostname
#   lab.script=BASE64      a script that runs last; base64 has no blanks
#   lab.end=poweroff|reboot|stay
# Every line that starts with LAB is for the test; the rest is for people.
# shellcheck shell=dash disable=SC2015,SC2016
b=/bin/busybox

argument() {
    for word in $($b cat /proc/cmdline); do
        case $word in "$1="*) echo "${word#*=}" && return ;; esac
    done
    echo "${2-}"
}

# Tells the test one thing.
fact() {
    echo "LAB $1=$2"
}

# Waits until a path is there; devices appear a little after their modules.
await() {
    tries=0
    while [ ! -e "$1" ] && [ $tries -lt 200 ]; do
        $b usleep 20000
        tries=$((tries + 1))
    done
    [ -e "$1" ]
}

# Runs a program of the root disk.
inside() {
    $b chroot /mnt /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C "$@"
}

mount_root() {
    await "$1" && $b mount -t ext4 -o ro "$1" /mnt || { fact root failed && return 1; }
    for d in dev proc sys; do $b mount -o bind /$d /mnt/$d; done
    $b mount -t tmpfs tmp /mnt/tmp
}

start_net() {
    $b ifconfig lo 127.0.0.1 up
    await /sys/class/net/eth0 && $b ifconfig eth0 "$1" netmask 255.255.255.0 up || fact net failed
}

# Asks DHCP for eth0's address; the facts are what was given.
start_dhcp() {
    cat_script='#!/bin/busybox sh
[ "$1" = bound ] || exit 0
/bin/busybox ifconfig "$interface" "$ip" netmask "$subnet"
[ -z "$router" ] || /bin/busybox route add default gw "$router" dev "$interface"
[ -z "$dns" ] || for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
echo "LAB address=$ip"
echo "LAB router=$router"'
    $b mkdir -p /etc
    echo "$cat_script" >/dhcp-script
    $b chmod 755 /dhcp-script
    $b ifconfig lo 127.0.0.1 up
    await /sys/class/net/eth0 && $b ifconfig eth0 up
    # The bridge may learn the port only after a moment: ask again.
    $b udhcpc -i eth0 -s /dhcp-script -n -q -t 20 -T 1 -x "hostname:$($b hostname)" || fact address none
}

test_kernel() {
    fact kernel "$($b uname -r)"
    fact clock "$($b cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    fact cpus "$($b nproc)"
    fact memory_kib "$($b awk '/MemTotal/{print $2}' /proc/meminfo)"
}

test_disks() {
    for disk in /sys/block/vd*; do
        [ -e "$disk" ] || continue
        name=${disk##*/}
        fact "$name.bytes" $(($($b cat "$disk/size") * 512))
        fact "$name.readonly" "$($b cat "$disk/ro")"
        fact "$name.serial" "$($b cat "$disk/serial")"
        fact "$name.mounted" "$($b awk -v d="/dev/$name" '$1==d{print $2 " (" $3 ")"; exit}' /proc/mounts)"
    done
}

test_devices() {
    for device in /sys/bus/virtio/devices/*; do
        [ -e "$device" ] && fact "virtio.$($b cat "$device/device")" "$($b readlink "$device/driver" | $b sed 's,.*/,,')"
    done
}

test_root() {
    fact debian "$($b cat /mnt/etc/debian_version)"
}

test_ping() {
    if $b ping -c 3 -W 5 "$(argument lab.gw)"; then fact ping answered; else fact ping lost; fi
}

# Says a word to the host and repeats what comes back.
test_vsock() {
    answer=$(echo "hello from the guest, kernel $($b uname -r)" | inside socat -T 10 - VSOCK-CONNECT:2:5252)
    fact vsock "$answer"
}

$b mount -t proc proc /proc && $b mount -t sysfs sys /sys && $b mount -t devtmpfs dev /dev
$b hostname "$(argument lab.name guest)"
echo "LAB-INIT up=$($b cut -d' ' -f1 /proc/uptime)"
[ -z "$(argument lab.probe)" ] || $b poweroff -f
while read -r module; do
    $b insmod "/modules/$module" || fact "module.$module" failed
done </modules/order
$b mdev -s
[ -z "$(argument lab.root)" ] || mount_root "$(argument lab.root)"
[ -z "$(argument lab.ip)" ] || start_net "$(argument lab.ip)"
[ -z "$(argument lab.dhcp)" ] || start_dhcp
for verb in $(argument lab.test | $b tr ',' ' '); do "test_$verb"; done
# shellcheck source=/dev/null
[ ! -f /script ] || . /script
if [ -n "$(argument lab.script)" ]; then
    argument lab.script | $b base64 -d >/script.last
    # shellcheck source=/dev/null
    . /script.last
fi
echo "LAB-END up=$($b cut -d' ' -f1 /proc/uptime)"
case $(argument lab.end poweroff) in
    reboot) $b reboot -f ;;
    stay) ;;
    *) $b poweroff -f ;;
esac
while :; do $b sleep 1000; done
