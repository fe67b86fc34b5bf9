package main

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/spec"
)

func TestListFindsEveryPinOfSloppyServicesOnce(t *testing.T) {
	for name, sloppy := range map[string]func(*model){
		"conforming":               func(*model) {},
		"small pages":              func(m *model) { m.maxLimit = 7 },
		"count is the page's":      func(m *model) { m.maxLimit, m.count = 10, func(n int) int { return min(n, 10) } },
		"count is nothing":         func(m *model) { m.maxLimit, m.count = 10, func(int) int { return 0 } },
		"count is too much":        func(m *model) { m.maxLimit, m.count = 10, func(int) int { return 1 << 30 } },
		"finer than milliseconds":  func(m *model) { m.tick, m.maxLimit = 300*time.Microsecond, 10 },
		"oldest first":             func(m *model) { m.upward, m.maxLimit = true, 10 },
		"deaf, but all in a page":  func(m *model) { m.deaf = true },
		"all at the same instant":  func(m *model) { m.tick = 0 },
		"finer, the oldest first":  func(m *model) { m.upward, m.tick, m.maxLimit = true, 300*time.Microsecond, 10 },
		"pages of eleven, seconds": func(m *model) { m.tick, m.maxLimit = time.Second, 11 },
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t)
			sloppy(m)
			for i := range 99 {
				m.pin(wanted{CID: identity(i)}, spec.Pinned)
			}
			seen := map[string]int{}
			for row, err := range testAPI(t, m).list(t.Context(), []spec.Status{spec.Pinned}) {
				if err != nil {
					t.Fatal(err)
				}
				seen[row.ID]++
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("%s was listed %d times", id, n)
				}
			}
			if len(seen) != 99 {
				t.Errorf("listed %d of 99 pins", len(seen))
			}
		})
	}
}

func TestListSaysWhenAServiceCannotBeListedToItsEnd(t *testing.T) {
	m := newModel(t)
	m.deaf, m.maxLimit = true, 10
	for i := range 50 {
		m.pin(wanted{CID: identity(i)}, spec.Pinned)
	}
	var last error
	for _, err := range testAPI(t, m).list(t.Context(), []spec.Status{spec.Pinned}) {
		last = err
	}
	if last == nil {
		t.Error("ten of fifty pins passed for all")
	}
}

func mirrorOf(t *testing.T, from, to *model) *mirror {
	t.Helper()
	m := &mirror{from: testAPI(t, from), to: testAPI(t, to)}
	m.summary.verb = "copied"
	return m
}

func TestMirrorCopiesEachPinOnceHoweverOftenItIsEnded(t *testing.T) {
	from, to := newModel(t), newModel(t)
	for i := range 60 {
		from.pin(wanted{CID: identity(i % 40), Name: "pin " + strconv.Itoa(i/2), Meta: map[string]string{"a": "b", "frostpin.cold": "on"}}, spec.Pinned)
	}
	from.pin(wanted{CID: identity(1000)}, spec.Failed)
	var posts atomic.Int32
	var cancel context.CancelFunc
	to.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && posts.Add(1)%13 == 0 {
			cancel()
		}
		return false
	}
	runs := 0
	for done := false; !done; runs++ {
		if runs > 20 {
			t.Fatal("it does not get on")
		}
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		done = mirrorOf(t, from, to).run(ctx, []spec.Status{spec.Pinned}) == nil
		cancel()
		<-time.After(10 * time.Millisecond) // requests that were under way are carried out
	}
	if runs < 3 {
		t.Fatalf("it was ended %d times only", runs-1)
	}
	want := from.names()[:0]
	for _, name := range from.names() {
		if !strings.HasPrefix(name, identity(1000)) {
			want = append(want, name)
		}
	}
	if diff := cmp.Diff(want, to.names()); diff != "" {
		t.Error(diff)
	}
	for _, row := range to.rows {
		if diff := cmp.Diff(map[string]string{"a": "b"}, row.Pin.Meta); diff != "" || len(row.Pin.Origins) != 1 {
			t.Fatalf("meta: %s origins: %v", diff, row.Pin.Origins)
		}
	}
	again := mirrorOf(t, from, to)
	if err := again.run(t.Context(), []spec.Status{spec.Pinned}); err != nil || again.summary.Done != 0 || again.summary.Skipped != 60 {
		t.Errorf("again: %s, %v", again.summary.line(), err)
	}
}

func TestMirrorMakesNothingAgainOfDAGsWithMorePinsThanAPage(t *testing.T) {
	for name, sloppy := range map[string]func(*model){
		"conforming":                func(*model) {},
		"small pages":               func(m *model) { m.maxLimit = 30 },
		"small pages, no count":     func(m *model) { m.maxLimit, m.count = 30, func(int) int { return 0 } },
		"it ignores filters":        func(m *model) { m.vague, m.maxLimit = true, 30 },
		"it lists the oldest first": func(m *model) { m.upward, m.maxLimit = true, 200 },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newModel(t), newModel(t)
			sloppy(to)
			to.pin(wanted{CID: identity(1)}, spec.Queued) // the oldest: it is on the last page
			for i := range 1100 {
				to.pin(wanted{CID: identity(1), Name: "pin " + strconv.Itoa(i)}, spec.Queued)
			}
			to.pin(wanted{CID: identity(2)}, spec.Queued)
			for range 25 { // in more than one batch
				from.pin(wanted{CID: identity(1)}, spec.Pinned)
			}
			for i := range 5 {
				from.pin(wanted{CID: identity(1), Name: "pin " + strconv.Itoa(7*i)}, spec.Pinned)
			}
			from.pin(wanted{CID: identity(2)}, spec.Pinned)
			from.pin(wanted{CID: identity(2), Name: "new"}, spec.Pinned)
			from.pin(wanted{CID: identity(3)}, spec.Pinned)
			from.pin(wanted{CID: identity(1), Name: "new"}, spec.Pinned)
			for _, want := range []struct{ done, skipped int64 }{{3, 31}, {0, 34}} {
				m := mirrorOf(t, from, to)
				if err := m.run(t.Context(), []spec.Status{spec.Pinned}); err != nil {
					t.Fatal(err)
				}
				if m.summary.Done != want.done || m.summary.Skipped != want.skipped || m.summary.Failed != 0 {
					t.Errorf("%s; want %+v", m.summary.line(), want)
				}
			}
		})
	}
}

