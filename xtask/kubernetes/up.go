package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const controllers = "garbage-collector-controller,pod-garbage-collector-controller,ttl-after-finished-controller," +
	"serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller," +
	"namespace-controller,resourcequota-controller,node-lifecycle-controller,taint-eviction-controller," +
	"job-controller,disruption-controller,clusterrole-aggregation-controller"

// up: prints one JSON line once all is ready, then does what it is told (control.go); ends on SIGTERM, on the command `end`, with its
// standard input, and where a component ends that nobody has told to.
func up(args []string) int {
	runtime.LockOSThread() // Pdeathsig follows the thread that forked
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	dir := flags.String("dir", "", "where keys, logs and data go")
	cri := flags.String("containerd", "", "CRI socket; empty: no kubelet")
	detached := flags.Bool("detached", false, "without standard input: commands come over the socket alone")
	extra := flags.String("apiserver-args", "", "more kube-apiserver flags, space separated")
	extraKCM := flags.String("controller-manager-args", "", "the same for kube-controller-manager")
	extraKubelet := flags.String("kubelet-args", "", "the same for kubelet")
	node := flags.String("node", "127.0.0.1", "node name; an IP literal is also taken as the address, loopback or not")
	must(flags.Parse(args))
	d, err := filepath.Abs(*dir)
	must(err)
	must(os.MkdirAll(d, 0o700))
	at := func(name string) string { return filepath.Join(d, name) }
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	requests := listen(at("control"), !*detached, cancel)
	defer os.Remove(at("control"))
	began := time.Now()
	ports := freePorts(6)
	url := func(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[port]) }
	api := url("https", 0)

	ca := newCA(at("ca"))
	ca.issue(at("apiserver"), "kube-apiserver", nil, true)
	ca.issue(at("kubelet-serving"), "system:node:"+*node, []string{"system:nodes"}, true)
	ca.issue(at("to-kubelet"), "kube-apiserver-kubelet-client", []string{"system:masters"}, false)
	writeKey(at("sa.key"), newKey())
	for file, subject := range map[string][2]string{
		"kubeconfig":   {"test-admin", "system:masters"},
		"kcm.conf":     {"system:kube-controller-manager", ""},
		"sched.conf":   {"system:kube-scheduler", ""},
		"kubelet.conf": {"system:node:" + *node, "system:nodes"},
	} {
		ca.issue(at(file), subject[0], []string{subject[1]}, false)
		kubeconfig(at(file), api, at("ca.crt"))
	}
	admin := client(at("ca.crt"), at("kubeconfig"))
	answers := func(url string) func() bool { return func() bool { return get(admin, url, nil) } }

	c := &cluster{dir: d, stop: stop, requests: requests, deaths: make(chan death, 64)}
	defer c.end()
	c.add("etcd", answers(url("http", 1)+"/readyz"), d, url("http", 1), url("http", 2))
	c.add("kube-apiserver", answers(api+"/readyz"), append([]string{
		"--etcd-servers=" + url("http", 1), "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ports[0]),
		"--tls-cert-file=" + at("apiserver.crt"), "--tls-private-key-file=" + at("apiserver.key"),
		"--client-ca-file=" + at("ca.crt"), "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + at("sa.key"),
		"--service-account-signing-key-file=" + at("sa.key"), "--endpoint-reconciler-type=none",
		"--kubelet-certificate-authority=" + at("ca.crt"),
		"--kubelet-client-certificate=" + at("to-kubelet.crt"), "--kubelet-client-key=" + at("to-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true",
		"--shutdown-send-retry-after=false", "--event-ttl=10m",
	}, strings.Fields(*extra)...)...)
	c.add("kube-controller-manager", listens(ports[3]), append([]string{"--kubeconfig=" + at("kcm.conf"), "--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ports[3]), "--leader-elect=false", "--controllers=" + controllers,
		"--use-service-account-credentials=true", "--service-account-private-key-file=" + at("sa.key"),
		"--root-ca-file=" + at("ca.crt"), "--cert-dir=" + at("kcm-certs"), "--node-monitor-period=1s",
		"--namespace-sync-period=10s", "--resource-quota-sync-period=5s"}, strings.Fields(*extraKCM)...)...)
	c.add("kube-scheduler", listens(ports[4]), "--kubeconfig="+at("sched.conf"), "--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ports[4]), "--leader-elect=false", "--cert-dir="+at("sched-certs"))
	if *cri != "" {
		must(os.WriteFile(at("kubelet.yaml"), []byte(fmt.Sprintf(kubeletConfiguration, ports[5], at("kubelet-serving.crt"),
			at("kubelet-serving.key"), at("ca.crt"), *cri, at("pod-logs"))), 0o600))
		c.add("kubelet", listens(ports[5]), append([]string{"--config=" + at("kubelet.yaml"), "--kubeconfig=" + at("kubelet.conf"),
			"--hostname-override=" + *node, "--root-dir=" + at("kubelet"), "--cert-dir=" + at("kubelet-certs"), "--v=2"},
			strings.Fields(*extraKubelet)...)...)
	}

	report := map[string]any{"api": api, "kubeconfig": at("kubeconfig"), "control": at("control")}
	pids := map[string]int{}
	for _, component := range c.components {
		if err := c.start(component); err != nil {
			return ended(err)
		}
		pids[component.name] = component.child.Process.Pid
		report[component.name+"_ready_ms"] = time.Since(began).Milliseconds()
	}
	if *cri != "" {
		ready := func() bool { return nodeIsReady(admin, api, *node) }
		if err := c.await("the node", ready); err != nil {
			return ended(err)
		}
		report["node_ready_ms"] = time.Since(began).Milliseconds()
	}
	report["pids"] = pids
	must(json.NewEncoder(os.Stdout).Encode(report))
	return ended(c.serve())
}

// What up ends with.
func ended(err error) int {
	if errors.Is(err, errTold) {
		return 0
	}
	log.Print(err)
	return 1
}

const kubeletConfiguration = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: %d
healthzPort: 0
tlsCertFile: %s
tlsPrivateKeyFile: %s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
cgroupsPerQOS: true
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: "50Mi", nodefs.available: "1%%", imagefs.available: "1%%"}
imageGCHighThresholdPercent: 100
podLogsDir: %s
registryPullQPS: 50
nodeStatusUpdateFrequency: 5s
maxPods: 200
nodeLeaseDurationSeconds: 4
clusterDNS: [10.96.0.10]
`

func client(ca, user string) *http.Client {
	pool := x509.NewCertPool()
	certificate, err := os.ReadFile(ca)
	must(err)
	pool.AppendCertsFromPEM(certificate)
	pair, err := tls.LoadX509KeyPair(user+".crt", user+".key")
	must(err)
	// A connection to a server that was killed is not one to its successor.
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
}

// Whether the answer is 200, with a body that `into` takes.
func get(client *http.Client, url string, into any) bool {
	answer, err := client.Get(url)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK && (into == nil || json.NewDecoder(answer.Body).Decode(into) == nil)
}

func listens(port int) func() bool {
	return func() bool {
		connection, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			connection.Close()
		}
		return err == nil
	}
}

func nodeIsReady(admin *http.Client, api, name string) bool {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if !get(admin, api+"/api/v1/nodes/"+name, &node) {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// Ports that no outgoing connection is given: else a client could get the port of a server that was killed, or, trying to
// reach that server, be connected to itself.
func freePorts(count int) []int {
	low, high := 32768, 60999
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, err := fmt.Sscan(string(text), &low, &high)
		must(err)
	}
	var ports []int
	for tries := 0; len(ports) < count && tries < 100_000; tries++ {
		port := 10_000 + rand.IntN(65_536-10_000)
		if low <= port && port <= high {
			continue
		}
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			defer listener.Close()
			ports = append(ports, port)
		}
	}
	if len(ports) < count {
		log.Fatalf("no free ports outside of ip_local_port_range %d-%d", low, high)
	}
	return ports
}
