#!/bin/sh
# What berth's guest agent does at each boot, for guests that do not have it. Runs as root from the mounted cidata volume.
# A step that fails is named in /run/lima-boot-failed and in the exit status; the steps after it still run.
set -u
mnt=${LIMA_CIDATA_MNT:-/mnt/lima-cidata}
run=/run
rm -f "$run/lima-boot-done" "$run/lima-boot-failed" "$run/lima-reboot-required"

# Every line NAME=value of a file becomes a variable, whatever the value contains.
load() {
  while IFS= read -r line || [ -n "$line" ]; do
    # shellcheck disable=SC2163 # the line holds name and value
    case $line in '' | '#'*) ;; *=*) export "$line" ;; esac
  done <"$1"
}
load "$mnt/lima.env"
load "$mnt/param.env"
load "$mnt/etc_environment"
user=$LIMA_CIDATA_USER home=$LIMA_CIDATA_HOME iid=$LIMA_CIDATA_IID

log() { echo "LIMA $(date -u +%Y-%m-%dT%H:%M:%SZ)| $*"; }
step() {
  log "$*"
  "$@" && return
  log "failed with status $?: $*"
  echo "$*" >>"$run/lima-boot-failed"
}
# Value of a variable whose name is computed. Names come from lima.env and hold letters, digits and underscores only.
value() { eval "printf '%s' \"\${LIMA_CIDATA_$1-}\""; }
has() { command -v "$1" >/dev/null 2>&1; }
# Replaces a file's content when it differs; false when it did not.
replace() { cmp -s - "$1" <"$2" && return 1; cat "$2" >"$1"; }
systemd() { [ -d /run/systemd/system ]; }

hosts() {
  touch /etc/hosts
  new=$(mktemp) && sed '/[[:blank:]]host\.lima\.internal$/d' /etc/hosts >"$new" &&
    echo "$LIMA_CIDATA_SLIRP_GATEWAY host.lima.internal" >>"$new"
  replace /etc/hosts "$new" || true
  rm -f "$new"
}

environment() {
  touch /etc/environment
  new=$(mktemp) && sed '/^#LIMA-START$/,/^#LIMA-END$/d' /etc/environment >"$new" &&
    cat "$mnt/etc_environment" >>"$new"
  # Sessions that began before would keep the old environment.
  if replace /etc/environment "$new" && has loginctl; then loginctl terminate-user "$user" 2>/dev/null || true; fi
  rm -f "$new"
  echo "$iid" >"$run/lima-ssh-ready"
}

mount_points() {
  i=0
  while [ "$i" -lt "$LIMA_CIDATA_MOUNTS" ]; do
    point=$(value "MOUNTS_${i}_MOUNTPOINT") i=$((i + 1))
    mkdir -p "$point" && chown "$user" "$point" || return
  done
}

# The layout is Lima's: one partition, labelled lima-NAME as far as the file system has room for it. Only an empty disk is formatted.
disk() {
  name=$(value "DISK_$1_NAME") fs=$(value "DISK_$1_FSTYPE") args=$(value "DISK_$1_FSARGS")
  case ${fs:=ext4} in xfs) room=12 ;; swap) room=15 ;; *) room=16 ;; esac
  label=$(printf "%.${room}s" "lima-$name")
  part=$(blkid -L "$label") || part=
  if [ -z "$part" ] && [ "$(value "DISK_$1_FORMAT")" = true ]; then
    dev=$(readlink -f "/dev/disk/by-id/virtio-$(value "DISK_$1_SERIAL")")
    [ -b "$dev" ] || dev=/dev/$(value "DISK_$1_DEVICE")
    blkid -p "$dev" >/dev/null
    [ $? -eq 2 ] || { log "$dev is not empty: not formatted"; return 1; }
    part=${dev}1
    echo , | sfdisk -q --label gpt "$dev" && { ! has udevadm || udevadm settle; } || return
    if [ "$fs" = swap ]; then set -- mkswap; else set -- "mkfs.$fs"; fi
    # shellcheck disable=SC2086 # several arguments
    "$@" $args -L "$label" "$part" || return
  fi
  [ -n "$part" ] || { log "no disk is labelled $label, and format is false"; return 1; }
  if [ "$fs" = swap ]; then
    grep -q "^$part " /proc/swaps || swapon "$part"
  else
    mkdir -p "/mnt/lima-$name" && { grep -q " /mnt/lima-$name " /proc/mounts || mount "$part" "/mnt/lima-$name"; }
  fi
}

