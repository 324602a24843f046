# shellcheck shell=bash
# What the cases run in guests: sourced there by their scripts.
set -uo pipefail

# --- iSCSI ------------------------------------------------------------------------------------------

start_initiator() {
    modprobe -a iscsi_tcp crc32c_intel || return
    pidof systemd-udevd >/dev/null || setsid /lib/systemd/systemd-udevd >/dev/null 2>&1 &
    pidof iscsid >/dev/null || { mkdir -p /run/lock/iscsi && iscsid && sleep 1; }
}
# node PORTAL NAME VALUE [NAME VALUE]...: settings of the next login.
node() {
    local portal=$1
    shift
    while [ $# -gt 0 ]; do
        iscsiadm -m node -p "$portal" -o update -n "$1" -v "$2" || return
        shift 2
    done
}
# disks: those of all sessions, one a line, once there are as many as $1 says.
disks() {
    local found=() path tries
    for tries in $(seq 100); do
        found=()
        for path in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
            [ -b "/dev/$(basename "$path")" ] && found+=("/dev/$(basename "$path")")
        done
        [ ${#found[@]} -lt "$1" ] || { printf '%s\n' "${found[@]}"; return; }
        sleep 0.1
    done
    echo "${#found[@]} disks instead of $1 after $tries tries" >&2
    return 1
}

# --- any disk -----------------------------------------------------------------------------------------

# sum_of DISK MIB
sum_of() { dd if="$1" bs=1M count="$2" iflag=direct status=none | sha256sum | cut -d' ' -f1; }

# make_files DISK FS: a file system with files and their sums on it.
make_files() {
    modprobe "$2" 2>/dev/null
    mkfs."$2" -q "$(case $2 in ext4) echo -F ;; *) echo -f ;; esac)" "$1" || return
    mkdir -p /mnt/disk && mount "$1" /mnt/disk || return
    head -c 24M /dev/urandom >/mnt/disk/random
    local i
    for i in $(seq 100); do echo "file $i" >"/mnt/disk/file-$i"; done
    (cd /mnt/disk && sha256sum random file-* >sums) || return
    sync
    echo 3 >/proc/sys/vm/drop_caches
    (cd /mnt/disk && sha256sum --quiet -c sums) && umount /mnt/disk
}
# see_files DISK: whether they are as they were, and the file system is clean.
see_files() {
    mkdir -p /mnt/disk && mount -o ro "$1" /mnt/disk || return
    (cd /mnt/disk && sha256sum --quiet -c sums) || return
    umount /mnt/disk && e2fsck -fn "$1"
}
# trim DISK: what is removed is given back, and says so.
trim() {
    mount "$1" /mnt/disk && rm /mnt/disk/file-100 && sed -i /file-100/d /mnt/disk/sums || return
    sync
    fstrim -v /mnt/disk
    local status=$?
    umount /mnt/disk
    return $status
}
# write_verified DISK [FIO-ARGUMENT]...: random writes from the middle of the disk on, read back.
write_verified() {
    local disk=$1
    shift
    fio --name=verify --filename="$disk" --offset=128M --size=48M --rw=randwrite --bsrange=4k-128k \
        --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 \
        --randseed=7 --output-format=terse "$@" >/tmp/fio || { cat /tmp/fio; return 1; }
}
