package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

const (
	immutable = "public, max-age=29030400, immutable"
	listed    = "public, max-age=604800, stale-while-revalidate=2678400"
)

func some(text string) cid.Cid {
	hash, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.DagProtobuf, hash)
}

// wantError asserts an error of the gateway: its status, that no cache keeps it, when to come back, and nothing secret.
func wantError(t testing.TB, h http.Header, status, want int, body string) {
	t.Helper()
	if status != want {
		t.Errorf("status %d, want %d: %.200s", status, want, body)
	}
	if got := h.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control of an error: %q", got)
	}
	for _, name := range []string{"Etag", "Content-Disposition", "Last-Modified", "X-Frostpin-Tier", "X-Frostpin-Provider"} {
		if got := h.Get(name); got != "" {
			t.Errorf("%s of an error: %q", name, got)
		}
	}
	again := want == 429 || want == 502 || want == 503 || want == 504
	if got := h.Get("Retry-After"); (got != "") != again {
		t.Errorf("Retry-After: %q", got)
	}
	if strings.Contains(body, "secret") || strings.Contains(body, "10.1.2.3") {
		t.Errorf("shown to the reader: %s", body)
	}
	if got := h.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("an error that browsers hide")
	}
}

// cids are the blocks of a CAR, in its order. err is why it cannot be read to its end.
func cids(body []byte) (found []cid.Cid, err error) {
	r, err := carv2.NewBlockReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		found = append(found, b.Cid())
	}
}

