package hot_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// everything is what a tier can be asked, each with its error.
func everything(ctx context.Context, tier *hot.Remote) map[string]error {
	root := pinstest.Leaf("asked for").Root
	got := make(map[string]error)
	got["Hold"] = tier.Hold(ctx, root, pins.Limits{}, nil)
	got["Hold offline"] = tier.Hold(ctx, pinstest.Node("asked for").Cid(), pins.Limits{Offline: true}, nil)
	got["Release"] = tier.Release(ctx, root)
	_, got["Held"] = tier.Held(ctx, root)
	got["Roots"] = tier.Roots(ctx, func(cid.Cid) error { return nil })
	got["Find"] = tier.Find(ctx, []cid.Cid{root}, func(cid.Cid) {})
	_, got["Block"] = tier.Block(ctx, root)
	got["Announce"] = tier.Announce(ctx, root)
	_, got["Delegates"] = tier.Delegates(ctx)
	_, got["Usage"] = tier.Usage(ctx)
	_, got["Collect"] = tier.Collect(ctx, nil)
	_, got["ID"] = tier.ID(ctx)
	_, got["Risks"] = tier.Risks(ctx)
	tier.Connect(ctx, []peer.AddrInfo{{ID: "x"}})()
	return got
}

// Kubo's client panics, prints, or forgets the error where a daemon does not answer as it should (H6).
func TestDaemonThatDoesNotAnswerIsUnavailable(t *testing.T) {
	secret := "Bearer of-the-secret"
	stderr := captureStderr(t)
	for name, answer := range map[string]http.HandlerFunc{
		"500 as text": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", 500) },
		"500 as HTML": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(500)
			fmt.Fprint(w, "<html>broken</html>")
		},
		"502 without a word": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) },
		"503 from a proxy": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			w.WriteHeader(503)
		},
		"401": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you", 401) },
		"403": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "403 - Forbidden", 403) },
		"404": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", 404) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
		},
		"a cut connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"an answer that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"Key`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			var authorized atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == secret {
					authorized.Add(1)
				}
				answer(w, r)
			}))
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			server.Start()
			defer server.Close()
			tier := openRemote(t, hot.RemoteConfig{URL: server.URL, Authorization: secret})
			tier.Hasten(300 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for what, err := range everything(ctx, tier) {
				if !errors.Is(err, pins.ErrUnavailable) {
					t.Errorf("%s: %v; want it unavailable", what, err)
				}
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%s tells the secret: %v", what, err)
				}
			}
			if authorized.Load() == 0 {
				t.Error("no request carried the authorization")
			}
		})
	}
	if said := stderr(); said != "" {
		t.Errorf("written to stderr:\n%s", said)
	}
}

// captureStderr collects what anyone writes to stderr until it is called again.
func captureStderr(t *testing.T) (said func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	t.Cleanup(func() { os.Stderr = stderr })
	return func() string {
		os.Stderr = stderr
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func TestNoDaemonIsUnavailableUntilItComes(t *testing.T) {
	announced := "/dns4/pin.example/tcp/4001/p2p/" + node
	tier := openRemote(t, hot.RemoteConfig{URL: "http://127.0.0.1:1", Announce: []string{announced}}) // nobody listens there
	for what, err := range everything(t.Context(), tier) {
		if what == "Delegates" {
			if err != nil {
				t.Errorf("what the operator announces is not told: %v", err)
			}
			continue
		}
		if !errors.Is(err, pins.ErrUnavailable) {
			t.Errorf("%s: %v; want it unavailable", what, err)
		}
	}
	for _, url := range []string{"", "127.0.0.1:5001", "ftp://127.0.0.1", "/ip4/127.0.0.1/tcp/5001", "http://"} {
		if _, err := hot.OpenRemote(t.Context(), hot.RemoteConfig{URL: url}); err == nil {
			t.Errorf("the address %q was taken", url)
		}
	}
}

// slowAnswer is more than a real daemon takes on a machine that is busy.
const slowAnswer = 5 * time.Second

func TestDaemonKilledMidHold(t *testing.T) {
	daemon := startDaemon(t)
	tier := openRemote(t, hot.RemoteConfig{URL: daemon.url(), AllowPrivateOrigins: true})
	tier.Hasten(slowAnswer)
	p := newPeer(t)
	d := pinstest.Tree("killed", 20)
	p.provide(d.Blocks[:20]...)
	release := tier.Connect(t.Context(), []peer.AddrInfo{p.info()})
	held := pinstest.Leaf("held before")
	p.provide(held.Blocks...)
	if err := tier.Hold(t.Context(), held.Root, impatient, nil); err != nil {
		t.Fatal(err)
	}
	told, err := tier.Delegates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var progress pins.Progress
	holding := make(chan error, 1)
	go func() { holding <- tier.Hold(t.Context(), d.Root, pins.Limits{}, &progress) }()
	poll(t, func() bool { n, _ := progress.Totals(); return n == 20 })
	daemon.kill()
	if err := wait(t, holding); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("the hold that ran: %v", err)
	}
	release()
	if _, err := tier.Held(t.Context(), d.Root); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("asked while the daemon is away: %v", err)
	}
	if again, err := tier.Delegates(t.Context()); err != nil || len(again) != len(told) {
		t.Errorf("the delegates while the daemon is away: %q, %v; want %q", again, err, told)
	}
	daemon.run()
	p.provide(d.Blocks...)
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	for _, root := range []cid.Cid{d.Root, held.Root} {
		if ok, err := tier.Held(t.Context(), root); err != nil || !ok {
			t.Errorf("%s after the restart: held %v, %v", root, ok, err)
		}
	}
}

