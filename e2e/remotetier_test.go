package e2e_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A daemonTier is a server whose blocks are kept by a Kubo daemon of its operator, and the node data comes from.
type daemonTier struct {
	*server
	daemon, author *ipfsNode
}

func newDaemonTier(t *testing.T) *daemonTier {
	t.Helper()
	daemon, author := startIPFS(t), startIPFS(t)
	s := startServer(t, "FROSTPIN_HOT=remote", "FROSTPIN_HOT_URL="+daemon.rpc,
		"FROSTPIN_FETCH_IDLE=2s", "FROSTPIN_FETCH_STALL=5s", "FROSTPIN_RETRY_FIRST=500ms", "FROSTPIN_RETRY_MAX=2s")
	return &daemonTier{s, daemon, author}
}

// stillUp checks that the API answers every kind of request, and quickly, and returns the pin it added.
func (d *daemonTier) stillUp() string {
	d.t.Helper()
	api := d.api()
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
	defer cancel()
	var got pinStatus
	for _, request := range []struct {
		method, path string
		body, into   any
		want         int
	}{
		{http.MethodPost, "/pins", pin{CID: unfindable()}, &got, http.StatusAccepted},
		{http.MethodGet, "/pins", nil, nil, http.StatusOK},
		{"GET", "", nil, nil, http.StatusOK},
		{"POST", "", pin{CID: identity("replacement")}, &got, http.StatusAccepted},
	} {
		path := request.path
		if path == "" {
			path = "/pins/" + got.ID
		}
		code, err := api.call(ctx, request.method, path, nil, request.body, request.into)
		if err != nil || code != request.want {
			d.t.Errorf("with the daemon away %s %s: code %d, error %v; want %d", request.method, request.path, code, err, request.want)
		}
	}
	if len(got.Delegates) == 0 {
		d.t.Errorf("with the daemon away an answer has no delegates: %+v", got)
	}
	if code, body := d.fetch("/healthz"); code != http.StatusOK {
		d.t.Errorf("/healthz answers %d %s", code, body)
	}
	return got.ID
}

func TestRemoteDaemonAwayMidPin(t *testing.T) { //nolint:tparallel // one after the other
	t.Parallel() // it waits for the daemon most of the time
	for name, away := range map[string]struct{ leave, back func(*ipfsNode) }{
		"killed":  {func(n *ipfsNode) { n.proc.kill() }, func(n *ipfsNode) { n.start() }},
		"stopped": {func(n *ipfsNode) { n.stop() }, func(n *ipfsNode) { n.start() }},
		"hung": {
			func(n *ipfsNode) { n.proc.signal(syscall.SIGSTOP) },
			func(n *ipfsNode) { n.proc.signal(syscall.SIGCONT) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemonTier(t)
			rounds := 1
			if long() {
				rounds = 4
			}
			for range rounds {
				d.awayOnce(away.leave, away.back)
			}
		})
	}
}

func (d *daemonTier) awayOnce(leave, back func(*ipfsNode)) {
	t := d.t
	t.Helper()
	api := d.api()
	origins := d.author.addresses()
	held := api.add(pin{CID: d.author.addText(string(noise(900)), "--cid-version=1"), Origins: origins})
	api.ends(held.ID, "pinned")
	root, missing := d.author.hollow()
	hollow := api.add(pin{CID: root, Origins: origins})
	api.ends(hollow.ID, "pinning")
	large := api.add(pin{CID: d.author.add(directory(t, 200)), Origins: origins})

	leave(d.daemon)
	small := d.stillUp()
	if got := api.get(held.ID); got.Status != "pinned" {
		t.Errorf("a pinned pin became %s while the daemon was away", got.Status)
	}
	if got := api.get(hollow.ID); got.Status == "pinned" || got.Status == "failed" {
		t.Errorf("a pin that lacks a block became %s while the daemon was away", got.Status)
	}
	d.author.fill(missing)
	back(d.daemon)

	for _, id := range []string{held.ID, hollow.ID, large.ID, small} {
		p := api.ends(id, "pinned")
		if !isIdentity(t, p.Pin.CID) {
			recursive := strings.Fields(d.daemon.must("pin", "ls", "--type=recursive", "--quiet"))
			if c := spelled(t, p.Pin.CID, 1); !slices.Contains(recursive, c) {
				t.Errorf("%s is pinned for the API but not in the daemon", c)
			}
			d.daemon.must("refs", "-r", "--unique", "--offline", p.Pin.CID)
		}
	}
}

// A server must also get up while its daemon is down, and say what it knows.
func TestRemoteDaemonDownAtStart(t *testing.T) {
	d := newDaemonTier(t)
	api := d.api()
	held := api.add(pin{CID: identity("held")})
	d.daemon.stop()
	d.stop()

	d.start()
	if got := api.get(held.ID); got.Status != "pinned" || len(got.Delegates) == 0 {
		t.Errorf("with the daemon down the API shows %+v", got)
	}
	waiting := api.add(pin{CID: d.author.addText("later"), Origins: d.author.addresses()})
	d.daemon.start()
	api.ends(waiting.ID, "pinned")
}