func TestFilesAreServedWhole(t *testing.T) { // H1, H8, H9, H14, H15
	r := newReads(t)
	s := over(t, r)
	a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String())
	if a.StatusCode != 200 || a.err != nil || !bytes.Equal(a.body, r.content) {
		t.Fatalf("%d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
	}
	for name, want := range map[string]string{
		"Cache-Control":   immutable,
		"Etag":            `"` + r.file.String() + `"`,
		"Content-Type":    "application/octet-stream",
		"X-Ipfs-Roots":    r.file.String(),
		"Ipfs-Uri":        "ipfs://" + r.file.String(),
		"X-Frostpin-Tier": "hot",
		"Content-Length":  fmt.Sprint(len(r.content)),
		"Accept-Ranges":   "bytes",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	h := fetchAll(t, s, "HEAD", "/ipfs/"+r.file.String())
	for name := range a.Header {
		if name != "Date" && name != "X-Request-Id" && a.Header.Get(name) != h.Header.Get(name) {
			t.Errorf("HEAD: %s: %q, GET %q", name, h.Header.Get(name), a.Header.Get(name))
		}
	}
	if w := r.get("/ipfs/"+r.file.String(), "If-None-Match", `W/"x", "`+r.file.String()+`"`); w.Code != 304 || w.Body.Len() > 0 || w.Header().Get("Cache-Control") != immutable {
		t.Errorf("%d %q", w.Code, w.Header())
	}
}

func TestPathsOfContentAreLeftAlone(t *testing.T) { // H12
	r := newReads(t)
	for path, want := range map[string]struct {
		status int
		to     string
	}{
		"/ipfs/" + r.dir.String():                                     {301, "/ipfs/" + r.dir.String() + "/"},
		"/ipfs/" + r.dir.String() + "?a=b%20c":                        {301, "/ipfs/" + r.dir.String() + "/?a=b%2520c"},
		"/ipfs/" + r.dir.String() + "/":                               {200, ""},
		"/ipfs/" + r.dir.String() + "/a%20b.txt":                      {200, ""},
		"/ipfs/" + r.dir.String() + "/%C3%BC.bin":                     {200, ""},
		"/ipfs/" + r.dir.String() + "/100%252F.txt":                   {200, ""},
		"/ipfs/" + r.dir.String() + "/100%2F.txt":                     {404, ""},
		"/ipfs/" + r.site.String() + "/sub":                           {301, "/ipfs/" + r.site.String() + "/sub/"},
		"/ipfs/" + r.site.String() + "/sub/":                          {200, ""},
		"/ipfs/" + r.site.String() + "/sub/../hello.txt":              {200, ""},
		"/ipfs/" + r.site.String() + "/nothing":                       {404, ""},
		"/ipfs/" + cid.NewCidV0(r.dir.Hash()).String() + "/a%20b.txt": {200, ""},
		"/ipfs/ipfs/" + r.file.String():                               {301, "/ipfs/" + r.file.String()},
		"/ipfs/?uri=ipfs%3A%2F%2F" + r.file.String():                  {301, "/ipfs/" + r.file.String()},
		"/ipfs/nonsense":                                              {400, ""},
		"/ipfs/":                                                      {400, ""},
		"/ipfs/../metrics":                                            {400, ""},
		"/ipfs/" + r.file.String() + "/below":                         {404, ""},
		"/ipns/example.org":                                           {404, ""},
		"//ipfs/" + r.dir.String():                                    {301, "/ipfs/" + r.dir.String() + "/"},
	} {
		w := r.get("http://host" + path)
		if w.Code != want.status || w.Header().Get("Location") != want.to {
			t.Errorf("%s: %d %q, want %d %q: %.100s", path, w.Code, w.Header().Get("Location"), want.status, want.to, w.Body)
		}
	}
	// The API is served in place as ever.
	if w := r.do(alice, "GET", "/psa//pins/", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestDirectories(t *testing.T) { // H12
	r := newReads(t)
	listing := r.get("/ipfs/" + r.dir.String() + "/")
	if listing.Header().Get("Cache-Control") != listed || !strings.HasPrefix(listing.Header().Get("Etag"), `W/"DirIndex-`) ||
		!strings.Contains(listing.Body.String(), "a b.txt") {
		t.Errorf("%v", listing.Header())
	}
	if w := r.get("/ipfs/"+r.dir.String()+"/", "If-None-Match", listing.Header().Get("Etag")); w.Code != 304 || w.Header().Get("Etag") != listing.Header().Get("Etag") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	index := r.get("/ipfs/" + r.site.String() + "/")
	if index.Header().Get("Content-Type") != "text/html" || index.Header().Get("Cache-Control") != immutable ||
		!strings.HasPrefix(index.Body.String(), "<p>page") {
		t.Errorf("%v", index.Header())
	}
	for _, w := range []http.Header{listing.Header(), index.Header()} {
		if got := w.Get("Content-Security-Policy"); !strings.HasPrefix(got, "sandbox ") || strings.Contains(got, "allow-same-origin") {
			t.Errorf("pages of strangers share our origin: %q", got)
		}
	}
	sharded := r.get("/ipfs/" + r.hamt.String() + "/")
	if sharded.Code != 200 || strings.Count(sharded.Body.String(), "?filename=file-") < hamtEntries {
		t.Errorf("%d, %d entries", sharded.Code, strings.Count(sharded.Body.String(), "?filename=file-"))
	}
	if w := r.get("/ipfs/" + r.hamt.String() + "/file-b"); w.Code != 200 || w.Body.String() != "hello\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestFormats(t *testing.T) { // H2, H3, H4, H13, H20
	r := newReads(t)
	file, text := "/ipfs/"+r.file.String(), "/ipfs/"+r.text.String()
	for _, c := range []struct {
		name, target string
		accept       string
		want         map[string]string
	}{
		{"raw", text + "?format=raw", "", map[string]string{
			"Content-Type": "application/vnd.ipld.raw", "Content-Disposition": `attachment; filename="` + r.text.String() + `.bin"; filename*=UTF-8''` + r.text.String() + ".bin",
			"X-Content-Type-Options": "nosniff", "Etag": `"` + r.text.String() + `.raw"`,
		}},
		{"raw by accept", text, "application/vnd.ipld.raw", map[string]string{"Content-Location": text + "?format=raw"}},
		{"query wins", text + "?format=raw", "application/vnd.ipld.car", map[string]string{"Content-Type": "application/vnd.ipld.raw"}},
		{"car", file + "?format=car", "", map[string]string{
			"Content-Type": "application/vnd.ipld.car; version=1; order=dfs; dups=n", "Accept-Ranges": "none",
			"Content-Disposition": `attachment; filename="` + r.file.String() + `.car"; filename*=UTF-8''` + r.file.String() + ".car",
		}},
		{"car by accept", file, "application/vnd.ipld.car;version=1;order=unk;dups=y", map[string]string{
			"Content-Type": "application/vnd.ipld.car; version=1; order=unk; dups=y",
		}},
		{"car query wins", file + "?format=car&car-order=dfs&car-dups=n", "application/vnd.ipld.car;order=unk;dups=y", map[string]string{
			"Content-Type": "application/vnd.ipld.car; version=1; order=dfs; dups=n",
		}},
		{"tar", "/ipfs/" + r.dir.String() + "?format=tar", "", map[string]string{
			"Content-Type": "application/x-tar", "Etag": `W/"` + r.dir.String() + `.x-tar"`,
		}},
		{"dag-json", "/ipfs/" + r.cbor.String() + "?format=dag-cbor", "", map[string]string{"Content-Type": "application/vnd.ipld.dag-cbor"}},
		{"filename", text + "?filename=%C3%BC.txt&download=true", "", map[string]string{
			"Content-Disposition": `attachment; filename="_.txt"; filename*=UTF-8''%C3%BC.txt`, "Content-Type": "text/plain; charset=utf-8",
		}},
	} {
		headers := []string{"Accept", c.accept}
		if c.accept == "" {
			headers = nil
		}
		w := r.get(c.target, headers...)
		if w.Code != 200 || w.Header().Get("Cache-Control") != immutable {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Header().Get("Cache-Control"))
		}
		for name, want := range c.want {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", c.name, name, got, want)
			}
		}
	}
	for target, want := range map[string]int{
		file + "?format=car&car-version=2":     400,
		file + "?format=car&dag-scope=none":    400,
		file + "?format=car&entity-bytes=x":    400,
		file + "?format=car&car-order=bfs":     400,
		text + "?format=dag-json":              406,
		file + "?format=ipns-record":           400,
		"/ipfs/" + r.cbor.String() + "/deep/x": 501,
	} {
		w := r.get(target)
		wantError(t, w.Header(), w.Code, want, w.Body.String())
	}
	w := r.get(file, "Service-Worker", "script") // H16
	wantError(t, w.Header(), w.Code, 400, w.Body.String())
	w = r.get(file, "Range", "bytes=99999999-")
	wantError(t, w.Header(), w.Code, 416, w.Body.String())
}

func TestCARsHoldWhatWasAskedFor(t *testing.T) { // H5, H6, trap 9
	r := newReads(t)
	inlined := cid.NewCidV1(cid.Raw, must(multihash.Sum([]byte("inline"), multihash.IDENTITY, -1)))
	mixed := r.addDir(t, map[string]cid.Cid{"a": r.text, "b": r.text})
	withInline := r.cborWith(t, inlined, r.text)
	r.pinned[spec.Canonical(mixed)], r.pinned[withInline] = 1, 1
	file := "/ipfs/" + r.file.String() + "?format=car"
	for target, want := range map[string]int{
		file + "&car-version=1":                                                  49,
		file + "&dag-scope=all":                                                  49,
		file + "&dag-scope=entity":                                               49,
		file + "&dag-scope=block":                                                1,
		file + "&entity-bytes=0:9":                                               2,
		file + "&entity-bytes=-10:*":                                             2,
		file + "&entity-bytes=65535:65536":                                       3,
		file + "&dag-scope=entity&entity-bytes=0:9":                              2,
		"/ipfs/" + mixed.String() + "?format=car":                                2,
		"/ipfs/" + mixed.String() + "?format=car&car-dups=y":                     3,
		"/ipfs/" + mixed.String() + "?format=car&entity-bytes=0:9":               1, // ignored on what is no file
		"/ipfs/" + withInline.String() + "?format=car":                           2, // no identity block
		"/ipfs/" + r.site.String() + "/sub/a%20b.txt?format=car&dag-scope=block": 3, // the proof of the path
	} {
		w := r.get(target)
		found, err := cids(w.Body.Bytes())
		if w.Code != 200 || err != nil || len(found) != want {
			t.Errorf("%s: %d, %d blocks, want %d: %v", target, w.Code, len(found), want, err)
		}
	}
	tags := map[string]string{}
	for _, q := range []string{"", "&dag-scope=block", "&dag-scope=entity", "&entity-bytes=0:9", "&entity-bytes=0:8", "&car-order=unk", "&car-dups=y"} {
		tag := r.head(file + q).Header().Get("Etag")
		if tag == "" || tags[tag] != "" {
			t.Errorf("%q has the tag of %q: %s", q, tags[tag], tag)
		}
		tags[tag] = q + " "
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRanges(t *testing.T) { // H11
	r := newReads(t)
	r.chill(t, everything)
	s := over(t, r)
	for spec, want := range map[string][2]int{"bytes=0-9": {0, 10}, "bytes=1000000-1000999": {1000000, 1001000}, "bytes=-5": {3<<20 - 5, 3 << 20}, "bytes=3145000-": {3145000, 3 << 20}} {
		a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String(), "Range", spec)
		if a.StatusCode != 206 || !bytes.Equal(a.body, r.content[want[0]:want[1]]) ||
			a.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, 3<<20) {
			t.Errorf("%s: %d, %d bytes, %s", spec, a.StatusCode, len(a.body), a.Header.Get("Content-Range"))
		}
	}
	if a := fetchAll(t, s, "GET", "/ipfs/"+r.text.String()+"?format=raw", "Range", "bytes=1-2"); a.StatusCode != 206 || string(a.body) != "el" {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
	if got := r.distinct(); got > 40 {
		t.Errorf("%d blocks were fetched for a few ranges", got)
	}
	if len(r.prefetch) != 0 {
		t.Errorf("ranges are no reason to fetch all of a DAG: %v", r.prefetch)
	}
}

func TestMissingRootIsNeverFound(t *testing.T) { // H7, trap 1, H18
	r := newReads(t)
	unknown, lost := some("unknown"), some("lost")
	r.pinned[lost] = 1 // pinned, and nobody has it
	for _, root := range []cid.Cid{unknown, lost} {
		for _, query := range []string{"", "?format=raw", "?format=car", "?format=tar", "?format=dag-json", "?format=car&dag-scope=block", "?format=car&entity-bytes=0:1"} {
			for _, headers := range [][]string{nil, {"If-None-Match", "*"}, {"Range", "bytes=0-1"}} {
				if root.Equals(lost) && len(headers) > 0 && headers[1] == "*" {
					continue // whoever has a tag of what is pinned has it from here
				}
				for _, method := range []string{"GET", "HEAD"} {
					w := r.do("", method, "/ipfs/"+root.String()+query, "", headers...)
					wantError(t, w.Header(), w.Code, 404, w.Body.String())
					if method == "GET" && !strings.Contains(w.Body.String(), "not held by this service") {
						t.Errorf("%s: %s", query, w.Body)
					}
				}
			}
		}
	}
	for _, c := range r.fetched {
		if c.Equals(unknown) {
			t.Fatal("asked afar for what nobody pinned")
		}
	}
	w := r.get("/ipfs/"+unknown.String(), "Accept", "text/html,*/*")
	if got := w.Header().Get("Content-Type"); got != "text/html" || !strings.Contains(w.Body.String(), "404") {
		t.Errorf("%s: %.100s", got, w.Body)
	}
}

func TestErrorsAreNeverKept(t *testing.T) { // trap 2, 6, 7, 8, H17
	for _, c := range []struct {
		fault  error
		status int
	}{
		{errProviderRefused, 502},
		{errProviderSlow, 504},
		{errProviderBusy, 429},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), 504},
		{errSecret, 500},
	} {
		r := newReads(t)
		r.chill(t, everything)
		// Both the root and, apart, a first leaf whose reason merkledag loses.
		r.faults[r.file], r.faults[r.leaves[0]], r.faults[r.index] = c.fault, c.fault, c.fault
		nested := "/ipfs/" + r.dir.String() + "/%C3%BC.bin"
		for _, target := range []string{"/ipfs/" + r.file.String(), nested, "/ipfs/" + r.site.String() + "/"} {
			for _, query := range []string{"", "?format=car", "?format=tar", "?format=raw"} {
				if query != "" && target != "/ipfs/"+r.file.String() {
					continue
				}
				for _, headers := range [][]string{nil, {"If-None-Match", `"x"`}} {
					w := r.get(target+query, headers...)
					wantError(t, w.Header(), w.Code, c.status, w.Body.String())
				}
			}
		}
		delete(r.faults, r.file)
		w := r.get("/ipfs/" + r.file.String()) // needs the leaf for its type
		wantError(t, w.Header(), w.Code, c.status, w.Body.String())
		if c.status == 500 && !strings.Contains(w.Body.String(), w.Header().Get("X-Request-Id")) {
			t.Errorf("no request id in %s", w.Body)
		}
		if level := map[bool]string{true: "ERROR", false: "WARN"}[c.status == 500]; c.status != 429 && !strings.Contains(r.log.String(), `"level":"`+level+`","msg":"read failed"`) {
			t.Errorf("%d is not in the log", c.status)
		}
	}
}

