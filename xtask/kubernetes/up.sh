#!/bin/sh
# up.sh KUBE_TESTSERVER DIR [flags of "up"]: containerd and the whole cluster, in pid and mount namespaces of their own.
# Wants root and containerd, runc, busybox, iproute2, util-linux, and bash, git, openssh-sftp-server, rsync for an image.
# SIGKILL to the unshare process, which is the one that was started, ends every container too.
set -e
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
if [ -z "$INSIDE" ]; then
    # One kubelet on a machine at a time. The lock goes when the last process of the cluster does.
    exec 9>/run/toehold-kubernetes.lock
    if ! flock --nonblock 9; then
        echo 'another cluster is up on this machine: waiting for its end (cargo xtask kubernetes down)' >&2
        flock --timeout 1200 9 || { echo 'it did not end in 20 minutes' >&2; exit 1; }
    fi
    # This one is for who wants to see this very cluster gone.
    mkdir -p "$2"
    exec 8>"$2/lock"
    flock 8
    INSIDE=1 exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi
KTS=$(readlink -f "$1"); mkdir -p "$2/cni"; DIR=$(readlink -f "$2"); shift 2
IMAGES=$(dirname "$KTS")/images
# What an earlier cluster has left here.
for old in control containerd etcd kubelet pod-logs; do rm -rf "${DIR:?}/$old"; done
rm -f "$DIR"/*.log

# The kubelet writes these kernel values unless they read as it wants: let it read what it wants, and leave the machine alone.
printf 1 > "$DIR/one"; printf 10 > "$DIR/ten"
mount --bind "$DIR/one" /proc/sys/vm/overcommit_memory
mount --bind "$DIR/one" /proc/sys/kernel/panic_on_oops
mount --bind "$DIR/ten" /proc/sys/kernel/panic
for d in /run /var/lib/kubelet /var/lib/cni /var/log; do mkdir -p $d; mount -t tmpfs tmpfs $d; done

# The least a CNI plugin can do: lo up, and an address to report. No bridge, no iptables; exec, logs, port-forward need no more.
cat > "$DIR/cni/loopback" <<'CNI'
#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
ADD) nsenter --net="$CNI_NETNS" ip link set lo up >&2
     echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'"$CNI_IFNAME"'","mac":"00:00:00:00:00:00","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"127.0.0.1/8","interface":0}]}' ;;
esac
CNI
chmod +x "$DIR/cni/loopback"
echo '{"cniVersion":"1.0.0","name":"lo","plugins":[{"type":"loopback"}]}' > "$DIR/cni/10-lo.conflist"

cat > "$DIR/containerd.toml" <<TOML
version = 2
root = "$DIR/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$DIR/cni"
    conf_dir = "$DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
TOML
containerd --config "$DIR/containerd.toml" > "$DIR/containerd.log" 2>&1 < /dev/null 8>&- 9>&- &
CONTAINERD=$!
"$KTS" images "$IMAGES" < /dev/null 8>&- 9>&-
ctr="ctr -a /run/containerd.sock -n k8s.io"
until [ -S /run/containerd.sock ] && $ctr version > /dev/null 2>&1 < /dev/null; do
    kill -0 $CONTAINERD || { tail -n 5 "$DIR/containerd.log" >&2; exit 1; }
    sleep 0.1
done
for i in pause busybox tools noshell; do $ctr images import "$IMAGES/$i.tar" > /dev/null < /dev/null; done

# Who ran what in a pod: each exec's arguments stand in its URI. Nothing else is written down.
cat > "$DIR/audit.yaml" <<'AUDIT'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{ level: Metadata, resources: [{ group: "", resources: [pods/exec] }] }]
AUDIT
cd "$DIR" # its path may hold a blank, which separates arguments here
# Not exec: the shell reaps what is left over.
"$KTS" up --dir "$DIR" --containerd /run/containerd.sock \
    --apiserver-args '--audit-policy-file=audit.yaml --audit-log-path=audit.log' "$@" 8>&- 9>&-
