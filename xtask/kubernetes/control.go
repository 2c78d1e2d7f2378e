package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long something may take to become ready before that is an error.
const patience = 60 * time.Second

// The end that somebody asked for.
var errTold = errors.New("told to end")

// The end of a component that nobody asked for, and with it of the cluster: no test is to go on as if nothing were.
type lost struct{ error }

// A process of the cluster. Only the goroutine of up touches it: a child's life is tied to the thread that started it.
type component struct {
	name  string
	args  []string
	ready func() bool
	child *exec.Cmd // nil: not running
	done  chan struct{}
}

type death struct {
	component *component
	child     *exec.Cmd
	err       error
}

type request struct {
	line   string
	answer chan map[string]any
}

type cluster struct {
	dir        string
	stop       context.Context
	requests   <-chan request
	deaths     chan death
	components []*component
	starting   *component
}

// Commands from standard input and from a Unix socket, one a line, each answered by one line of JSON where it came from. The
// end of standard input ends the cluster, where it is listened to at all.
func listen(path string, input bool, end func()) <-chan request {
	requests := make(chan request)
	serve := func(from io.Reader, to io.Writer) {
		lines := bufio.NewScanner(from)
		for lines.Scan() {
			one := request{line: lines.Text(), answer: make(chan map[string]any, 1)}
			requests <- one
			if json.NewEncoder(to).Encode(<-one.answer) != nil {
				return
			}
		}
	}
	if input {
		go func() { serve(os.Stdin, os.Stdout); end() }()
	}
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	must(err)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer connection.Close(); serve(connection, connection) }()
		}
	}()
	return requests
}

func (c *cluster) add(name string, ready func() bool, args ...string) {
	c.components = append(c.components, &component{name: name, args: args, ready: ready})
}

// Does what it is told, until the end.
func (c *cluster) serve() error {
	for {
		select {
		case <-c.stop.Done():
			return errTold
		case death := <-c.deaths:
			if err := c.note(death); err != nil {
				return err
			}
		case request := <-c.requests:
			answer, err := c.do(request.line)
			var fatal lost
			if errors.Is(err, errTold) || errors.As(err, &fatal) {
				return err // the asker sees the end of the connection
			}
			if err != nil {
				answer = map[string]any{"error": err.Error()}
			}
			request.answer <- answer
		}
	}
}

func (c *cluster) do(line string) (map[string]any, error) {
	answer := map[string]any{"done": line}
	words := strings.Fields(line)
	switch {
	case line == "end":
		return nil, errTold
	case line == "mend":
		return answer, c.mend()
	case len(words) != 2:
		return nil, fmt.Errorf("no such command: %q; there are stop, continue, kill and start COMPONENT, mend, end", line)
	}
	one, err := c.named(words[1])
	if err != nil {
		return nil, err
	}
	if words[0] == "start" {
		if one.child != nil {
			return nil, fmt.Errorf("%s is running", one.name)
		}
		if err := c.start(one); err != nil {
			return nil, err
		}
		answer["pid"] = one.child.Process.Pid
		return answer, nil
	}
	if one.child == nil {
		return nil, fmt.Errorf("%s is not running", one.name)
	}
	switch words[0] {
	case "stop":
		return answer, one.pause()
	case "continue":
		return answer, one.child.Process.Signal(syscall.SIGCONT)
	case "kill":
		return answer, one.kill()
	}
	return nil, fmt.Errorf("no such command: %q", line)
}

func (c *cluster) named(name string) (*component, error) {
	var names []string
	for _, one := range c.components {
		if one.name == name {
			return one, nil
		}
		names = append(names, one.name)
	}
	return nil, fmt.Errorf("no such component: %q; there are %s", name, strings.Join(names, ", "))
}

// All components run and are ready, whatever was done to them.
func (c *cluster) mend() error {
	for _, one := range c.components {
		if one.child != nil {
			if err := one.child.Process.Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
		}
	}
	for _, one := range c.components {
		if one.child == nil {
			if err := c.start(one); err != nil {
				return err
			}
		} else if err := c.await(one.name, one.ready); err != nil {
			return err
		}
	}
	return nil
}

// Starts a component and waits until it is ready; where it ends before, that is the error.
func (c *cluster) start(one *component) error {
	out, err := os.OpenFile(filepath.Join(c.dir, one.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	child := exec.Command("/proc/self/exe", append([]string{one.name}, one.args...)...)
	child.Stdout, child.Stderr = out, out
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		return err
	}
	one.child, one.done = child, make(chan struct{})
	go func(done chan struct{}) {
		err := child.Wait()
		close(done)
		c.deaths <- death{one, child, err}
	}(one.done)
	c.starting = one
	defer func() { c.starting = nil }()
	err = c.await(one.name, func() bool { return one.child == nil || one.ready() })
	if err == nil && one.child == nil {
		err = fmt.Errorf("%s ended before it was ready: see %s", one.name, out.Name())
	}
	return err
}

// Waits until something is so.
func (c *cluster) await(what string, is func() bool) error {
	deadline := time.After(patience)
	for !is() {
		select {
		case <-c.stop.Done():
			return errTold
		case death := <-c.deaths:
			if err := c.note(death); err != nil {
				return err
			}
		case <-deadline:
			return fmt.Errorf("%s was not ready in %v", what, patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Takes note of the end of a process; an error where nobody has asked for it.
func (c *cluster) note(death death) error {
	one := death.component
	if one.child != death.child {
		return nil // killed by order, and perhaps another one runs by now
	}
	one.child = nil
	err := fmt.Errorf("%s ended: %v; see %s", one.name, death.err, filepath.Join(c.dir, one.name+".log"))
	if one == c.starting || one.name == "kubelet" { // a kubelet may end: the node is lost then, which tests look at
		log.Print(err)
		return nil
	}
	return lost{err}
}

// Returns when every thread stands still.
func (one *component) pause() error {
	if err := one.child.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var found unix.Siginfo
		err := unix.Waitid(unix.P_PID, one.child.Process.Pid, &found, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != nil {
			return err
		}
		if found.Signo != 0 {
			return nil
		}
	}
	return fmt.Errorf("%s did not stop", one.name)
}

// Returns when it is gone.
func (one *component) kill() error {
	err := one.child.Process.Signal(syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	one.child = nil
	<-one.done
	return nil
}

func (c *cluster) end() {
	for i := len(c.components) - 1; i >= 0; i-- {
		if one := c.components[i]; one.child != nil {
			_ = one.kill() // nothing here is worth a slow end
		}
	}
}
