# shellcheck shell=bash
# What the cases are written with: results, exports, and guests. Sourced by each case, which
# `cargo xtask conformance` starts with LAB_WORK (a folder that the cases share), LAB_SLUICE and the
# variables of vm-up.
set -euo pipefail
: "${LAB_WORK:?}" "${LAB_SLUICE:?}" "${LAB_IMAGE:?}" "${LAB_QEMU:?}"

# Results have standard output for themselves: a line each, RESULT, client, test and reason.
exec 5>&1 1>&2
export SLUICE_REPO=$LAB_WORK/repository SLUICE_PASSPHRASE_FILE=$LAB_WORK/passphrase
export XDG_CACHE_HOME=$LAB_WORK/cache XDG_STATE_HOME=$LAB_WORK/state TMPDIR=$LAB_WORK
: "${GUEST_TIMEOUT:=600}"

# client NAME: whose tests follow.
client=''
client() { client=$1; }
CHECKED=''
result() {
    CHECKED=$1
    printf '%s\t%s\t%s\t%s\n' "$1" "$client" "$2" "$(tr '\t\n' '  ' <<<"${3:-}")" >&5
}
pass() { result pass "$1"; }
fail() { result fail "$1" "${2:-}"; }
skip() { result skip "$1" "$2"; }
die() { echo "$*" >&2; exit 1; }
# check TEST COMMAND...: passes when the command does; fails with what it said last.
check() {
    local test=$1
    shift
    echo "--- $client: $test: $*"
    if "$@" >"$LAB_WORK/said" 2>&1; then pass "$test"; else
        fail "$test" "$(tail -n 4 "$LAB_WORK/said")"
    fi
    cat "$LAB_WORK/said"
}
# must TEST COMMAND...: the same, and there is no point in going on without.
must() {
    check "$@"
    [ "$CHECKED" = pass ] || die "cannot go on without: $1"
}
# refused TEST COMMAND...: passes when the command fails.
refused() {
    local test=$1
    shift
    echo "--- $client: $test: $*"
    if "$@" >"$LAB_WORK/said" 2>&1; then fail "$test" 'it was not refused'; else pass "$test"; fi
    cat "$LAB_WORK/said"
}

# --- sluice -----------------------------------------------------------------------------------------

sluice() { "$LAB_SLUICE" --no-progress "$@"; }

# repository: one with a restore point of the guest's disk (os) and one of a plain disk (data), whose
# first half is random and whose second half is a hole. Made by the first case that needs it.
repository() {
    [ ! -e "$LAB_WORK/repository.done" ] || return 0
    echo conformance >"$SLUICE_PASSPHRASE_FILE"
    sluice init -q
    truncate -s 256M "$LAB_WORK/data.raw"
    head -c 128M /dev/urandom | dd of="$LAB_WORK/data.raw" conv=notrunc status=none
    sluice backup -q data "vda=$LAB_WORK/data.raw"
    sluice backup -q os "vda=$LAB_IMAGE/disk.raw"
    : >"$LAB_WORK/repository.done"
}

# serve PROTOCOL ARGUMENT...: an export. Sets $SERVER, its process, and $URI.
SERVER='' URI=''
serve() { begin_server export "$@"; }
begin_server() {
    local fifo=$LAB_WORK/ready
    rm -f "$fifo"
    mkfifo "$fifo"
    # Not by the function: the process must be its own.
    "$LAB_SLUICE" --no-progress "$@" --ready-fd 3 3>"$fifo" &
    SERVER=$!
    { read -r -t 120 _ && read -r -t 10 URI; } <"$fifo" || die "no server: $*"
    echo "serving $URI"
}
# new_overlay: a folder for an overlay, which is not there.
new_overlay() { mktemp -u "$LAB_WORK/overlay.XXXXXX"; }
# unserve: ends it. Fails when it does not end well.
unserve() {
    kill -TERM "$SERVER"
    await_server
}
await_server() {
    local ended=$SERVER end=$((SECONDS + 60))
    while kill -0 "$ended" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.1; done
    [ $SECONDS -lt $end ] || kill -KILL "$ended"
    SERVER=''
    wait "$ended"
}
# A port that nobody listens on.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}
# The port of $URI.
port() { sed -E 's#^[a-z]+://[^/]*:([0-9]+).*#\1#' <<<"$URI"; }

# --- guests -----------------------------------------------------------------------------------------

GUEST='' GUEST_PID='' guest_seconds='' guest_in='' guest_out=''

# QEMU, and where its modules and its firmware are.
QEMU=("$LAB_QEMU")
[ -z "$LAB_QEMU_LIBS" ] ||
    QEMU=(env LD_LIBRARY_PATH="$LAB_QEMU_LIBS" QEMU_MODULE_DIR="$LAB_QEMU_LIBS/qemu" "${QEMU[@]}")
[ -z "$LAB_QEMU_DATA" ] || QEMU+=(
    # Its firmware is beside it, or was installed here already and so not unpacked.
    -L "$LAB_QEMU_DATA/qemu" -L "$LAB_QEMU_DATA/seabios" -L /usr/share/seabios
    -L /usr/lib/ipxe/qemu
)

