# Boots systemd on a copy of this machine's files that keeps its changes in memory, with a network and processes of its
# own. Called by scratch_machine.rs as: unshare --mount --pid --net --uts --ipc --fork bash scratch_machine.sh DIRECTORY
set -eu
directory=$1

# The process ID of the later init, as the host counts: /proc is still the host's.
read -r init _ </proc/self/stat
echo "$init" >"$directory.init"

mount -t tmpfs -o mode=755 tmpfs "$directory"
cd "$directory"
mkdir cgroups changes work root

# systemd manages the cgroups below its own.
mount -t cgroup2 cgroup2 cgroups
mkdir "cgroups/tollhouse-test-$init"
echo 0 >"cgroups/tollhouse-test-$init/cgroup.procs"

mount -t overlay -o "lowerdir=/,upperdir=changes,workdir=work" overlay root
cd root

# Only what the test needs is started, and nothing changes the host's kernel.
rm -rf etc/systemd/system/*.wants etc/systemd/system/default.target usr/sbin/policy-rc.d
for wants in usr/lib/systemd/system/*.wants; do
    rm -rf "$wants"
done
: >etc/fstab
cat >etc/systemd/system/scratch.target <<'END'
[Unit]
Description=A machine for a test
DefaultDependencies=no
AllowIsolate=yes
Requires=basic.target
After=basic.target
Wants=systemd-journald.service
END

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ip link set lo up

# The namespace of cgroups begins where init is. The root is changed with pivot_root, because a process in a chroot may not
# create user namespaces, which PrivateUsers= needs.
exec unshare --cgroup bash -eu -c '
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    pivot_root . .
    umount --lazy .
    cd /
    # As systemd expects it: a service with a mount namespace of its own must see the mounts of its credentials.
    mount --make-rshared /
    exec env -i container=scratch PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=scratch.target --show-status=0 --log-target=journal
'
