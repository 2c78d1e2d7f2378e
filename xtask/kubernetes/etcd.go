package main

import (
	"log"
	"net/url"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd DIR CLIENT PEER: one member that serves the URL CLIENT and keeps its data below DIR.
func etcd(args []string) {
	if len(args) != 3 {
		log.Fatal("usage: kube-testserver etcd DIR CLIENT PEER")
	}
	client, err := url.Parse(args[1])
	must(err)
	peer, err := url.Parse(args[2])
	must(err)
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.LogOutputs = filepath.Join(args[0], "etcd"), "error", []string{"stderr"}
	config.UnsafeNoFsync = true // what the kernel has survives a SIGKILL, and a machine that crashes takes the test with it
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	must(err)
	log.Fatal(<-server.Err())
}
