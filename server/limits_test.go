package server_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/server"
)

// of gives alice a plan.
func (f *fixture) of(rates map[auth.Kind]auth.Rate) {
	f.tokens.caller.Limits = &auth.Limits{Rates: rates}
}

func TestRequestsAreBoundedByThePlanForEachKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
		f.of(map[auth.Kind]auth.Rate{auth.KindList: {PerSecond: 0.4, Burst: 4}, auth.KindWrite: {PerSecond: 10, Burst: 1}})
		list := func() int { return f.do(alice, "GET", "/psa/pins?limit=1", "").Code }
		for range 4 {
			if code := list(); code != http.StatusOK {
				t.Fatalf("a burst of four lists, as Kubo counts: %d", code)
			}
		}
		w := f.do(alice, "GET", "/psa/pins?limit=1", "")
		wantFailure(t, w, http.StatusTooManyRequests, "RATE_LIMITED", `"list" for this account's plan; try again in 3 seconds`)
		for name, want := range map[string]string{
			"Retry-After": "3", "X-RateLimit-Limit": "4", "X-RateLimit-Remaining": "0",
			"X-RateLimit-Reset": strconv.FormatInt(time.Now().Unix()+3, 10),
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		// Others, and other kinds, go on.
		if w := f.do(bob, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
			t.Error(w.Code)
		}
		for range 1000 {
			if w := f.do(alice, "GET", "/psa/pins/"+id, ""); w.Code != http.StatusOK {
				t.Fatal(w.Code)
			}
		}
		if w := f.do(alice, "DELETE", "/psa/pins/"+id, ""); w.Code != http.StatusAccepted {
			t.Error(w.Code)
		}
		// Who comes again when it was told to is answered.
		<-time.After(3 * time.Second)
		if code := list(); code != http.StatusOK {
			t.Error(code)
		}
		if code := list(); code != http.StatusTooManyRequests {
			t.Error(code)
		}
		// Another plan counts from the next request on.
		f.of(map[auth.Kind]auth.Rate{auth.KindList: {PerSecond: 1000, Burst: 10}})
		list()
		<-time.After(10 * time.Millisecond)
		if code := list(); code != http.StatusOK {
			t.Error(code)
		}
	})
}

func TestPublicPlanLetsClientsPollAndCount(t *testing.T) {
	rates := publicRates(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
		f.of(rates)
		// For ten seconds: fifty pins that are waited for, each asked for twice a second, and the views of a WebUI.
		for range 20 {
			for range 50 {
				if w := f.do(alice, "GET", "/psa/pins/"+id, ""); w.Code != http.StatusOK {
					t.Fatalf("a poll: %d %s", w.Code, w.Body)
				}
			}
			for range 8 {
				if w := f.do(alice, "GET", "/psa/pins?limit=1&status=pinned", ""); w.Code != http.StatusOK {
					t.Fatalf("a count: %d %s", w.Code, w.Body)
				}
			}
			<-time.After(500 * time.Millisecond)
		}
	})
}

func TestWrongTokensOfOneAddressAreLookedUpTenTimesAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.tokens.asked = []string{}
		try := func(token, forwarded string) *http.Response {
			return f.do(token, "GET", "/psa/pins", "", "X-Forwarded-For", forwarded).Result()
		}
		// The proxy is at 192.0.2.1, which is public and therefore no proxy of ours.
		for i := range 10 {
			if r := try(fmt.Sprintf("fp_wrong_%d", i), fmt.Sprintf("203.0.113.%d", i)); r.StatusCode != http.StatusUnauthorized {
				t.Fatal(r.StatusCode)
			}
		}
		w := f.do("fp_wrong", "GET", "/psa/pins", "")
		wantFailure(t, w, http.StatusTooManyRequests, "RATE_LIMITED", "too many wrong tokens from this address")
		if got := w.Header().Get("Retry-After"); got != "6" {
			t.Errorf("Retry-After: %s", got)
		}
		if len(f.tokens.asked) != 10 {
			t.Errorf("looked up %d times", len(f.tokens.asked))
		}
		for range 20 {
			if r := try(alice, ""); r.StatusCode != http.StatusOK {
				t.Errorf("the right token: %d", r.StatusCode)
			}
		}
		if r := try("", ""); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("no token at all: %d", r.StatusCode)
		}
		<-time.After(6 * time.Second)
		if r := try("fp_wrong", ""); r.StatusCode != http.StatusUnauthorized {
			t.Error(r.StatusCode)
		}
		if r := try("fp_wrong", ""); r.StatusCode != http.StatusTooManyRequests {
			t.Error(r.StatusCode)
		}
	})
}

func TestAddressIsThatOfTheClientBehindOurProxy(t *testing.T) {
	for _, c := range []struct{ remote, forwarded, want string }{
		{"203.0.113.7:1", "", "203.0.113.7/32"},
		{"203.0.113.7:1", "198.51.100.1", "203.0.113.7/32"}, // a stranger says so
		{"127.0.0.1:1", "198.51.100.1", "198.51.100.1/32"},
		{"10.0.0.2:1", "192.0.2.99, 198.51.100.1", "198.51.100.1/32"}, // what came before is the stranger's word
		{"[::1]:1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{"[2001:db8::1]:1", "", "2001:db8::/64"},
		{"[::ffff:203.0.113.7]:1", "", "203.0.113.7/32"},
		{"nonsense", "", "invalid Prefix"},
	} {
		if got := server.Address(c.remote, c.forwarded); got != c.want {
			t.Errorf("%s, forwarded for %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
