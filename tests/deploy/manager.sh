#!/bin/sh
# Becomes systemd in the namespaces that manager.py made: manager.sh DIR. Its unit files are those in DIR/system, /usr/bin/tidegate is
# DIR/tidegate, the configuration DIR/tidegate.toml. Whatever it writes goes to memory and is gone with it: /etc, /usr and /var are
# overlays, /proc/sys is read-only, and it starts nothing but what it is asked to.
set -eu
from=$1
# DIR itself may be below a directory that the overlays hide.
mount -t tmpfs tmpfs /run
mkdir /run/from && cp -r "$from/." /run/from
mount -t proc proc /proc
for folder in etc usr var; do
    mkdir -p "/run/over/$folder/new" "/run/over/$folder/work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=/run/over/$folder/new,workdir=/run/over/$folder/work" "/$folder"
done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /dev/null /dev/console
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Nothing of the host's own services.
rm -rf /etc/systemd/system /etc/tidegate
mkdir -p /etc/systemd/system /etc/tidegate
for folder in system system-generators; do mount -t tmpfs tmpfs "/usr/lib/systemd/$folder"; done
for target in idle sysinit basic shutdown network-online; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target >/etc/systemd/system/$target.target
done
cp -r /run/from/system/. /etc/systemd/system
cp /run/from/tidegate.toml /etc/tidegate
install -m 755 /run/from/tidegate /usr/bin/tidegate
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=idle.target --show-status=no \
    --log-target=console