func TestHungDaemonIsUnavailable(t *testing.T) {
	daemon := startDaemon(t)
	tier := openRemote(t, hot.RemoteConfig{URL: daemon.url(), AllowPrivateOrigins: true})
	tier.Hasten(slowAnswer)
	p := newPeer(t)
	d := pinstest.Tree("hung", 5)
	p.provide(d.Blocks[:5]...)
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	var progress pins.Progress
	holding := make(chan error, 1)
	go func() { holding <- tier.Hold(t.Context(), d.Root, pins.Limits{}, &progress) }()
	poll(t, func() bool { n, _ := progress.Totals(); return n == 5 })
	// It lives, and the last block is nowhere: that is no reason to give up.
	select {
	case err := <-holding:
		t.Fatalf("a living daemon that waits for a block: %v", err)
	case <-time.After(time.Second):
	}
	daemon.freeze(true)
	defer daemon.freeze(false)
	if err := wait(t, holding); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("the hold that ran: %v", err)
	}
	if _, err := tier.Held(t.Context(), d.Root); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("a frozen daemon was asked: %v", err)
	}
	daemon.freeze(false)
	p.provide(d.Blocks...)
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Errorf("after it thawed: %v", err)
	}
}

// between is the address of a proxy in front of the daemon that tells each command before it passes it on.
func between(t *testing.T, daemon *daemonProcess, tell func(command string)) string {
	t.Helper()
	target, err := url.Parse(daemon.url())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tell(strings.TrimPrefix(r.URL.Path, "/api/v0/"))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Pinning what is pinned would first take the old pin away, and a cancellation would leave it so (H1).
func TestPinnedRootIsNeverPinnedAgain(t *testing.T) {
	daemon := startDaemon(t)
	p := newPeer(t)
	d := pinstest.Tree("pinned once", 5)
	p.provide(d.Blocks...)
	var adds atomic.Int64
	tier := openRemote(t, hot.RemoteConfig{AllowPrivateOrigins: true, URL: between(t, daemon, func(command string) {
		if command == "pin/add" || command == "pin/update" {
			adds.Add(1)
		}
	})})
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	for range 3 {
		if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := adds.Load(); n != 1 {
		t.Errorf("the daemon was told %d times to pin", n)
	}
}

// A block may go between the walk and the pin, when someone else collects. The daemon then waits for it with all pins
// locked, so it must not be left to wait (H2, H21).
func TestBlockThatGoesBeforeThePinIsNotWaitedFor(t *testing.T) {
	daemon := startDaemon(t)
	p := newPeer(t)
	d := pinstest.Tree("goes", 5)
	p.provide(d.Blocks...)
	var gone sync.Once
	server := between(t, daemon, func(command string) {
		if command == "pin/add" {
			gone.Do(func() {
				p.store.silence(true)
				daemon.ipfs("block", "rm", d.Blocks[3].Cid().String())
			})
		}
	})
	tier := openRemote(t, hot.RemoteConfig{URL: server, AllowPrivateOrigins: true})
	tier.Hasten(slowAnswer)
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err == nil || !strings.Contains(err.Error(), "stands still") {
		t.Fatalf("pinning what is not all there: %v", err)
	}
	if _, err := tier.Collect(t.Context(), nil); err != nil {
		t.Errorf("a collection after it: %v", err)
	}
	p.store.silence(false)
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Errorf("holding it again: %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	c := hot.RemoteConfig{URL: "http://127.0.0.1:5001", Authorization: "Bearer hush"}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("opening", "config", c)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c), logged.String()} {
		if strings.Contains(s, "hush") {
			t.Errorf("the secret stands in %q", s)
		}
	}
}

// Each request that waits holds a socket here and there, and those that wait for nothing must let others look (H20).
func TestManyUnfindableRootsTakeTurns(t *testing.T) {
	findable := pinstest.Leaf("findable").Root
	var now, most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/version") || strings.Contains(r.URL.RawQuery, findable.String()) {
			fmt.Fprintf(w, `{"Key":%q,"Size":5}`, findable)
			return
		}
		<-r.Context().Done()
	}))
	defer server.Close()
	tier := openRemote(t, hot.RemoteConfig{URL: server.URL})
	ctx, cancel := context.WithCancel(t.Context())
	var finding sync.WaitGroup
	for i := range 5 {
		finding.Go(func() {
			roots := make([]cid.Cid, pins.MaxFind)
			for j := range roots {
				roots[j] = pinstest.Leaf(fmt.Sprintf("%d/%d", i, j)).Root
			}
			if err := tier.Find(ctx, roots, func(c cid.Cid) { t.Errorf("found %s", c) }); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	poll(t, func() bool { return now.Load() == hot.DaemonSockets/2 })
	short, stop := context.WithTimeout(t.Context(), 60*time.Second)
	defer stop()
	if err := tier.Find(short, []cid.Cid{findable}, func(cid.Cid) {}); err != nil {
		t.Errorf("a findable root among 200 others: %v", err)
	}
	cancel()
	finding.Wait()
	if most.Load() > hot.DaemonSockets+2 {
		t.Errorf("%d requests were on their way at once", most.Load())
	}
}

func TestDoctorNamesWhatIsRisky(t *testing.T) {
	for _, c := range []struct {
		name, config string
		private      bool
		want         []string
	}{
		{
			"as Kubo makes it", `{"Datastore":{"Spec":{"type":"mount","mounts":[{"type":"flatfs","sync":false}]}},"Swarm":{}}`, false,
			[]string{"HTTPRetrieval", "AddrFilters", "flatfs", "Provide.Strategy"},
		},
		{"as we ask for", `{"Datastore":{"Spec":{"type":"pebbleds"}},"Swarm":{"AddrFilters":["/ip4/10.0.0.0/ipcidr/8"]},
			"HTTPRetrieval":{"Enabled":false},"Provide":{"Strategy":"roots"}}`, false, nil},
		{"with private origins", `{"Datastore":{"Spec":{"type":"measure","child":{"type":"flatfs","sync":true}}},"Swarm":{},
			"HTTPRetrieval":{"Enabled":false},"Provide":{"Enabled":false}}`, true, nil},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, c.config)
		}))
		risks, err := openRemote(t, hot.RemoteConfig{URL: server.URL, AllowPrivateOrigins: c.private}).Risks(t.Context())
		server.Close()
		if err != nil || len(risks) != len(c.want) {
			t.Errorf("%s: %q, %v; want them about %q", c.name, risks, err, c.want)
			continue
		}
		for i, about := range c.want {
			if !strings.Contains(risks[i], about) {
				t.Errorf("%s: %q is not about %s", c.name, risks[i], about)
			}
		}
	}
}

