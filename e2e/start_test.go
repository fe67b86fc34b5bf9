package e2e_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestTheFirstTokenIsPrintedOnce(t *testing.T) {
	s := startServer(t)
	if got := strings.Count(s.proc.stdout.String(), s.token); got < 1 {
		t.Fatalf("the token is printed %d times", got)
	}
	if strings.Contains(s.proc.stderr.String(), s.token) {
		t.Error("the token is in the log")
	}
	if !strings.HasSuffix(s.endpoint, "/psa") || !strings.HasPrefix(s.endpoint, s.root) {
		t.Errorf("the endpoint to paste is %s; want %s/psa", s.endpoint, s.root)
	}
	s.proc.kill()
	s.start()
	if text := s.proc.stdout.String() + s.proc.stderr.String(); strings.Contains(text, s.token) || strings.Contains(text, "service add frostpin "+s.endpoint+" fp_") {
		t.Errorf("the second start prints a token:\n%s", text)
	}
	s.api().list(nil) // the first token still works
}

func TestPinsOutliveARestart(t *testing.T) {
	for name, end := range map[string]func(*server){
		"stopped": func(s *server) { s.stop() },
		"killed":  func(s *server) { s.proc.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			api := s.api()
			before := map[string]pinStatus{}
			for _, p := range []pin{
				{CID: identity("a"), Name: "held", Meta: map[string]string{"k": "v"}},
				{CID: unfindable(), Name: "wanted"},
			} {
				got := api.add(p)
				before[got.ID] = got
			}
			end(s)
			s.start()
			after := api.all()
			if len(after) != len(before) {
				t.Fatalf("%d pins after the restart; want %d", len(after), len(before))
			}
			for id, want := range before {
				got := after[id]
				if got.Pin.Name != want.Pin.Name || got.Pin.CID != want.Pin.CID || got.Pin.Meta["k"] != want.Pin.Meta["k"] || !got.Created.Equal(want.Created) {
					t.Errorf("after the restart %+v; want %+v", got, want)
				}
			}
		})
	}
}

func TestTokensAreMadeAndRevokedWhileTheServerRuns(t *testing.T) {
	s := startServer(t)
	token := s.newToken("ann")
	api := s.as(token)
	api.add(pin{CID: identity("ann's")})

	id := ""
	for line := range strings.SplitSeq(s.must("token", "list"), "\n") {
		if strings.Contains(line, token) {
			t.Errorf("token list shows the token: %s", line)
		}
		if fields := strings.Fields(line); len(fields) > 0 && strings.Contains(token, "_"+fields[0]+"_") {
			id = fields[0]
		}
	}
	if id == "" {
		t.Fatalf("token list does not begin a line with the id in the token:\n%s", s.must("token", "list"))
	}
	s.must("token", "revoke", id)
	api.want(http.StatusUnauthorized, http.MethodGet, "/pins", nil, nil, nil)
	s.api().list(nil) // nobody else's
}

func TestAccountsDoNotSeeEachOther(t *testing.T) {
	s := startServer(t)
	ann, bob := s.as(s.newToken("ann")), s.as(s.newToken("bob"))
	device := s.as(s.must("token", "create", "--account", "ann", "--label", "her second device"))
	got := ann.add(pin{CID: identity("ann's"), Name: "hers"})

	device.get(got.ID)
	everything := url.Values{"status": {allStatuses}}
	if n := bob.list(everything).Count; n != 0 {
		t.Errorf("bob sees %d pins", n)
	}
	bob.gone(got.ID)
	bob.want(http.StatusNotFound, http.MethodPost, "/pins/"+got.ID, nil, pin{CID: identity("bob's")}, nil)
	bob.want(http.StatusNotFound, http.MethodDelete, "/pins/"+got.ID, nil, nil, nil)
	if n := bob.list(everything).Count; n != 0 {
		t.Errorf("the refused replacement left %d pins with bob", n)
	}
	if p := ann.get(got.ID); p.Pin.Name != "hers" {
		t.Errorf("ann's pin is now %+v", p)
	}
}

func TestStopIsQuickWithWorkInHand(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	api := s.api()
	root, _ := author.hollow()
	api.add(pin{CID: root, Origins: author.addresses()})
	for range 50 {
		api.add(pin{CID: unfindable()})
	}
	eventually(t, "a fetch is running", func() (bool, any) {
		n := api.total("pinning")
		return n == 1, n
	})
	took, code := s.stop()
	if took > 10*time.Second || code != 0 {
		t.Errorf("stopping took %s with exit code %d; want at most 10 s and 0\n%s", took, code, s.proc.stderr.tail())
	}
	s.start()
	if n := api.total(allStatuses); n != 51 {
		t.Errorf("%d pins after the restart; want 51", n)
	}
}

// The tests run where there may be no internet, and the public network must start, serve and stop there too.
func TestPublicNetworkStartsServesAndStops(t *testing.T) {
	s := newServer(t, "public", "FROSTPIN_SWARM_LISTEN=/ip4/127.0.0.1/tcp/0")
	s.start()
	if got := s.api().add(pin{CID: identity("public")}); got.Status != "pinned" || len(got.Delegates) == 0 {
		t.Errorf("added %+v; want it pinned, with delegates", got)
	}
	s.api().add(pin{CID: unfindable()})
	took, code := s.stop()
	if took > 10*time.Second || code != 0 {
		t.Errorf("stopping took %s with exit code %d; want at most 10 s and 0\n%s", took, code, s.proc.stderr.tail())
	}
}

func TestASecondServerOnTheSameDataIsRefused(t *testing.T) {
	s := startServer(t)
	r := finish(t, s.command("serve", "--network", "private", "--listen", "127.0.0.1:0"), patience)
	if r.code == 0 || !strings.Contains(r.stderr, s.dir) {
		t.Errorf("a second server ended with code %d and said:\n%s", r.code, r.stderr)
	}
	s.api().list(nil)
}

func TestAWrongSettingIsNamedBeforeAnythingStarts(t *testing.T) {
	s := newServer(t, "private", "FROSTPIN_LOG_LEVEL=loud", "FROSTPIN_GC_INTERVAL=often", "FROSTPIN_NO_SUCH=1")
	r := finish(t, s.command("serve", "--listen", "nowhere"), patience)
	if r.code == 0 || !containsAll(strings.ToLower(r.stderr), "log", "gc", "no", "listen") {
		t.Errorf("serve ended with code %d and said:\n%s", r.code, r.stderr)
	}
	for _, name := range []string{"FROSTPIN_LOG_LEVEL", "FROSTPIN_GC_INTERVAL", "FROSTPIN_NO_SUCH"} {
		short := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "FROSTPIN_")), "_", "-")
		if !strings.Contains(r.stderr, name) && !strings.Contains(r.stderr, short) {
			t.Errorf("%s is not named:\n%s", name, r.stderr)
		}
	}
}