// It makes nothing rather than something twice.
func TestMirrorFailsWhereNobodyCanTellWhatIsThere(t *testing.T) {
	from, to := newModel(t), newModel(t)
	to.deaf, to.maxLimit = true, 30
	to.pin(wanted{CID: identity(1)}, spec.Queued)
	for i := range 40 {
		to.pin(wanted{CID: identity(1), Name: "pin " + strconv.Itoa(i)}, spec.Queued)
	}
	before := to.names()
	from.pin(wanted{CID: identity(1)}, spec.Pinned)
	if err := mirrorOf(t, from, to).run(t.Context(), []spec.Status{spec.Pinned}); err == nil {
		t.Error("it has not failed")
	}
	if diff := cmp.Diff(before, to.names()); diff != "" {
		t.Error(diff)
	}
}

func TestMirrorWaitsAsLongAsItIsToldAndDoesNotPostTwice(t *testing.T) {
	from, to := newModel(t), newModel(t)
	for i := range 30 {
		from.pin(wanted{CID: identity(i)}, spec.Pinned)
	}
	var n atomic.Int32
	to.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		switch i := n.Add(1); {
		case i%5 == 0:
			w.Header().Set("Retry-After", "7")
			refuse(w, http.StatusTooManyRequests, "SLOW_DOWN")
		case i%7 == 0 && r.Method == http.MethodPost: // carried out, and the answer is lost
			r.Header.Set("Authorization", "Bearer "+modelToken)
			to.add(discard{http.Header{}}, r)
			w.WriteHeader(http.StatusBadGateway)
		default:
			return false
		}
		return true
	}
	m := mirrorOf(t, from, to)
	var waited atomic.Int64
	m.to.pause = func(_ context.Context, d time.Duration) error { waited.Store(max(waited.Load(), int64(d))); return nil }
	if err := m.run(t.Context(), []spec.Status{spec.Pinned}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(from.names(), to.names()); diff != "" {
		t.Error(diff)
	}
	if longest := time.Duration(waited.Load()); longest < 7*time.Second || longest > 11*time.Second {
		t.Errorf("it waited %v although it was told to wait 7s", longest)
	}
}

// discard is where an answer goes that gets lost.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func TestMirrorNamesWhatItCouldNotCopyAndFails(t *testing.T) {
	from, to := newModel(t), newModel(t)
	from.pin(wanted{CID: identity(1), Name: "good"}, spec.Pinned)
	from.pin(wanted{CID: "nonsense", Name: "bad"}, spec.Pinned)
	from.pin(wanted{CID: identity(2), Name: strings.Repeat("x", 300)}, spec.Pinned)
	environ := []string{"HOME=" + t.TempDir(), "FROSTPIN_SERVER=" + to.URL, "FROSTPIN_TOKEN=" + modelToken}
	args := []string{"mirror", "--from", from.URL + "/psa", "--token", modelToken}
	code, stdout, stderr := command(t, environ, append(args, "--dry-run")...)
	if code != 0 || !strings.Contains(stdout, "3 to copy, 0 skipped, 0 failed") || len(to.rows) != 0 {
		t.Errorf("dry: %d %s %s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, environ, args...)
	if code != 1 || !strings.Contains(stdout, "1 copied, 0 skipped, 2 failed") || !strings.Contains(stdout, "nonsense") {
		t.Errorf("got %d %s %s", code, stdout, stderr)
	}
	if code, stdout, _ = command(t, environ, append(args, "--json")...); code != 1 || !strings.Contains(stdout, `"skipped": 1`) {
		t.Errorf("json: %d %s", code, stdout)
	}
}

func TestMirrorFollowsNoRedirect(t *testing.T) {
	from, to, canary := newModel(t), newModel(t), newModel(t)
	from.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, canary.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	if err := mirrorOf(t, from, to).run(t.Context(), []spec.Status{spec.Pinned}); err == nil || len(canary.requests) > 0 {
		t.Errorf("error %v, the canary saw %v", err, canary.requests)
	}
}

func TestNamesOfStrangersDoNotLeadInward(t *testing.T) {
	m := newModel(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(m.URL, "http://"), ":")
	// The name is the machine's own and is not written as an address.
	a, err := newService("http://localhost.:"+port+"/psa", modelToken)
	if err != nil {
		t.Fatal(err)
	}
	a.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	if _, _, err := a.page(t.Context(), nil); err == nil || len(m.requests) > 0 {
		t.Errorf("error %v, it saw %v", err, m.requests)
	}
	if a, err = newService(m.URL+"/psa", modelToken); err != nil {
		t.Fatal(err)
	}
	for _, err := range a.list(t.Context(), allStatuses()) {
		t.Errorf("an address that was written as such: %v", err)
	}
}
