package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	boxo "github.com/ipfs/boxo/pinning/remote/client"
	"github.com/ipfs/go-cid"
	classic "github.com/ipfs/go-pinning-service-http-client"
)

// A goPin is what the tests look at of a pin, whichever library brought it.
type goPin struct {
	ID, Status, CID, Name string
	Created               time.Time
}

// A goFilter is what the tests filter lists by. The zero value asks for nothing, so the server's defaults hold.
type goFilter struct {
	cids     []cid.Cid
	name     string
	statuses []string
	before   time.Time
	limit    int
}

// A goClient is what both client libraries can do.
type goClient interface {
	add(ctx context.Context, c cid.Cid, name string) (goPin, error)
	replace(ctx context.Context, id string, c cid.Cid, name string) (goPin, error)
	get(ctx context.Context, id string) (goPin, error)
	remove(ctx context.Context, id string) error
	list(ctx context.Context, f goFilter) ([]goPin, error)            // every page
	page(ctx context.Context, f goFilter) (_ []goPin, n int, _ error) // one page, and how many match
}

// eachGoClient runs test with both libraries, each with an account of its own.
func eachGoClient(t *testing.T, test func(t *testing.T, client goClient)) {
	t.Helper()
	s := startServer(t)
	for name, connect := range map[string]func(token string) goClient{
		"boxo":                           func(token string) goClient { return boxoClient{boxo.NewClient(s.endpoint, token)} },
		"go-pinning-service-http-client": func(token string) goClient { return classicClient{classic.NewClient(s.endpoint, token)} },
	} {
		t.Run(name, func(t *testing.T) { test(t, connect(s.newToken(name))) })
	}
}

func TestGoClientsAddReplaceAndDelete(t *testing.T) {
	eachGoClient(t, func(t *testing.T, client goClient) {
		ctx := t.Context()
		first, second := parse(t, identity("first")), parse(t, unfindable())
		added, err := client.add(ctx, first, "draft")
		if err != nil || added.Status != "pinned" || added.CID != first.String() || added.Name != "draft" {
			t.Fatalf("added %+v, error %v", added, err)
		}
		if got, err := client.get(ctx, added.ID); err != nil || !cmp.Equal(added, got) {
			t.Errorf("got %+v, error %v; want %+v", got, err, added)
		}

		replaced, err := client.replace(ctx, added.ID, second, "final")
		if err != nil || replaced.ID == added.ID || replaced.CID != second.String() || replaced.Name != "final" {
			t.Fatalf("replaced by %+v, error %v", replaced, err)
		}
		if _, err := client.get(ctx, added.ID); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("the replaced pin answers with error %v; want 404", err)
		}

		if err := client.remove(ctx, replaced.ID); err != nil {
			t.Errorf("removing: %v", err)
		}
		if err := client.remove(ctx, replaced.ID); err == nil || !strings.Contains(err.Error(), "NOT_FOUND") {
			t.Errorf("removing again answers with error %v; want NOT_FOUND", err)
		}
		if left, err := client.list(ctx, goFilter{statuses: strings.Split(allStatuses, ",")}); err != nil || len(left) != 0 {
			t.Errorf("left are %v, error %v", left, err)
		}
	})
}

func TestGoClientsFilter(t *testing.T) {
	eachGoClient(t, func(t *testing.T, client goClient) {
		ctx := t.Context()
		held, wanted := parse(t, identity("held")), parse(t, unfindable())
		for name, c := range map[string]cid.Cid{"held": held, "wanted": wanted} {
			if _, err := client.add(ctx, c, name); err != nil {
				t.Fatal(err)
			}
		}
		for _, test := range []struct {
			filter goFilter
			want   []string
		}{
			{goFilter{}, []string{"held"}},
			{goFilter{statuses: []string{"queued", "pinning"}}, []string{"wanted"}},
			{goFilter{statuses: strings.Split(allStatuses, ",")}, []string{"held", "wanted"}},
			{goFilter{name: "held"}, []string{"held"}},
			{goFilter{name: "hel"}, nil},
			{goFilter{cids: []cid.Cid{wanted, held}}, []string{"held"}},
			{goFilter{cids: []cid.Cid{wanted}, statuses: []string{"queued", "pinning"}}, []string{"wanted"}},
		} {
			pins, err := client.list(ctx, test.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range pins {
				got = append(got, p.Name)
			}
			slices.Sort(got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", test.filter, diff)
			}
		}
	})
}

func TestGoClientsWalkEveryPageOnce(t *testing.T) {
	const total = 1015
	eachGoClient(t, func(t *testing.T, client goClient) {
		ctx := t.Context()
		var want []string
		for i := range total {
			name := fmt.Sprintf("pin-%d", i)
			if _, err := client.add(ctx, parse(t, identity(name)), name); err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
		}
		slices.Reverse(want) // newest first

		for _, limit := range []int{0, 1, 1000} { // 0: the library's own pages of ten
			size := total
			if limit == 1 {
				size = 25 // one request each
			}
			var got []string
			filter := goFilter{limit: limit}
			for len(got) < size {
				pins, n, err := client.page(ctx, filter)
				if err != nil {
					t.Fatal(err)
				}
				if n != total-len(got) {
					t.Fatalf("limit %d: after %d rows the count is %d; want %d", limit, len(got), n, total-len(got))
				}
				for _, p := range pins {
					got = append(got, p.Name)
				}
				filter.before = pins[len(pins)-1].Created
			}
			if diff := cmp.Diff(want[:size], got); diff != "" {
				t.Errorf("limit %d (-want +got):\n%s", limit, diff)
			}
		}

		pins, err := client.list(ctx, goFilter{})
		if err != nil || len(pins) != total {
			t.Errorf("the whole list has %d rows, error %v; want %d", len(pins), err, total)
		}
	})
}

func TestGoClientsSeeTheServersReason(t *testing.T) {
	s := startServer(t)
	for name, client := range map[string]goClient{
		"boxo":                           boxoClient{boxo.NewClient(s.endpoint, "nonsense")},
		"go-pinning-service-http-client": classicClient{classic.NewClient(s.endpoint, "nonsense")},
	} {
		_, err := client.list(t.Context(), goFilter{})
		if err == nil || !containsAll(err.Error(), `reason: "UNAUTHORIZED"`, "access denied", "401") {
			t.Errorf("%s: a wrong token answers with error %v", name, err)
		}
	}
}

func parse(t *testing.T, text string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
