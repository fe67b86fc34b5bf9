package server_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

func TestListsThatNobodyReadsKeepOnlyTheirOwnAccountWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, account := range []pins.Account{1, 2} {
			f.pins.add(account, spec.Request{CID: inlined, Meta: map[string]string{"k": strings.Repeat("x", 16<<10)}}, pins.Decision{})
		}
		p, stop := serve(t, f)
		answer := func(c *bufio.Reader) *http.Response {
			t.Helper()
			r, err := http.ReadResponse(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		ask := func(token string) (*bufio.Reader, func()) {
			c := p.dial(t)
			send(t, c, strings.Replace(request, alice, token, 1))
			return bufio.NewReader(c), func() { c.Close() }
		}
		var unread []*bufio.Reader
		for range 16 {
			r, done := ask(alice)
			defer done()
			unread = append(unread, r)
		}
		synctest.Wait()

		start := time.Now()
		other, done := ask(bob)
		defer done()
		if r := answer(other); r.StatusCode != http.StatusOK || time.Since(start) > 0 {
			t.Errorf("another account: %d after %s", r.StatusCode, time.Since(start))
		}
		late, done := ask(alice)
		defer done()
		r := answer(late)
		if r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" || time.Since(start) < 5*time.Second {
			t.Errorf("one more: %d after %s, %v", r.StatusCode, time.Since(start), r.Header)
		}
		waits, done := ask(alice)
		defer done()
		synctest.Wait()
		if _, err := answer(unread[0]).Body.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := unread[0].Discard(16 << 10); err != nil {
			t.Fatal(err)
		}
		if r := answer(waits); r.StatusCode != http.StatusOK {
			t.Errorf("after one was read: %d", r.StatusCode)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