func TestLostIndexIsNoListing(t *testing.T) {
	r := newReads(t)
	r.lose(t, r.index)
	w := r.get("/ipfs/" + r.site.String() + "/")
	wantError(t, w.Header(), w.Code, 404, w.Body.String())
}

func TestHEADTouchesTheRootOnly(t *testing.T) { // H1, trap 3
	for _, query := range []string{"?format=car", "?format=tar", "?format=raw", "?filename=x.txt", "?format=car&dag-scope=entity", "?format=car&entity-bytes=5:10"} {
		r := newReads(t)
		r.chill(t, everything)
		target := "/ipfs/" + r.file.String() + query
		head := r.head(target)
		if head.Code != 200 || head.Body.Len() > 0 || r.distinct() != 1 {
			t.Errorf("%s: %d, %d bytes, %d blocks", query, head.Code, head.Body.Len(), r.distinct())
		}
		if len(r.prefetch) > 0 {
			t.Errorf("%s: everything is fetched", query)
		}
		get := r.get(target)
		for name := range get.Header() {
			if name != "X-Request-Id" && !strings.HasPrefix(name, "Trailer") && !strings.HasPrefix(name, "X-Frostpin-") && head.Header().Get(name) != get.Header().Get(name) {
				t.Errorf("%s: %s: HEAD %q, GET %q", query, name, head.Header().Get(name), get.Header().Get(name))
			}
		}
	}
}

