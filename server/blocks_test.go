package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
)

// blocked are blocks of which nobody keeps who made them.
type blocked struct{ *pins.Blocks }

func (b blocked) Block(ctx context.Context, by auth.Actor, c cid.Cid, reason string) (pins.Block, bool, error) {
	return b.Add(ctx, c, reason, fmt.Sprint(by.Account))
}

func (b blocked) Unblock(ctx context.Context, _ auth.Actor, c cid.Cid) error { return b.Remove(ctx, c) }

func TestAdminBlocksContent(t *testing.T) {
	list := new(blocked)
	h := newHouse(t, func(cfg *server.Config) { cfg.Blocklist = list })
	list.Blocks = pins.NewBlocks(h.db, time.Now)
	admin, _ := h.open("root", auth.AllScopes)
	want := v1.Block{Cid: cidV0, Reason: "report 1", By: "1"}
	got := ask[v1.Block](h, 201, admin, "POST", "/admin/blocks", `{"cid":"`+cidV0+`","reason":" report 1 "}`)
	if want.At = got.At; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if again := ask[v1.Block](h, 200, admin, "POST", "/admin/blocks", `{"cid":"`+cidV1+`","reason":"report 2"}`); again != want {
		t.Errorf("again: %+v", again)
	}
	other := cid.NewCidV1(cid.Raw, cid.MustParse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy").Hash()).String()
	ask[v1.Block](h, 201, admin, "POST", "/admin/blocks", `{"cid":"`+other+`","reason":"report 3"}`)

	page := ask[v1.BlockList](h, 200, admin, "GET", "/admin/blocks?limit=1", "")
	if len(page.Blocks) != 1 || page.Blocks[0] != want || page.Next == nil {
		t.Fatalf("first page: %+v", page)
	}
	page = ask[v1.BlockList](h, 200, admin, "GET", fmt.Sprintf("/admin/blocks?limit=1&after=%d", *page.Next), "")
	if len(page.Blocks) != 1 || page.Blocks[0].Cid != other || page.Next != nil {
		t.Errorf("second page: %+v", page)
	}
	ask[nothing](h, 204, admin, "DELETE", "/admin/blocks/"+cidV1, "")
	if page = ask[v1.BlockList](h, 200, admin, "GET", "/admin/blocks", ""); len(page.Blocks) != 1 {
		t.Errorf("after that: %+v", page)
	}

	carries, err := multihash.Sum(make([]byte, 1400), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	large := cid.NewCidV1(cid.Raw, carries)
	for _, c := range []struct {
		method, path, body string
		status             int
		reason, details    string
	}{
		{"POST", "", `{"cid":"nonsense","reason":"x"}`, 400, "BAD_REQUEST", "cid is not a CID"},
		{"POST", "", `{"cid":"` + cidV0 + `","reason":" "}`, 400, "BAD_REQUEST", "reason must have 1 to 1000"},
		{"POST", "", `{"cid":"` + cidV0 + `","reason":"` + strings.Repeat("é", 1001) + `"}`, 400, "BAD_REQUEST", "reason must have 1 to 1000"},
		{"POST", "", `{"cid":"` + cidV0 + `","reason":"a\u0000b"}`, 400, "BAD_REQUEST", "reason must be text"},
		{"POST", "", `{"cid":"` + large.String() + `","reason":"x"}`, 400, "BAD_REQUEST", "cid has a hash that is too long"},
		{"GET", "?limit=0", "", 400, "BAD_REQUEST", "limit"},
		{"DELETE", "/nonsense", "", 400, "BAD_REQUEST", "cid is not a CID"},
		{"DELETE", "/" + cidV0, "", 404, "NOT_FOUND", "this content is not blocked"},
	} {
		wantFailure(t, h.do(admin, c.method, "/api/v1/admin/blocks"+c.path, c.body), c.status, c.reason, c.details)
	}
	user, _ := h.open("ann", auth.OwnScopes)
	wantFailure(t, h.do(user, "POST", "/api/v1/admin/blocks", `{}`), 403, "INSUFFICIENT_SCOPE", "admin")
}
