package retrieval

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
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
		err := follow(streamReader{bytes.NewReader(data)}, root, 0, 1<<20, rawCodec{}, func(c cid.Cid, data []byte, _ int) error {
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
			}
		}
	})
}

func TestBaseURL(t *testing.T) {
	for text, want := range map[string]string{
		"/dns4/a.example/tcp/443/https":     "https://a.example:443",
		"/dns/a.example/tcp/8080/http":      "http://a.example:8080",
		"/ip4/1.2.3.4/tcp/80/http":          "http://1.2.3.4:80",
		"/ip6/2001:db8::1/tcp/443/tls/http": "https://[2001:db8::1]:443",
		"/ip4/1.2.3.4/tcp/80":               "",
		"/ip4/1.2.3.4/udp/80/quic-v1":       "",
		"nonsense":                          "",
	} {
		if got, ok := BaseURL(text); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", text, got, ok, want)
		}
	}
}
