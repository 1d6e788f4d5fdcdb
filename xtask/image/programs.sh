# Puts more packages on top of the guest's tree, which stays as it is ($1: the tree, $2: an empty directory, $3: the packages,
# the rest: lines for apt's configuration). What they add or change is in $2/upper then, to be laid over the tree.
# Runs as root in a mount namespace of its own. This machine's apt downloads: the tree has no network of its own.
set -eu
tree=$1 layer=$2 packages=$3
shift 3
root=$layer/root
mkdir "$layer/upper" "$layer/work" "$root"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"

# Nothing starts while it is installed.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

export APT_CONFIG="$layer/apt.conf" DEBIAN_FRONTEND=noninteractive
{
	printf 'Dir "%s";\nDPkg::Chroot-Directory "%s";\n' "$root" "$root"
	printf 'APT::Sandbox::User "root";\nDpkg::Use-Pty "false";\nDpkg::Options { "--force-unsafe-io"; };\n'
	for line in "$@"; do printf '%s;\n' "$line"; done
} >"$APT_CONFIG"
apt-get -qq update
# shellcheck disable=SC2086
apt-get -qq -y --no-install-recommends install $packages
apt-get clean

# A test starts what it needs; other guests boot without.
for service in iperf3 postgresql; do
	rm -f "$root/etc/systemd/system/multi-user.target.wants/$service.service"
done
rm -rf "$root"/var/lib/apt/lists/* "$root/usr/sbin/policy-rc.d"
umount "$root/proc" "$root"
rm -rf "$layer/work" "$root" "$APT_CONFIG"