// The daemon may have pins and peers of its own.
func TestWhatIsTheOperatorsStays(t *testing.T) {
	daemon := startDaemon(t)
	tier := openRemote(t, hot.RemoteConfig{URL: daemon.url(), AllowPrivateOrigins: true})
	p := newPeer(t)
	d := pinstest.Tree("theirs", 2)
	p.provide(d.Blocks...)
	daemon.ipfs("swarm", "peering", "add", p.info().Addrs[0].String()+"/p2p/"+p.info().ID.String())
	release := tier.Connect(t.Context(), []peer.AddrInfo{p.info()})
	daemon.ipfs("pin", "add", pinstest.V0(d.Root).String())
	if err := tier.Roots(t.Context(), func(c cid.Cid) error { return fmt.Errorf("listed %s", c) }); err != nil {
		t.Errorf("a pin that is not ours: %v", err)
	}
	release()
	if left := daemon.ipfs("swarm", "peering", "ls"); !strings.Contains(left, p.info().ID.String()) {
		t.Error("a peering of the operator was ended")
	}
	// The same DAG under its canonical name is ours to pin and to release.
	if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := tier.Release(t.Context(), d.Root); err != nil {
		t.Fatal(err)
	}
	if left := daemon.ipfs("pin", "ls", "--type=recursive", "-q"); !strings.Contains(left, pinstest.V0(d.Root).String()) {
		t.Error("a pin of the operator was taken away")
	}
}

func TestPeeringsEndWithTheirLastUser(t *testing.T) {
	daemon := startDaemon(t)
	tier := openRemote(t, hot.RemoteConfig{URL: daemon.url(), AllowPrivateOrigins: true})
	p := newPeer(t)
	peered := func() bool {
		return strings.Contains(daemon.ipfs("swarm", "peering", "ls"), p.info().ID.String())
	}
	first := tier.Connect(t.Context(), []peer.AddrInfo{p.info()})
	second := tier.Connect(t.Context(), []peer.AddrInfo{p.info()})
	first()
	first()
	if !peered() {
		t.Error("the peering ended with its first user")
	}
	second()
	if peered() {
		t.Error("the peering outlived its last user")
	}
}

// poll waits until ok.
func poll(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

func wait(t *testing.T, answer <-chan error) error {
	t.Helper()
	select {
	case err := <-answer:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("waited in vain")
		return nil
	}
}
