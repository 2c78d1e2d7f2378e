package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// images DIR: OCI archives for `ctr images import` of what is installed on this machine, those that are not there yet.
func images(args []string) {
	if len(args) != 1 {
		log.Fatal("usage: kube-testserver images DIR")
	}
	must(os.MkdirAll(args[0], 0o755))
	for name, layer := range map[string]func(*layer){
		"pause":   pause,
		"busybox": busybox,
		"tools":   tools,
		"noshell": noShell,
	} {
		file := filepath.Join(args[0], name+".tar")
		if _, err := os.Stat(file); err == nil {
			continue
		}
		files := newLayer()
		layer(files)
		// Whoever is killed on the way leaves nothing that looks whole.
		unfinished := fmt.Sprintf("%s.%d", file, os.Getpid())
		must(os.WriteFile(unfinished, files.archive("localhost/"+name+":1"), 0o644))
		must(os.Rename(unfinished, file))
	}
}

// What a pod's sandbox runs.
func pause(l *layer) {
	l.addLinked("bin/sleep", findProgram("busybox"))
	l.process = map[string]any{"Entrypoint": []string{"/bin/sleep", "2147483647"}}
}

// Busybox with all of its applets.
func busybox(l *layer) {
	binary := findProgram("busybox")
	l.addLinked("bin/busybox", binary)
	applets, err := exec.Command(binary, "--list").Output()
	must(err)
	for _, applet := range strings.Fields(string(applets)) {
		l.link("bin/"+applet, "busybox")
	}
	l.users("/bin/sh")
}

// Busybox, and what is used over SSH: bash, sftp-server, rsync and git, from this machine.
func tools(l *layer) {
	for _, name := range []string{"bash", "rsync", "git"} {
		l.addLinked("bin/"+name, findProgram(name))
	}
	l.addLinked("usr/lib/openssh/sftp-server", "/usr/lib/openssh/sftp-server")
	// A client asks for the first two by these names; git looks for all of them where it keeps its own.
	for _, name := range []string{"git-upload-pack", "git-receive-pack", "git-upload-archive"} {
		l.link("bin/"+name, "git")
	}
	for _, name := range []string{"git", "git-upload-pack", "git-receive-pack", "git-upload-archive", "git-pack-objects",
		"git-index-pack", "git-unpack-objects", "git-rev-list", "git-gc", "git-maintenance"} {
		l.link("usr/lib/git-core/"+name, "/bin/git")
	}
	l.directory("usr/share/git-core/templates", 0o755)
	l.link("usr/bin", "../bin")
	busybox(l)
}

// A few programs and no shell.
func noShell(l *layer) {
	l.addLinked("bin/sleep", findProgram("busybox"))
	for _, applet := range []string{"cat", "echo", "env", "false", "true"} {
		l.link("bin/"+applet, "sleep")
	}
	l.users("/bin/sh")
	l.process = map[string]any{"Cmd": []string{"/bin/sleep", "2147483647"}}
}

// The one layer of an image. What is added first stays.
type layer struct {
	buffer  bytes.Buffer
	tar     *tar.Writer
	seen    map[string]bool
	process map[string]any
}

func newLayer() *layer {
	l := &layer{seen: map[string]bool{}, process: map[string]any{"Cmd": []string{"sh"}}}
	l.tar = tar.NewWriter(&l.buffer)
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "root"} {
		l.directory(dir, 0o755)
	}
	l.directory("tmp", 0o1777)
	return l
}

func (l *layer) entry(header tar.Header, data []byte) {
	name := strings.TrimSuffix(header.Name, "/")
	if l.seen[name] {
		return
	}
	l.seen[name] = true
	if parent := path.Dir(name); parent != "." {
		l.directory(parent, 0o755)
	}
	entry(l.tar, header, data)
}

func (l *layer) directory(name string, mode int64) {
	l.entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (l *layer) link(name, target string) {
	l.entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, nil)
}

func (l *layer) add(name string, data []byte) {
	l.entry(tar.Header{Name: name}, data)
}

func (l *layer) users(shell string) {
	l.entry(tar.Header{Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0:root:/root:"+shell+"\nuser:x:1000:1000:user:/tmp:"+shell+"\n"))
	l.entry(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nuser:x:1000:\n"))
}

// A program, with the libraries that it is linked to where its loader looks for them.
func (l *layer) addLinked(name, file string) {
	data, err := os.ReadFile(file)
	must(err)
	l.add(name, data)
	listed, err := exec.Command("ldd", file).CombinedOutput()
	if err != nil {
		if bytes.Contains(listed, []byte("not a dynamic executable")) {
			return
		}
		log.Fatalf("ldd %s: %v", file, err)
	}
	for _, line := range strings.Split(string(listed), "\n") {
		// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, `linux-vdso.so.1 (0x…)`
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				library, err := os.ReadFile(word)
				must(err)
				l.add(strings.TrimPrefix(word, "/"), library)
				break
			}
		}
		if strings.Contains(line, "not found") {
			log.Fatalf("%s: %s", file, strings.TrimSpace(line))
		}
	}
}

// The image as an OCI archive.
func (l *layer) archive(name string) []byte {
	must(l.tar.Close())
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	blob := func(kind string, data []byte) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		entry(archive, tar.Header{Name: "blobs/sha256/" + digest}, data)
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}
	}
	layer := blob("layer.v1.tar", l.buffer.Bytes())
	l.process["Env"] = []string{"PATH=/bin"}
	config := blob("config.v1+json", encode(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": l.process,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}}}))
	manifest := blob("manifest.v1+json", encode(map[string]any{"schemaVersion": 2,
		"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer}}))
	manifest["annotations"] = map[string]string{"io.containerd.image.name": name}
	entry(archive, tar.Header{Name: "index.json"}, encode(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}))
	entry(archive, tar.Header{Name: "oci-layout"}, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	must(archive.Close())
	return buffer.Bytes()
}

func entry(archive *tar.Writer, header tar.Header, data []byte) {
	if header.Mode == 0 {
		header.Mode = 0o755
	}
	header.Size = int64(len(data))
	must(archive.WriteHeader(&header))
	_, err := archive.Write(data)
	must(err)
}

// The bytes of a program that is linked to nothing.
func findProgram(name string) string {
	found, err := exec.LookPath(name)
	must(err)
	return found
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	must(err)
	return data
}
