package e2e_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// A DAG whose deals are proven makes room on a disk that is too small for it, is read from Filecoin as long as it is away,
// and comes back because it is read. Its pin is `pinned` all the time, also when the server is killed in between.
func TestWhatIsProvenMakesRoomAndComesBackWhenItIsRead(t *testing.T) {
	t.Parallel() // it waits for epochs most of the time
	l := newLibrary(t)
	size, err := strconv.Atoi(l.api().get(l.id).Info["dag_size"])
	if err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.env = append(l.env, fmt.Sprintf("FROSTPIN_HOT_QUOTA=%dB", size*11/10), "FROSTPIN_HOT_STAY=10s", "FROSTPIN_GC_INTERVAL=2s")
	l.start()
	l.becomes("offloaded")
	if got := l.must("hot", l.root); !strings.Contains(got, "offloaded") || !strings.Contains(got, "let go        20") {
		t.Errorf("`frostpin hot CID` says:\n%s", got)
	}
	l.proc.kill()
	l.start()
	within(t, patience, "its blocks are collected", func() (bool, any) { // by the process that was killed, or by its successor
		code := l.cached(l.root)
		return code == http.StatusPreconditionFailed, code
	})
	if tiers := l.comesBack(); tiers["cold"] == 0 {
		t.Errorf("what was let go is read from %v", tiers)
	}
	l.heals()
	if got := l.must("hot"); !strings.Contains(got, "it was read or asked for lately") {
		t.Errorf("`frostpin hot` says:\n%s", got)
	}
}

// cached is the status of a request for what has to be here already. It reads nothing, so it does not count as a read.
func (l *library) cached(root string) int {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodHead, l.server.root+"/ipfs/"+root, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Cache-Control", "only-if-cached")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// becomes waits until the library is in a state, and its pin is `pinned` until then.
func (l *library) becomes(hot string) {
	l.t.Helper()
	within(l.t, 2*patience, "the library is "+hot, func() (bool, any) {
		got := l.api().get(l.id)
		if got.Status != "pinned" {
			l.t.Fatalf("the pin is %s: %v", got.Status, got.Info)
		}
		return got.Info["hot_status"] == hot, got
	})
}