# The network's name server becomes the host's resolver.
name_server() {
  iptables -t nat -N LIMADNS 2>/dev/null || iptables -t nat -F LIMADNS || return
  for chain in PREROUTING OUTPUT; do
    iptables -t nat -C "$chain" -j LIMADNS 2>/dev/null || iptables -t nat -A "$chain" -j LIMADNS || return
  done
  for proto in udp tcp; do
    if [ "$proto" = udp ]; then port=$LIMA_CIDATA_UDP_DNS_LOCAL_PORT; else port=$LIMA_CIDATA_TCP_DNS_LOCAL_PORT; fi
    iptables -t nat -A LIMADNS -d "$LIMA_CIDATA_SLIRP_DNS" -p "$proto" --dport 53 \
      -j DNAT --to-destination "$LIMA_CIDATA_SLIRP_GATEWAY:$port" || return
  done
}

guest_agent() {
  bin=$LIMA_CIDATA_GUEST_INSTALL_PREFIX/bin/lima-guestagent
  if ! cmp -s "$mnt/lima-guestagent" "$bin"; then
    mkdir -p "${bin%/*}" && cp "$mnt/lima-guestagent" "$bin.new" && chmod 755 "$bin.new" && mv "$bin.new" "$bin" || return
    if systemd; then systemctl stop lima-guestagent 2>/dev/null || true; fi
  fi
  if [ "${LIMA_CIDATA_VSOCK_PORT:-0}" != 0 ]; then
    set -- --vsock-port "$LIMA_CIDATA_VSOCK_PORT"
  elif [ -n "$LIMA_CIDATA_VIRTIO_PORT" ]; then
    set -- --virtio-port "$LIMA_CIDATA_VIRTIO_PORT"
  else
    set -- --socket-owner "$LIMA_CIDATA_UID"
  fi
  systemd || { log "Lima's guest agent needs systemd here"; return 1; }
  "$bin" install-systemd "$@"
}

install_packages() {
  if has apt-get; then
    DEBIAN_FRONTEND=noninteractive && export DEBIAN_FRONTEND
    apt-get update -q && apt-get install -qy --no-install-recommends "$@"
  elif has dnf; then dnf install -qy "$@"
  elif has zypper; then zypper -n install "$@"
  elif has pacman; then pacman -Sy --noconfirm "$@"
  elif has apk; then apk add "$@"
  else log "no package manager is known here"; return 1; fi
}

sshfs() {
  if ! has sshfs && [ -z "$LIMA_CIDATA_SKIP_DEFAULT_DEPENDENCY_RESOLUTION" ]; then install_packages sshfs || return; fi
  for conf in /etc/fuse.conf /etc/fuse3.conf; do
    [ -e "$conf" ] || [ "$conf" = /etc/fuse.conf ] || continue
    grep -qx user_allow_other "$conf" 2>/dev/null || echo user_allow_other >>"$conf" || return
  done
  echo "$iid" >"$run/lima-fuse-ready"
}