func TestOnlyIfCachedFetchesNothing(t *testing.T) { // H10, trap 4
	for _, directives := range []string{"only-if-cached", "max-age=0, only-if-cached", "Only-If-Cached,no-transform"} {
		for _, path := range []string{"", "?format=car", "?format=raw", "?format=tar"} {
			r := newReads(t)
			file, below := "/ipfs/"+r.file.String()+path, "/ipfs/"+r.site.String()+"/sub/a%20b.txt"+path
			for _, target := range []string{file, below} {
				if w := r.get(target, "Cache-Control", directives); w.Code != 200 {
					t.Errorf("%s %s: hot: %d", directives, target, w.Code)
				}
			}
			// The last block of the path alone is cold, then everything.
			r.chill(t, func(_ int, c cid.Cid) bool {
				return bytes.Equal(c.Hash(), r.text.Hash()) || bytes.Equal(c.Hash(), r.file.Hash())
			})
			for range 2 {
				for _, target := range []string{file, below} {
					for _, method := range []string{"GET", "HEAD"} {
						w := r.do("", method, target, "", "Cache-Control", directives)
						wantError(t, w.Header(), w.Code, 412, w.Body.String())
					}
				}
				r.chill(t, everything)
			}
			if len(r.fetched) > 0 || len(r.prefetch) > 0 {
				t.Errorf("%s %s: %d blocks were fetched", directives, path, len(r.fetched))
			}
		}
	}
	r := newReads(t)
	r.lose(t, r.leaves[0])
	w := r.get("/ipfs/"+r.file.String(), "Cache-Control", "only-if-cached")
	wantError(t, w.Header(), w.Code, 412, w.Body.String())
}

