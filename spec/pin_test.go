package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/spec"
)

const (
	peerA = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	addrA = "/ip4/203.0.113.7/tcp/4001" + peerA
)

func TestPinBodyRules(t *testing.T) {
	ok := func(r spec.Request) *spec.Request { return &r }
	root := cid.MustParse(v1)
	for _, c := range []struct {
		rule, body string
		want       *spec.Request
		problem    string
	}{
		{rule: "R33 posted string is kept", body: `{"cid":"` + v0 + `"}`, want: ok(spec.Request{CID: v0, Root: root})},
		{rule: "R33 other base", body: `{"cid":"` + base58 + `"}`, want: ok(spec.Request{CID: base58, Root: root})},
		{rule: "R33 required", body: `{}`, problem: "cid"},
		{rule: "R33 null is absent", body: `{"cid":null}`, problem: "cid"},
		{rule: "R33 empty", body: `{"cid":""}`, problem: "cid"},
		{rule: "R33 not a string", body: `{"cid":1}`, problem: "cid"},
		{rule: "R33 path", body: `{"cid":"/ipfs/` + v0 + `"}`, problem: "cid"},
		{rule: "R33 path inside", body: `{"cid":"` + v0 + `/a"}`, problem: "cid"},
		{rule: "R33 url", body: `{"cid":"ipfs://` + v0 + `"}`, problem: "cid"},
		{rule: "R33 space", body: `{"cid":" ` + v0 + `"}`, problem: "cid"},
		{rule: "R33 ipns key", body: `{"cid":"` + made(0x72, multihash.SHA2_256, -1) + `"}`, problem: "cid"},
		{rule: "R33 git", body: `{"cid":"` + made(0x78, multihash.SHA1, -1) + `"}`, problem: "cid"},
		{rule: "R33 sha1", body: `{"cid":"` + made(cid.Raw, multihash.SHA1, -1) + `"}`, problem: "cid"},
		{rule: "R33 md5", body: `{"cid":"` + made(cid.Raw, multihash.MD5, -1) + `"}`, problem: "cid"},
		{rule: "R33 short digest", body: `{"cid":"` + made(cid.Raw, multihash.SHA2_256, 16) + `"}`, problem: "cid"},
		{rule: "R33 identity", body: `{"cid":"bafkqaaa"}`, want: ok(spec.Request{CID: "bafkqaaa", Root: cid.MustParse("bafkqaaa")})},
		{rule: "R33 long identity", body: `{"cid":"` + identity(129) + `"}`, problem: "cid"},
		{rule: "R33 longest identity", body: `{"cid":"` + identity(128) + `"}`, want: ok(spec.Request{CID: identity(128), Root: cid.MustParse(identity(128))})},
		{rule: "R33 costly text", body: `{"cid":"z` + strings.Repeat("1", 500_000) + `"}`, problem: "cid"},

		{rule: "R6 unknown fields", body: `{"requestid":"x","cid":"` + v0 + `","status":"pinned","x":[{}],"x":1}`, want: ok(spec.Request{CID: v0, Root: root})},
		{rule: "R6 nulls", body: `{"cid":"` + v0 + `","name":null,"meta":null,"origins":null}`, want: ok(spec.Request{CID: v0, Root: root})},
		{rule: "R6 names are exact", body: `{"CID":"` + v0 + `"}`, problem: "cid"},
		{rule: "R6 repeated field", body: `{"cid":"` + v0 + `","cid":"` + v1 + `"}`, problem: "cid"},
		{rule: "R6 repeated field, hidden", body: `{"cid":"` + v0 + `","\u0063id":"` + v1 + `"}`, problem: "cid"},
		{rule: "R15 empty", body: ``, problem: "body"},
		{rule: "R15 blank", body: " \n", problem: "body"},
		{rule: "R15 not an object", body: `"` + v0 + `"`, problem: "body"},
		{rule: "R15 list", body: `[]`, problem: "body"},
		{rule: "R15 null", body: `null`, problem: "body"},
		{rule: "R15 broken", body: `{"cid":"` + v0 + `"`, problem: "body"},
		{rule: "R15 no comma", body: `{"cid":"` + v0 + `" "name":"a"}`, problem: "body"},
		{rule: "R15 number key", body: `{1:2}`, problem: "body"},
		{rule: "R15 trailing", body: `{"cid":"` + v0 + `"} {}`, problem: "body"},
		{rule: "R15 trailing space", body: `{"cid":"` + v0 + "\"} \r\n\t", want: ok(spec.Request{CID: v0, Root: root})},
		{rule: "R15 form", body: "cid=" + v0, problem: "body"},
		{rule: "R15 byte order mark", body: "\xef\xbb\xbf{}", problem: "body"},
		{rule: "R15 deep", body: `{"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, problem: "body"},
		{rule: "R15 deep enough", body: `{"cid":"` + v0 + `","x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, want: ok(spec.Request{CID: v0, Root: root})},
		{rule: "R15 brackets in strings", body: `{"cid":"` + v0 + `","x":"` + strings.Repeat(`[\"`, 50) + `"}`, want: ok(spec.Request{CID: v0, Root: root})},

		{rule: "R34", body: with("name", `"a%_\\ \u00e9\ud83d\ude00"`), want: ok(spec.Request{CID: v0, Root: root, Name: new(`a%_\ é😀`)})},
		{rule: "R34 empty", body: with("name", `""`), want: ok(spec.Request{CID: v0, Root: root, Name: new("")})},
		{rule: "R34 255 code points", body: with("name", `"`+strings.Repeat("😀", 255)+`"`), want: ok(spec.Request{CID: v0, Root: root, Name: new(strings.Repeat("😀", 255))})},
		{rule: "R34 256 code points", body: with("name", `"`+strings.Repeat("😀", 256)+`"`), problem: "name"},
		{rule: "R34 UTF-8", body: with("name", "\"a\xff\""), problem: "body"},
		{rule: "R34 half a pair", body: with("name", `"\ud83d"`), problem: "body"},
		{rule: "R34 half a pair, low", body: with("name", `"\ude00"`), problem: "body"},
		{rule: "R34 half a pair before another", body: with("name", `"\ud83d\u0041"`), problem: "body"},
		{rule: "R34 escaped backslash before u", body: with("name", `"\\ud83d"`), want: ok(spec.Request{CID: v0, Root: root, Name: new(`\ud83d`)})},
		{rule: "R34 NUL", body: with("name", `"a\u0000"`), problem: "name"},
		{rule: "R34 type", body: with("name", `5`), problem: "name"},
		{rule: "R34 type", body: with("name", `["a"]`), problem: "name"},

		{rule: "R35", body: with("meta", `{"a":"1","":""}`), want: ok(spec.Request{CID: v0, Root: root, Meta: map[string]string{"a": "1", "": ""}})},
		{rule: "R35 empty", body: with("meta", `{}`), want: ok(spec.Request{CID: v0, Root: root, Meta: map[string]string{}})},
		{rule: "R35 number", body: with("meta", `{"a":1}`), problem: "meta"},
		{rule: "R35 null", body: with("meta", `{"a":null}`), problem: "meta"},
		{rule: "R35 nested", body: with("meta", `{"a":{}}`), problem: "meta"},
		{rule: "R35 list", body: with("meta", `["a"]`), problem: "meta"},
		{rule: "R35 string", body: with("meta", `"a"`), problem: "meta"},
		{rule: "R35 repeated key", body: with("meta", `{"a":"1","a":"1"}`), problem: "meta"},
		{rule: "R35 NUL", body: with("meta", `{"a\u0000":"1"}`), problem: "meta"},
		{rule: "R35 1001 keys", body: with("meta", keys(1001)), problem: "meta"},
		{rule: "R35 16 KiB", body: with("meta", `{"k":"`+strings.Repeat("x", 16<<10)+`"}`), problem: "meta"},

		{rule: "R36", body: with("origins", `["`+addrA+`"]`), want: ok(spec.Request{CID: v0, Root: root, Origins: []string{addrA}})},
		{rule: "R36 empty", body: with("origins", `[]`), want: ok(spec.Request{CID: v0, Root: root, Origins: []string{}})},
		{
			rule: "R36 private, relayed, bare peer", body: with("origins", `["/ip4/127.0.0.1/tcp/1`+peerA+`","`+addrA+`/p2p-circuit`+peerA+`","`+peerA+`"]`),
			want: ok(spec.Request{CID: v0, Root: root, Origins: []string{"/ip4/127.0.0.1/tcp/1" + peerA, addrA + "/p2p-circuit" + peerA, peerA}}),
		},
		{
			rule: "R36 unusable", body: with("origins", `["","nonsense","/ip4/1.2.3.4/tcp/1","/unknown/x`+peerA+`","`+addrA+`/tcp/1","`+addrA+`","/dns4/a\u0000b/tcp/1`+peerA+`"]`),
			want: ok(spec.Request{CID: v0, Root: root, Origins: []string{addrA}, Dropped: 6}),
		},
		{rule: "R36 repeated", body: with("origins", `["`+addrA+`","`+addrA+`"]`), want: ok(spec.Request{CID: v0, Root: root, Origins: []string{addrA}})},
		{rule: "R36 long", body: with("origins", `["/dns4/`+strings.Repeat("a", 2000)+`/tcp/1`+peerA+`"]`), want: ok(spec.Request{CID: v0, Root: root, Origins: []string{}, Dropped: 1})},
		{rule: "R36 more than 20", body: with("origins", addrs(30)), want: func() *spec.Request {
			r := spec.Request{CID: v0, Root: root, Dropped: 10}
			if err := json.Unmarshal([]byte(addrs(20)), &r.Origins); err != nil {
				panic(err)
			}
			return &r
		}()},
		{rule: "R36 type", body: with("origins", `"`+addrA+`"`), problem: "origins"},
		{rule: "R36 type", body: with("origins", `{}`), problem: "origins"},
		{rule: "R36 type", body: with("origins", `[1]`), problem: "origins"},
		{rule: "R36 type", body: with("origins", `[null]`), problem: "origins"},
		{rule: "R36 type after 20", body: with("origins", strings.Replace(addrs(21), "]", ",1]", 1)), problem: "origins"},
	} {
		t.Run(c.rule+" "+c.body[:min(len(c.body), 60)], func(t *testing.T) {
			got, err := spec.DecodePin([]byte(c.body))
			if c.problem != "" {
				var bad *spec.InvalidError
				if !errors.As(err, &bad) || !errors.Is(err, spec.ErrInvalid) {
					t.Fatalf("got %+v, %v; want an InvalidError", got, err)
				}
				if bad.Field != c.problem {
					t.Errorf("the error %q names %q, want %q", err, bad.Field, c.problem)
				}
				if len(err.Error()) > 400 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*c.want, got, cmp.Comparer(cid.Cid.Equals)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Base 58 takes quadratic time: half a megabyte of it would keep a processor busy for minutes.
func TestLongCIDIsNotDecoded(t *testing.T) {
	_, err := spec.DecodePin([]byte(`{"cid":"z` + strings.Repeat("1", 5000) + `"}`))
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v", err)
	}
}

func TestEveryAllowedCodecAndHashCanBePinned(t *testing.T) {
	for _, codec := range []uint64{0x55, 0x70, 0x51, 0x71, 0x0129, 0x0200} {
		for _, hash := range []uint64{multihash.SHA2_256, multihash.SHA2_512, multihash.SHA3_256, multihash.BLAKE2B_MIN + 31, multihash.BLAKE3} {
			if _, err := spec.DecodePin([]byte(`{"cid":"` + made(codec, hash, -1) + `"}`)); err != nil {
				t.Errorf("codec %#x, hash %#x: %v", codec, hash, err)
			}
		}
	}
}

func with(field, value string) string {
	return `{"cid":"` + v0 + `","` + field + `":` + value + `}`
}

func made(codec, hash uint64, length int) string {
	mh, err := multihash.Sum([]byte("content"), hash, length)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, mh).String()
}

func identity(size int) string {
	mh, err := multihash.Encode(make([]byte, size), multihash.IDENTITY)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, mh).String()
}

func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d":""`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func addrs(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("/ip4/203.0.113.7/tcp/%d%s", 1000+i, peerA)
	}
	data, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return string(data)
}