containerd() {
  prefix=$LIMA_CIDATA_GUEST_INSTALL_PREFIX archive=$mnt/$LIMA_CIDATA_CONTAINERD_ARCHIVE
  if [ "$(cat "$prefix/.lima-nerdctl" 2>/dev/null)" != "$(cksum <"$archive")" ]; then
    mkdir -p "$prefix" && tar -C "$prefix" -xzf "$archive" && cksum <"$archive" >"$prefix/.lima-nerdctl" || return
  fi
  if [ -n "$LIMA_CIDATA_CONTAINERD_SYSTEM" ]; then systemctl enable --now containerd || return; fi
  if [ -n "$LIMA_CIDATA_CONTAINERD_USER" ]; then
    loginctl enable-linger "$user" && as_user "$prefix/bin/containerd-rootless-setuptool.sh" install
  fi
}

as_user() { sudo -iu "$user" XDG_RUNTIME_DIR="/run/user/$LIMA_CIDATA_UID" "$@"; }

# data: a file with an owner and a mode.
data() {
  n=${1##*/} path=$(value "DATAFILE_${1##*/}_PATH") owner=$(value "DATAFILE_${1##*/}_OWNER")
  if [ -e "$path" ] && [ "$(value "DATAFILE_${n}_OVERWRITE")" = false ]; then return; fi
  dir=$(dirname "$path")
  [ -d "$dir" ] || sudo -u "${owner%%:*}" mkdir -p "$dir" 2>/dev/null || mkdir -p "$dir" || return
  cp "$1" "$path" && chown "$owner" "$path" && chmod "$(value "DATAFILE_${n}_PERMISSIONS")" "$path"
}
yq() { log "provision mode yq needs berth's own guest agent"; return 1; }
system() { "$1"; }
user() {
  copy=$home/.lima-user-script params=$(sed -n 's/^\(PARAM_[A-Za-z0-9_]*\)=.*/\1/p' "$mnt/param.env" | paste -sd, -)
  cp "$1" "$copy" && chown "$user" "$copy" && chmod 755 "$copy" || return
  sudo -iu "$user" ${params:+"--preserve-env=$params"} XDG_RUNTIME_DIR="/run/user/$LIMA_CIDATA_UID" "$copy"
  status=$?
  rm -f "$copy"
  return "$status"
}

password() {
  new=$(od -An -tx1 -N8 /dev/urandom | tr -d ' \n') && echo "$user:$new" | chpasswd || return
  (umask 077 && echo "$new" >"$home/password") && touch "$home/.lima-password-set" &&
    chown "$user" "$home/password" "$home/.lima-password-set"
}

if [ -z "$LIMA_CIDATA_PLAIN" ]; then
  step hosts
  for script in "$mnt/boot.Linux"/*.sh; do [ ! -e "$script" ] || step "$script"; done
  step environment
  i=0
  while [ "$i" -lt "$LIMA_CIDATA_DISKS" ]; do step disk "$i"; i=$((i + 1)); done
  if [ "$LIMA_CIDATA_UDP_DNS_LOCAL_PORT" != 0 ] && has iptables; then step name_server; fi
  if [ "$LIMA_CIDATA_MOUNTTYPE" = reverse-sshfs ]; then step mount_points; fi
  if [ -e "$mnt/lima-guestagent" ]; then step guest_agent; fi
  for entry in "$mnt/provision.dependency"/*; do [ ! -e "$entry" ] || step "$entry"; done
  if [ "$LIMA_CIDATA_MOUNTTYPE" = reverse-sshfs ]; then step sshfs; fi
  if [ -n "${LIMA_CIDATA_CONTAINERD_ARCHIVE-}" ]; then step containerd; fi
fi
for mode in data yq system user; do
  for entry in "$mnt/provision.$mode"/*; do [ ! -e "$entry" ] || step "$mode" "$entry"; done
done
if [ -z "$LIMA_CIDATA_PASSWORDLESS_SUDO" ] && [ ! -e "$home/.lima-password-set" ]; then step password; fi

[ -e "$run/lima-reboot-required" ] || echo "$iid" >"$run/lima-boot-done"
[ ! -e "$run/lima-boot-failed" ]
