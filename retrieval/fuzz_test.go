package retrieval

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	neturl "net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// rawCodec knows leaves only, and links as texts of CIDs, so that a fuzzer can make DAGs.
type rawCodec struct{}

func (rawCodec) Admit(cid.Cid) error { return nil }

func (rawCodec) Inline(c cid.Cid) ([]byte, bool) {
	if c.Prefix().MhType != multihash.IDENTITY {
		return nil, false
	}
	hash, err := multihash.Decode(c.Hash())
	if err != nil {
		return nil, false
	}
	return hash.Digest, true
}

func (rawCodec) Links(_ cid.Cid, data []byte) (out []cid.Cid, _ error) {
	for text := range strings.FieldsSeq(string(data)) {
		if c, err := cid.Decode(text); err == nil && len(out) < 100 {
			out = append(out, c)
		}
	}
	return out, nil
}

func rawBlock(data string) cid.Cid {
	hash, err := multihash.Sum([]byte(data), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, hash)
}

// Whatever a provider sends as a CAR, only blocks that hash to what the walk wants are taken, and it ends.
func FuzzFollow(f *testing.F) {
	leaf := rawBlock("a leaf")
	root := rawBlock(leaf.String())
	section := func(c cid.Cid, data string) []byte {
		return append([]byte{byte(len(c.Bytes()) + len(data))}, append(c.Bytes(), data...)...)
	}
	header := []byte("\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + string(root.Bytes()) + "\x67version\x01")
	good := append(append(bytes.Clone(header), section(root, leaf.String())...), section(leaf, "a leaf")...)
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(append(bytes.Clone(header), section(leaf, "a leaf")...))
	f.Add(append(bytes.Clone(header), 0, 0, 0))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var taken []cid.Cid
		err := follow(streamReader{bytes.NewReader(data)}, step{root, 0}, 1<<20, 0, rawCodec{}, func(c cid.Cid, data []byte, _ int) error {
			if !verified(c, data) {
				t.Fatalf("block %s was taken with other bytes", c)
			}
			taken = append(taken, c)
			return nil
		})
		if err == nil && (len(taken) != 2 || !taken[0].Equals(root) || !taken[1].Equals(leaf)) {
			t.Fatalf("the DAG is said to be whole with %v", taken)
		}
	})
}

