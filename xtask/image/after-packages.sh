# Runs when all packages are installed ($1 is the guest's root): what a published cloud image has too.
set -eu

# An identity is made at the first boot.
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id" "$1"/etc/ssh/ssh_host_*
echo debian >"$1/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$1/etc/hosts"

# Two entries: cloud-init takes the first without probing. The default locale is not generated in a minimal system.
printf 'datasource_list: [ NoCloud, None ]\nlocale: C.UTF-8\n' >"$1/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"

# Nothing runs behind a test's back.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
	e2scrub_reap.service systemd-pstore.service; do
	ln -sf /dev/null "$1/etc/systemd/system/$unit"
done

# The proxy of the machine that built the image is not the guest's.
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