func TestBrokenOffStreamsDoNotEndLikeWholeOnes(t *testing.T) { // H7, trap 5
	for _, query := range []string{"?format=car", "?format=tar", ""} {
		for _, fault := range []error{errProviderRefused, errSecret} {
			r := newReads(t)
			s := over(t, r)
			r.chill(t, everything)
			r.faults[r.leaves[40]] = fault
			a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+query)
			if a.StatusCode != 200 || !errors.Is(a.err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %d, %d bytes, ended with %v", query, a.StatusCode, len(a.body), a.err)
			}
			if strings.Contains(string(a.body), "secret") {
				t.Errorf("%s: the reason is in the body", query)
			}
			s.Close() // its handlers have ended then
			if !strings.Contains(r.log.String(), `"msg":"read failed"`) || !strings.Contains(r.log.String(), r.leaves[40].String()) {
				t.Errorf("%s: the operator learns nothing", query)
			}
			if !strings.Contains(r.log.String(), `"msg":"request"`) {
				t.Errorf("%s: not in the access log", query)
			}
		}
	}
}

// slowReader takes nothing for a while, seldom and small.
func TestStalledReadersAreDropped(t *testing.T) {
	r := newReads(t, func(c *server.Config) { c.Gateway.Stall = 2 * time.Second })
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t, r.fixture)
		conn := p.dial(t)
		fmt.Fprintf(conn, "GET /ipfs/%s?format=car HTTP/1.1\r\nHost: x\r\n\r\n", r.file)
		head := make([]byte, 100)
		if _, err := io.ReadFull(conn, head); err != nil || !strings.Contains(string(head), "200 OK") {
			t.Fatalf("%q %v", head, err)
		}
		start := time.Now()
		<-time.After(5 * time.Second) // and takes nothing more
		synctest.Wait()
		rest, err := io.ReadAll(conn)
		if len(rest) > 1<<20 {
			t.Errorf("%d bytes after %s, %v: the reader was waited for", len(rest), time.Since(start), err)
		}
		conn.Close()
		// A slow connection that goes on is not harmed by a deadline of an answer before.
		conn = p.dial(t)
		for range 3 {
			fmt.Fprintf(conn, "GET /ipfs/%s HTTP/1.1\r\nHost: x\r\n\r\n", r.text)
			buf := make([]byte, 4096)
			if n, err := conn.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "200 OK") {
				t.Fatalf("%q %v", buf[:n], err)
			}
			for {
				conn.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := conn.Read(buf); err != nil {
					break
				}
			}
			conn.SetReadDeadline(time.Time{})
			<-time.After(10 * time.Second)
			fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			if n, err := conn.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "200 OK") {
				t.Fatalf("after a deadline: %q %v", buf[:n], err)
			}
			<-time.After(10 * time.Second)
		}
		conn.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestReadsWithoutProgressEnd(t *testing.T) {
	r := newReads(t, func(c *server.Config) { c.Gateway.RetrievalTimeout = 500 * time.Millisecond })
	s := over(t, r)
	r.chill(t, everything)
	r.faults[r.file], r.faults[r.leaves[30]] = nil, nil // they hang
	for _, query := range []string{"", "?format=car", "?format=raw", "?format=tar"} {
		a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+query)
		wantError(t, a.Header, a.StatusCode, 504, string(a.body))
		delete(r.faults, r.file)
		if query != "?format=raw" {
			if a = fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+query); a.StatusCode != 200 || !errors.Is(a.err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %d, ended with %v", query, a.StatusCode, a.err)
			}
		}
		r.chill(t, everything)
		r.faults[r.file] = nil
	}
}