// A provider may repeat blocks although it was asked not to: that is no lie, and nothing is taken twice.
func TestRepeatedBlocksAreLeftOut(t *testing.T) {
	shared := rawBlock("shared")
	left := rawBlock(shared.String() + " left")
	right := rawBlock(shared.String() + " right")
	root := rawBlock(left.String() + " " + right.String())
	blocks := map[cid.Cid]string{
		shared: "shared", left: shared.String() + " left", right: shared.String() + " right", root: left.String() + " " + right.String(),
	}
	stream := bytes.NewBufferString("\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + string(root.Bytes()) + "\x67version\x01")
	for _, c := range []cid.Cid{root, left, shared, left, right, shared, shared} {
		stream.Write(varint.ToUvarint(uint64(len(c.Bytes()) + len(blocks[c]))))
		stream.Write(c.Bytes())
		stream.WriteString(blocks[c])
	}
	var taken []cid.Cid
	err := follow(streamReader{stream}, step{root, 0}, 1<<20, 0, rawCodec{}, func(c cid.Cid, _ []byte, _ int) error {
		taken = append(taken, c)
		return nil
	})
	if want := []cid.Cid{root, left, shared, right}; err != nil || !slices.Equal(taken, want) {
		t.Errorf("%v were taken, want %v: %v", taken, want, err)
	}
}

// Whatever a provider answers to a request for a block, or for the bytes of a piece, only the right block is taken, in
// bounded time and memory.
func FuzzAnswers(f *testing.F) {
	const right = "the right bytes"
	want := rawBlock(right)
	header := "\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + string(want.Bytes()) + "\x67version\x01"
	section := string([]byte{byte(len(want.Bytes()) + len(right))}) + string(want.Bytes()) + right
	f.Add(200, "application/vnd.ipld.raw", "", []byte(right))
	f.Add(206, "application/octet-stream", "", []byte(header+section))
	f.Add(200, "application/vnd.ipld.car;version=1;order=dfs;dups=n", "", []byte(header+section))
	f.Add(429, "text/html", "Fri, 31 Dec 1999 23:59:59 GMT", []byte("<html>"))
	f.Add(503, "", "-99999999999999999999", []byte(nil))
	f.Fuzz(func(t *testing.T, status int, kind, after string, body []byte) {
		if status < 200 || status > 999 {
			return
		}
		s := New(Config{BlockSize: 1 << 16}, Parts{Codec: rawCodec{}}, slog.New(slog.DiscardHandler), time.Now)
		s.client = &http.Client{Transport: answer(func(*http.Request) *http.Response {
			return &http.Response{
				StatusCode: status, Status: "status", Body: io.NopCloser(bytes.NewReader(body)),
				Header: http.Header{"Content-Type": {kind}, "Retry-After": {after}, "Date": {after}},
			}
		})}
		from := Source{Provider: "f01000", URLs: []string{"http://provider.example"}, Piece: want, Length: int64(len(body)) + 1}
		if b, err := s.block(t.Context(), from, want); err == nil && (status != 200 || string(b.RawData()) != right) {
			t.Errorf("the block is %q, of an answer with status %d", b.RawData(), status)
		} else if failed := (*failure)(nil); err != nil && (!errors.As(err, &failed) || failed.after < 0 || failed.after > maxRetryAfter) {
			t.Errorf("it has failed with %#v", err)
		}
		s.ranks = newRanks(time.Now, s.log) // what was asked first may not be busy for the next
		for _, open := range []func() (io.ReadCloser, error){
			func() (io.ReadCloser, error) { return s.openPiece(t.Context(), from) },
			func() (io.ReadCloser, error) { return s.openCAR(t.Context(), from, want) },
		} {
			stream, err := open()
			if err != nil {
				continue
			}
			taken := 0
			err = follow(streamReader{stream}, step{want, 0}, 1<<16, 0, rawCodec{}, func(_ cid.Cid, data []byte, _ int) error {
				if taken++; string(data) != right {
					t.Errorf("%q was taken", data)
				}
				return nil
			})
			if (err == nil) != (taken == 1) {
				t.Errorf("%d blocks were taken, and then: %v", taken, err)
			}
			stream.Close()
		}
	})
}

type answer func(*http.Request) *http.Response

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// Whatever a router answers, what comes of it is a bounded list of HTTP addresses.
func FuzzParseRouting(f *testing.F) {
	f.Add([]byte(`{"Providers":[{"Schema":"peer","ID":"12D3","Addrs":["/dns4/a.example/tcp/443/https"],"Protocols":["transport-ipfs-gateway-http"]}]}`))
	f.Add([]byte(`{"Providers":[{"Addrs":["/ip6/::1/tcp/80/http","/ip4/1.2.3.4/udp/1/quic-v1"],"Protocols":["transport-ipfs-gateway-http"]}]}`))
	f.Add([]byte(`{"Providers":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := parseRouting(body)
		if err != nil {
			return
		}
		if len(list) > maxStrangers {
			t.Fatalf("%d strangers", len(list))
		}
		for _, s := range list {
			for _, url := range s.URLs {
				if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
					t.Fatalf("the address %q is not one of HTTP", url)
				}
				if parsed, err := neturl.Parse(url); err != nil || parsed.Scheme+"://"+parsed.Host != url {
					t.Fatalf("the address %q has more than a host: %v", url, err)
				}
			}
		}
	})
}

func TestBaseURL(t *testing.T) {
	for text, want := range map[string]string{
		"/dns4/a.example/tcp/443/https":                "https://a.example:443",
		"/dns/a.example/tcp/8080/http":                 "http://a.example:8080",
		"/ip4/1.2.3.4/tcp/80/http":                     "http://1.2.3.4:80",
		"/ip6/2001:db8::1/tcp/443/tls/http":            "https://[2001:db8::1]:443",
		"/dns/a-b_c.example./http":                     "http://a-b_c.example.",
		"/dns/a\x00b.example/http":                     "",
		"/dns/a\xff.example/http":                      "",
		"/dns/user@a.example/http":                     "",
		"/dns/a.example:80/http":                       "",
		"/dns/a..example/http":                         "",
		"/dns/-/http":                                  "",
		"/dns/" + strings.Repeat("a", 64) + "/http":    "",
		"/dns/" + strings.Repeat("aa.", 90) + "a/http": "",
		"/ip4/1.2.3.4/tcp/80":                          "",
		"/ip4/1.2.3.4/udp/80/quic-v1":                  "",
		"nonsense":                                     "",
	} {
		if got, ok := BaseURL(text); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", text, got, ok, want)
		}
	}
}
