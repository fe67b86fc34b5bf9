package e2e_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An output collects what a process prints and lets a test wait for a line of it.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(p)
}

func (o *output) text() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.changed
}

func (o *output) String() string {
	text, _ := o.text()
	return text
}

// tail is the end of the output, as much as helps in a failure message.
func (o *output) tail() string {
	text := o.String()
	const most = 6000
	if len(text) > most {
		text = "..." + text[len(text)-most:]
	}
	return text
}

// A process is one started program. It is killed, by its own pid, when the test ends.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	done   chan struct{} // closed once it has ended; err is set then
	err    error
}

func startProcess(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		// A killed process cannot say so with its exit code.
		for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if strings.Contains(p.stderr.String(), bad) {
				t.Errorf("%s: %s", name, bad)
			}
		}
		if t.Failed() {
			t.Logf("%s (pid %d) said on stderr:\n%s", name, cmd.Process.Pid, p.stderr.tail())
		}
	})
	return p
}

// await returns the submatches of the first match of pattern in what the process prints on stdout.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		text, changed := p.stdout.text()
		if m := re.FindStringSubmatch(text); m != nil {
			return m
		}
		select {
		case <-changed:
		case <-p.done:
			p.t.Fatalf("%s ended (%v) before printing %q\nstdout:\n%s\nstderr:\n%s", p.name, p.err, pattern, p.stdout.tail(), p.stderr.tail())
		case <-timeout:
			p.t.Fatalf("%s did not print %q within %s\nstdout:\n%s\nstderr:\n%s", p.name, pattern, patience, p.stdout.tail(), p.stderr.tail())
		}
	}
}

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("sending %s to %s: %v", sig, p.name, err)
	}
}

// kill ends the process as a power cut would, and waits until it is gone. SIGCONT lets a stopped one be reaped.
func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("killing %s: %v", p.name, err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	<-p.done
}

// ended waits for the process to end by itself and returns its exit code.
func (p *process) ended(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("%s did not end within %s\nstderr:\n%s", p.name, limit, p.stderr.tail())
	}
	return p.cmd.ProcessState.ExitCode()
}

// A result is what a command that ran to its end left behind.
type result struct {
	stdout, stderr string
	code           int
}

// finish runs a command to its end. Not ending in time is a failure of the test.
func finish(t *testing.T, cmd *exec.Cmd, limit time.Duration) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %v: %v", cmd.Args, err)
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("%v did not end within %s\nstdout:\n%s\nstderr:\n%s", cmd.Args, limit, &stdout, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %v: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}