func TestContentThatMakesNoSenseIsNotOurFault(t *testing.T) {
	r := newReads(t)
	broken := some("broken")
	b := must(blocks.NewBlockWithCid([]byte("broken"), broken))
	if err := r.hot.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	unsafe := cid.NewCidV1(cid.Raw, must(multihash.Encode(make([]byte, 16), multihash.MD5)))
	for target, want := range map[string]int{
		"/ipfs/" + broken.String():                 400,
		"/ipfs/" + broken.String() + "?format=car": 400,
		"/ipfs/" + unsafe.String():                 400,
		"/ipfs/" + r.cbor.String() + "?format=tar": 400,
		"/ipfs/" + unsafe.String() + "?format=car": 400,
	} {
		w := r.get(target)
		wantError(t, w.Header(), w.Code, want, w.Body.String())
	}
	if w := r.get("/ipfs/" + broken.String() + "?format=raw"); w.Code != 200 || w.Body.String() != "broken" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestProbe(t *testing.T) { // H19
	for _, fetch := range []server.Fetch{server.FetchHeld, server.FetchOnly, server.FetchAny} {
		r := newReads(t, func(c *server.Config) { c.Gateway.Fetch = fetch })
		for _, query := range []string{"?format=raw", "?format=car"} {
			for _, method := range []string{"GET", "HEAD"} {
				if w := r.do("", method, "/ipfs/bafkqaaa"+query, ""); w.Code != 200 {
					t.Errorf("%s %s: %d %s", method, query, w.Code, w.Body)
				}
			}
		}
	}
}

func TestTrustlessGatewayServesWhatCanBeVerified(t *testing.T) { // H22
	r := newReads(t, func(c *server.Config) { c.Gateway.Trustless = true })
	for query, want := range map[string]int{"": 406, "?format=tar": 406, "?format=raw": 200, "?format=car": 200} {
		if w := r.get("/ipfs/" + r.file.String() + query); w.Code != want {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestSizesAreBounded(t *testing.T) {
	r := newReads(t, func(c *server.Config) { c.Gateway.MaxDeserializedSize, c.Gateway.MaxDAGSize = 1<<10, 2<<20 })
	for target, want := range map[string]int{
		"/ipfs/" + r.file.String() + "?format=car":  410,
		"/ipfs/" + r.file.String():                  410,
		"/ipfs/" + r.small.String() + "?format=car": 200,
		"/ipfs/" + r.small.String():                 410,
		"/ipfs/" + r.text.String():                  200,
	} {
		w := r.get(target)
		if w.Code != want || want == 410 && (w.Header().Get("Cache-Control") != listed || w.Header().Get("Etag") != "" || w.Header().Get("Content-Disposition") != "") {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
}

func TestReadersAreBounded(t *testing.T) {
	r := newReads(t, func(c *server.Config) { c.Gateway.MaxRequests = 1 })
	s := over(t, r)
	r.chill(t, everything)
	r.faults[r.file] = nil
	ctx, cancel := context.WithCancel(t.Context())
	req := must(http.NewRequestWithContext(ctx, "GET", s.URL+"/ipfs/"+r.file.String(), nil))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if res, err := s.Client().Do(req); err == nil {
			res.Body.Close()
		}
	}()
	poll(t, func() bool { return r.distinct() == 1 })
	a := fetchAll(t, s, "GET", "/ipfs/"+r.text.String())
	if a.StatusCode != 429 || a.Header.Get("Retry-After") == "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	cancel()
	<-ended
	poll(t, func() bool { return fetchAll(t, s, "GET", "/ipfs/"+r.text.String()).StatusCode == 200 })
}

// poll waits until something is so.
func poll(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
		<-time.After(time.Millisecond)
	}
}

func TestWholeReadsOfColdContentAreAnnounced(t *testing.T) {
	for _, c := range []struct {
		name, target string
		half         bool
		headers      []string
		want         string // what is announced; empty: nothing
	}{
		{"car", "FILE?format=car", false, nil, "FILE"},
		{"car, half", "FILE?format=car", true, nil, "FILE"},
		{"tar", "DIR?format=tar", false, nil, "DIR"},
		{"file", "FILE", false, nil, "FILE"},
		{"file, half", "FILE", true, nil, "FILE"},
		{"range", "FILE", false, []string{"Range", "bytes=0-9"}, ""},
		{"entity bytes", "FILE?format=car&entity-bytes=0:9", false, nil, ""},
		{"block", "FILE?format=car&dag-scope=block", false, nil, ""},
		{"raw", "FILE?format=raw", false, nil, ""},
		{"listing", "DIR/", false, nil, ""},
		{"below, of one block", "DIR/a%20b.txt", false, nil, ""},
		{"below", "DIR/%C3%BC.bin", false, nil, "FILE"},
		{"below, half", "DIR/%C3%BC.bin", true, nil, "FILE"},
		{"range below", "DIR/%C3%BC.bin", false, []string{"Range", "bytes=0-9"}, ""},
		{"car below", "DIR/%C3%BC.bin?format=car", false, nil, ""},
		{"only cached", "FILE?format=car", true, []string{"Cache-Control", "only-if-cached"}, ""},
	} {
		r := newReads(t)
		s := over(t, r)
		r.chill(t, func(_ int, x cid.Cid) bool { return !c.half || !bytes.Equal(x.Hash(), r.file.Hash()) })
		names := strings.NewReplacer("FILE", r.file.String(), "DIR", r.dir.String())
		fetchAll(t, s, "GET", "/ipfs/"+names.Replace(c.target), c.headers...)
		s.Close() // its handlers have ended then
		if want := strings.Fields(names.Replace(c.want)); fmt.Sprint(r.prefetch) != fmt.Sprint(want) {
			t.Errorf("%s: announced %v; want %v", c.name, r.prefetch, want)
		}
		// Hot now: nothing to announce.
		r.prefetch = nil
		if c.want != "" {
			fetchAll(t, over(t, r), "GET", "/ipfs/"+names.Replace(c.target), c.headers...)
			if len(r.prefetch) > 0 {
				t.Errorf("%s: announced although hot", c.name)
			}
		}
	}
}

// TestReadsAreCountedOnce has a film read in ranges, and what sends no content.
func TestReadsAreCountedOnce(t *testing.T) {
	r := newReads(t)
	s := over(t, r)
	file := "/ipfs/" + r.file.String()
	for _, headers := range [][]string{{"Range", "bytes=10-19"}, {"Range", "bytes=-5"}, {"If-None-Match", "*"}} {
		fetchAll(t, s, "GET", file, headers...)
	}
	fetchAll(t, s, "HEAD", file)
	fetchAll(t, s, "GET", "/ipfs/"+r.dir.String()+"/nothing")
	if len(r.touched) > 0 {
		t.Errorf("counted %v", r.touched)
	}
	fetchAll(t, s, "GET", file)
	fetchAll(t, s, "GET", file, "Range", "bytes=0-9")
	r.chill(t, everything)
	fetchAll(t, s, "GET", "/ipfs/"+r.dir.String()+"?format=car")
	want := []touched{{r.file, false}, {r.file, false}, {r.dir, true}}
	if !slices.Equal(r.touched, want) {
		t.Errorf("got %v, want %v", r.touched, want)
	}
}

func TestTierIsTold(t *testing.T) {
	r := newReads(t)
	s := over(t, r)
	if a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+"?format=car"); a.Header.Get("X-Frostpin-Tier") != "hot" || len(a.Trailer) > 0 {
		t.Errorf("%v %v", a.Header, a.Trailer)
	}
	// The header is out before the leaves are read.
	r.chill(t, func(_ int, c cid.Cid) bool { return !bytes.Equal(c.Hash(), r.file.Hash()) })
	a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+"?format=car")
	if a.err != nil || a.Header.Get("X-Frostpin-Tier") != "hot" || a.Trailer.Get("X-Frostpin-Tier") != "cold" || a.Trailer.Get("X-Frostpin-Provider") != "f01000" {
		t.Errorf("%v %v %v", a.err, a.Header, a.Trailer)
	}
	r.chill(t, everything)
	a = fetchAll(t, s, "GET", "/ipfs/"+r.file.String())
	if a.Header.Get("X-Frostpin-Tier") != "cold" || a.Header.Get("X-Frostpin-Provider") != "f01000" {
		t.Errorf("%v", a.Header)
	}
	a = fetchAll(t, s, "GET", "/ipfs/"+r.file.String())
	if a.Header.Get("X-Frostpin-Tier") != "hot" || a.Header.Get("X-Frostpin-Provider") != "" {
		t.Errorf("%v", a.Header)
	}
	for _, want := range []string{
		`frostpin_gateway_requests_total{format="car",status="2xx",tier="cold"} 1`,
		`frostpin_gateway_requests_total{format="file",status="2xx",tier="hot"} 1`,
		`frostpin_gateway_sent_bytes_total{tier="hot"}`,
		`frostpin_http_request_duration_seconds_count{method="GET",route="/ipfs",status="2xx"} 4`,
	} {
		if got := fetchAll(t, s, "GET", "/metrics"); !strings.Contains(string(got.body), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

func TestBrowsersMayRead(t *testing.T) { // H23
	r := newReads(t, func(c *server.Config) { c.Gateway.Access = server.AccessToken })
	w := r.do("", "OPTIONS", "/ipfs/"+r.file.String(), "", "Origin", "https://app.example", "Access-Control-Request-Headers", "range")
	if w.Code != 200 && w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for name, words := range map[string][]string{
		"Access-Control-Allow-Origin":   {"*"},
		"Access-Control-Allow-Methods":  {"GET", "HEAD", "OPTIONS"},
		"Access-Control-Allow-Headers":  {"Range", "Authorization", "X-Frostpin-Account"},
		"Access-Control-Expose-Headers": {"Content-Range", "X-Ipfs-Roots", "X-Frostpin-Tier", "X-Frostpin-Provider", "Etag"},
	} {
		for _, word := range words {
			if got := w.Header().Get(name); !strings.Contains(got, word) {
				t.Errorf("%s: %q lacks %s", name, got, word)
			}
		}
	}
}

// With HTTP/2 a deadline ends a stream whether anything is written or not.
func TestAReadWhoseBlocksAreSlowIsNotTakenForAStalledReader(t *testing.T) {
	const stall = 300 * time.Millisecond
	r := newReads(t, func(c *server.Config) { c.Gateway.Stall = stall })
	r.chill(t, everything)
	r.slow = 2 * stall
	s := httptest.NewUnstartedServer(r.fixture)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	res, err := s.Client().Get(s.URL + "/ipfs/" + r.small.String() + "?format=car")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != 2 || res.StatusCode != 200 || len(body) < 120_000 {
		t.Errorf("HTTP/%d, %d, %d bytes: %v", res.ProtoMajor, res.StatusCode, len(body), err)
	}
}

// A reader that sends no more, or a server that stops, ends a request while its page is still composed.
func TestAPageThatIsEndedEarlyIsNotComplete(t *testing.T) {
	r := newReads(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := &piecewise{ResponseRecorder: httptest.NewRecorder(), onWrite: cancel}
	defer func() {
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			t.Errorf("the answer ends with %v after %d bytes", v, w.Body.Len())
		}
	}()
	r.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/ipfs/"+r.hamt.String()+"/", nil))
}

// A page is composed of a great many parts, some of a few bytes. Each that is sent alone costs a deadline and a system call.
func TestAnAnswerOfManyPartsIsSentInFewPieces(t *testing.T) {
	r := newReads(t)
	for _, query := range []string{"/", "?format=tar", "?format=car"} {
		w := &piecewise{ResponseRecorder: httptest.NewRecorder()}
		r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/ipfs/"+r.hamt.String()+query, nil))
		if size := w.Body.Len(); w.Code != 200 || size < 16<<10 || w.pieces > size/2048+1 {
			t.Errorf("%s: status %d, %d bytes in %d pieces", query, w.Code, size, w.pieces)
		}
	}
}

// piecewise counts the writes of an answer.
type piecewise struct {
	*httptest.ResponseRecorder
	pieces  int
	onWrite func()
}

func (p *piecewise) Write(b []byte) (int, error) {
	if p.pieces++; p.onWrite != nil {
		p.onWrite()
	}
	return p.ResponseRecorder.Write(b)
}

func TestALongFileIsToldFromAllElse(t *testing.T) {
	w := newWorld()
	d := w.fill(t)
	want := map[cid.Cid]bool{d.file: true, d.small: true, d.text: false, d.dir: false, d.site: false, d.hamt: false, d.cbor: false, d.leaves[0]: false}
	for c, long := range want {
		b, err := w.hot.Get(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		block, err := blocks.NewBlockWithCid(b.RawData(), c)
		if err != nil {
			t.Fatal(err)
		}
		if got := server.IsLongFile(block); got != long {
			t.Errorf("%s: %v, want %v", c, got, long)
		}
		if !long {
			continue
		}
		for end := range len(b.RawData()) { // what is broken is for boxo to refuse
			broken, err := blocks.NewBlockWithCid(b.RawData()[:end], c)
			if err != nil {
				t.Fatal(err)
			}
			_, err = merkledag.DecodeProtobuf(broken.RawData())
			if got := server.IsLongFile(broken); got && err != nil {
				t.Errorf("%d bytes of %s count as a file", end, c)
			}
		}
	}
}
