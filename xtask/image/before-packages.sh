# Runs before the packages are configured ($1 is the guest's root), so that the initrd is built once, and small:
# just what it takes to find the root disk, the cidata CD and the guest agent's port.
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
cat >"$1/etc/initramfs-tools/conf.d/berth" <<END
MODULES=list
BUSYBOX=n
COMPRESS=gzip
END
cat >"$1/usr/share/initramfs-tools/modules.d/berth" <<END
virtio_pci
virtio_blk
virtio_console
virtio_net
virtio_scsi
sr_mod
isofs
ext4
END