# qemu_in_path: for what looks for it there, and knows of nothing unpacked beside.
qemu_in_path() {
    mkdir -p "$LAB_WORK/bin"
    printf '#!/bin/sh\nexec %s "$@"\n' "${QEMU[*]@Q}" >"$LAB_WORK/bin/qemu-system-x86_64"
    chmod 755 "$LAB_WORK/bin/qemu-system-x86_64"
    PATH=$LAB_WORK/bin:$PATH
}

# start_guest [--bios] QEMU-ARGUMENT...: boots from the first disk that the arguments say, and waits
# until it takes commands. Without --bios, kernel and initrd come from outside of it.
start_guest() {
    # The check of the timer panics where an emulated processor does not get its time.
    local boot=(-kernel "$LAB_IMAGE/vmlinuz" -initrd "$LAB_IMAGE/initrd"
        -append 'console=ttyS0,115200 net.ifnames=0 mitigations=off no_timer_check quiet')
    if [ "$1" = --bios ]; then
        boot=()
        shift
    fi
    GUEST=$(mktemp -d "$LAB_WORK/guest.XXXXXX")
    mkfifo "$GUEST/agent.in" "$GUEST/agent.out"
    # Both for reading and writing: neither waits for QEMU to open them.
    exec {guest_in}<>"$GUEST/agent.in" {guest_out}<>"$GUEST/agent.out"
    "${QEMU[@]}" -name lab -nodefaults -display none -vga none \
        -machine q35,graphics=off -accel tcg,thread=multi -cpu max -m 768 -serial "file:$GUEST/console" \
        -device virtio-serial-pci -chardev "pipe,id=agent,path=$GUEST/agent" \
        -device virtserialport,chardev=agent,name=lab \
        -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci \
        "${boot[@]}" "$@" >"$GUEST/qemu.log" 2>&1 &
    GUEST_PID=$!
    await_guest
}

# await_guest: until a guest that starts is up. Sets $guest_seconds.
await_guest() {
    local began=$EPOCHREALTIME
    guest_answer 300 >/dev/null || {
        tail -n 5 "$GUEST/qemu.log"
        tail -c 2000 "$GUEST/console"
        return 1
    }
    guest_seconds=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $began }")
    echo "guest is up after $guest_seconds s"
}

guest_send() { base64 -w0 <<<"$1" >&"$guest_in"; echo >&"$guest_in"; }

# guest_answer SECONDS: what the command before it printed; its status.
guest_answer() {
    local line='' part='' end=$((SECONDS + $1))
    while ! IFS= read -r -t 1 -u "$guest_out" part; do
        line+=$part
        kill -0 "$GUEST_PID" 2>/dev/null || { echo 'QEMU has ended'; return 125; }
        ! grep -qa 'Kernel panic\|LAB-NO-ROOT\|Boot error' "$GUEST/console" || { echo 'panic'; return 125; }
        [ $SECONDS -lt $end ] || { echo "no answer from the guest in $1 s"; return 124; }
    done
    line+=$part
    base64 -d <<<"${line#* }"
    return "${line%% *}"
}

# in_guest SCRIPT: runs it there; prints what it prints, and has its status.
in_guest() {
    guest_send "$1"
    guest_answer "$GUEST_TIMEOUT"
}

# put_in_guest FILE PATH
put_in_guest() { in_guest "base64 -d >'$2' <<'END'
$(base64 "$1")
END
chmod 755 '$2'"; }

# stop_guest: cleanly, with everything written.
stop_guest() {
    [ -n "$GUEST_PID" ] || return 0
    guest_send 'sync; mount -o remount,ro /; echo o >/proc/sysrq-trigger; sleep 60'
    local end=$((SECONDS + 60))
    while kill -0 "$GUEST_PID" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.2; done
    kill_guest
}

kill_guest() {
    [ -n "$GUEST_PID" ] || return 0
    kill -KILL "$GUEST_PID" 2>/dev/null || true
    wait "$GUEST_PID" 2>/dev/null || true
    GUEST_PID=''
    exec {guest_in}>&- {guest_out}>&-
}

# Scripts for the guest, with what there is for them.
guest_lib() { put_in_guest "$(dirname "${BASH_SOURCE[0]}")/guest-lib.sh" /tmp/lib.sh; }
lib() { in_guest ". /tmp/lib.sh; $1"; }

# The guest's own disk; what it writes there is thrown away.
# shellcheck disable=SC2034,SC2054
OWN_DISK=(-drive "file=$LAB_IMAGE/disk.raw,format=raw,if=none,id=own,snapshot=on"
    -device virtio-blk-pci,drive=own)

finish() {
    local status=$?
    kill_guest
    if [ -n "$SERVER" ]; then kill -KILL "$SERVER" 2>/dev/null || true; fi
    exit $status
}
trap finish EXIT
trap 'echo "failed at line $LINENO of $0: $BASH_COMMAND"' ERR
