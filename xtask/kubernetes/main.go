// Runs a real Kubernetes control plane, and a real kubelet where there is a container runtime, on loopback, for tests.
//
//	kube-testserver up --dir DIR [--containerd SOCKET]   all of it, as up.go has it
//	kube-testserver images DIR                           images to import into containerd, those that are not there yet
//	kube-testserver kubectl ARGS...                      also by calling the program kubectl
//	kube-testserver etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet ARGS...
package main

import (
	"context"
	"log"
	"os"
	"path/filepath"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	}
	if len(os.Args) < 2 {
		log.Fatal("usage: kube-testserver up|images|kubectl|etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet")
	}
	name := os.Args[1]
	os.Args = append([]string{name}, os.Args[2:]...) // one component a process: their feature gates are globals
	switch name {
	case "up":
		os.Exit(up(os.Args[1:]))
	case "images":
		images(os.Args[1:])
	case "etcd":
		etcd(os.Args[1:])
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(kcm.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	default:
		log.Fatalf("no component %q", name)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
