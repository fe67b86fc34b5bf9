package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/retrieval/deny"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

var linkKey = []byte(strings.Repeat("k", 32))

// withGateway changes the gateway that newReads makes.
func withGateway(change func(*server.Gateway)) func(*server.Config) {
	return func(c *server.Config) { change(c.Gateway) }
}

func TestOnlyWhatIsPinnedIsFetched(t *testing.T) {
	for _, c := range []struct {
		fetch                  server.Fetch
		hotUnknown, coldPinned int
		coldUnknown, coldBelow int
	}{
		{"", 200, 200, 404, 404},
		{server.FetchHeld, 200, 200, 404, 404},
		{server.FetchOnly, 404, 200, 404, 404},
		{server.FetchAny, 200, 200, 200, 200},
	} {
		r := newReads(t, withGateway(func(g *server.Gateway) { g.Fetch = c.fetch }))
		read := func(root cid.Cid, want int) {
			t.Helper()
			for _, query := range []string{"", "?format=raw", "?format=car"} {
				if w := r.get("/ipfs/" + root.String() + query); w.Code != want {
					t.Errorf("%q, %s: %d, want %d", c.fetch, query, w.Code, want)
				}
			}
		}
		delete(r.pinned, spec.Canonical(r.text))
		read(r.text, c.hotUnknown)
		r.chill(t, everything)
		read(r.file, c.coldPinned)
		read(cid.NewCidV0(r.file.Hash()), c.coldPinned) // the same pin in another spelling
		r.chill(t, everything)
		read(r.text, c.coldUnknown)
		read(r.leaves[7], c.coldBelow) // below a pinned root, but asked for by itself
	}
}

func TestDotsLeadNowhereElse(t *testing.T) {
	r := newReads(t, withGateway(func(g *server.Gateway) { g.Fetch = server.FetchOnly }))
	other := r.add(t, []byte("not pinned"))
	for _, path := range []string{"/../" + other.String(), "/a/../../" + other.String(), "/%2e%2e/" + other.String(), "/..%2f" + other.String()} {
		if w := r.get("/ipfs/" + r.file.String() + path); w.Code != 404 {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
}

func TestPinsAreAskedForOnceAMoment(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newReads(t, withGateway(func(g *server.Gateway) { g.Now = func() time.Time { return now } }))
	for range 10 {
		r.get("/ipfs/" + r.file.String() + "?format=raw")
	}
	if r.asked != 1 {
		t.Errorf("asked %d times", r.asked)
	}
	now = now.Add(time.Minute)
	r.get("/ipfs/" + r.file.String() + "?format=raw")
	if r.asked != 2 {
		t.Errorf("asked %d times", r.asked)
	}
	// What is pinned now is read now.
	fresh := r.add(t, []byte("fresh"))
	r.chill(t, everything)
	if w := r.get("/ipfs/" + fresh.String()); w.Code != 404 {
		t.Error(w.Code)
	}
	r.pinned[spec.Canonical(fresh)] = 1
	if w := r.get("/ipfs/" + fresh.String()); w.Code != 200 {
		t.Error(w.Code)
	}
}

func TestDatabaseThatDoesNotAnswerIsNeitherYesNorNo(t *testing.T) {
	r := newReads(t, func(c *server.Config) { c.Unavailable = []error{errSecret} })
	r.err = errSecret
	w := r.get("/ipfs/" + r.file.String())
	wantFailure(t, w, 503, "DATABASE_BUSY", "try again")
}

func TestGatewayCanBeOff(t *testing.T) {
	r := newReads(t, withGateway(func(g *server.Gateway) { g.Access = server.AccessOff }))
	wantFailure(t, r.get("/ipfs/"+r.file.String()), 404, "NOT_FOUND", "nothing at this path")
	wantFailure(t, r.do(alice, "POST", "/api/v1/links", `{"cid":"`+r.file.String()+`"}`), 404, "NOT_FOUND", "signs no links")
	wantFailure(t, newFixture(t).do(alice, "POST", "/api/v1/links", `{}`), 404, "NOT_FOUND", "signs no links")
}

func private(g *server.Gateway) { g.Access, g.LinkKey = server.AccessToken, linkKey }

func TestPrivateContentNeedsTheScopeToRetrieve(t *testing.T) {
	r := newReads(t, withGateway(private))
	target := "/ipfs/" + r.file.String()
	r.tokens.caller.State = auth.Suspended // reads go on
	for scope, status := range map[auth.Scopes]int{auth.Retrieve: 200, auth.AllScopes &^ auth.Retrieve: 403} {
		r.tokens.caller.Scopes = scope
		w := r.do(alice, "GET", target, "")
		if w.Code != status {
			t.Errorf("with the scopes %q: %d %s", scope, w.Code, w.Body)
		}
		if status == 403 {
			wantFailure(t, w, 403, "INSUFFICIENT_SCOPE", "retrieve")
		}
	}
}

func TestPrivateContentNeedsATokenOfWhoPinsIt(t *testing.T) {
	r := newReads(t, withGateway(private))
	target := "/ipfs/" + r.file.String()
	wantFailure(t, r.get(target), 401, "UNAUTHORIZED", "access denied")
	wantFailure(t, r.get("/ipfs/nonsense"), 401, "UNAUTHORIZED", "access denied")
	wantFailure(t, r.do("fp_other", "GET", target, ""), 401, "UNAUTHORIZED", "unknown, has expired or was revoked")
	wantFailure(t, r.do(bob, "GET", target, ""), 404, "NOT_FOUND", "no such content")
	wantFailure(t, r.do(bob, "GET", "/ipfs/"+some("x").String(), ""), 404, "NOT_FOUND", "no such content")
	for _, query := range []string{"", "?format=car", "?format=raw", "?format=tar"} {
		w := r.do(alice, "GET", target+query, "")
		if w.Code != 200 || w.Header().Get("Cache-Control") != "private, max-age=29030400, immutable" || w.Header().Get("Vary") != "Authorization, X-Frostpin-Account" {
			t.Errorf("%s: %d %v", query, w.Code, w.Header())
		}
	}
	w := r.do(alice, "GET", target, "", "If-None-Match", `"`+r.file.String()+`"`)
	if w.Code != 304 || !strings.HasPrefix(w.Header().Get("Cache-Control"), "private") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = r.do(alice, "GET", "/ipfs/"+r.dir.String()+"/", "")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Cache-Control"), "private, max-age=604800") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w = r.do(alice, "GET", "/ipfs/"+r.dir.String()+"/none", ""); w.Code != 404 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if strings.Contains(r.log.String(), alice) {
		t.Error("the token is in the log")
	}
}

// An identity CID can hold the node of a directory whose entries are other people's.
func TestCIDThatHoldsLinksOpensNothingOfOthers(t *testing.T) {
	for _, c := range []struct {
		name  string
		token string
		mode  func(*server.Gateway)
	}{
		{"another account", bob, private},
		{"nobody's pin", "", func(g *server.Gateway) { g.Fetch = server.FetchOnly }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReads(t, withGateway(c.mode))
			if c.token == "" {
				delete(r.pinned, spec.Canonical(r.file))
			}
			node := unixfs.EmptyDirNode()
			if err := node.AddRawLink("x", &ipld.Link{Cid: r.file}); err != nil {
				t.Fatal(err)
			}
			inlined := func(codec uint64, data []byte) string {
				return "/ipfs/" + cid.NewCidV1(codec, must(multihash.Sum(data, multihash.IDENTITY, -1))).String()
			}
			carrier := inlined(cid.DagProtobuf, must(node.EncodeProtobuf(false)))
			for _, target := range []string{"/ipfs/" + r.file.String(), carrier, carrier + "/x", carrier + "/x?format=raw", carrier + "?format=car", carrier + "?format=tar"} {
				wantFailure(t, r.do(c.token, "GET", target, ""), 404, "NOT_FOUND", "no such content")
			}
			for _, target := range []string{
				inlined(cid.Raw, []byte("all of it")),
				inlined(cid.DagProtobuf, must(merkledag.NodeWithData(unixfs.FilePBData([]byte("all of it"), 9)).EncodeProtobuf(false))),
			} {
				if w := r.do(c.token, "GET", target, ""); w.Code != 200 || w.Body.String() != "all of it" {
					t.Errorf("%s: %d %q", target, w.Code, w.Body)
				}
			}
		})
	}
}

// An account that takes its bytes slowly leaves places to others.
func TestOneAccountDoesNotTakeAllPlaces(t *testing.T) {
	r := newReads(t, withGateway(func(g *server.Gateway) {
		private(g)
		g.MaxRequests = 8
	}))
	s := over(t, r)
	r.chill(t, everything)
	r.faults[r.file] = nil
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for range 2 {
		req := must(http.NewRequestWithContext(ctx, "GET", s.URL+"/ipfs/"+r.file.String(), nil))
		req.Header.Set("Authorization", "Bearer "+alice)
		reading.Go(func() {
			for refused := true; refused; { // where one of those below had the place
				res, err := s.Client().Do(req)
				if refused = err == nil && res.StatusCode == 429; err == nil {
					res.Body.Close()
				}
			}
		})
	}
	tiny := "/ipfs/" + cid.NewCidV1(cid.Raw, must(multihash.Sum([]byte("tiny"), multihash.IDENTITY, -1))).String()
	status := func(token string) int {
		return fetchAll(t, s, "GET", tiny, "Authorization", "Bearer "+token).StatusCode
	}
	poll(t, func() bool { return status(alice) == 429 })
	if got := status(bob); got != 200 {
		t.Errorf("the other account is answered %d", got)
	}
	cancel()
	reading.Wait()
	poll(t, func() bool { return status(alice) == 200 })
}

// link asks for a link and returns its target.
func (r *reads) link(t testing.TB, body string) string {
	t.Helper()
	w := r.do(alice, "POST", "/api/v1/links", body)
	var l v1.Link
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 201 {
		t.Fatalf("%s: %d %s", body, w.Code, w.Body)
	}
	loadOwnContract(t).check(t, "POST", "/links", w)
	u, err := url.Parse(l.Url)
	if err != nil {
		t.Fatal(err)
	}
	return u.RequestURI()
}

func TestLinksOpenOnePathUntilTheyExpire(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) { g.Now = func() time.Time { return now } }))
	root, sub := r.site.String(), "/ipfs/"+r.site.String()+"/sub"
	all := r.link(t, `{"cid":"`+root+`","expires_in":60}`)
	deep := r.link(t, `{"cid":"`+root+`","path":"/sub/","expires_in":60}`)
	query := func(link string) string { return link[strings.Index(link, "?"):] }
	if !strings.HasPrefix(deep, sub+"?") {
		t.Errorf("link %s", deep)
	}
	for _, method := range []string{"GET", "HEAD"} {
		for target, want := range map[string]int{
			all:                                301, // as ever for a directory
			"/ipfs/" + root + "/" + query(all): 200,
			"/ipfs/" + root + "/hello.txt" + query(all):                                 200,
			sub + "/a%20b.txt" + query(all):                                             200,
			sub + "/a%20b.txt" + query(deep):                                            200,
			sub + "/" + query(deep):                                                     200,
			sub + "/a%20b.txt" + query(deep) + "&format=car":                            200,
			"/ipfs/" + root + "/hello.txt" + query(deep):                                403,
			"/ipfs/" + root + "/sub/../hello.txt" + query(deep):                         403,
			"/ipfs/" + root + "/" + query(deep):                                         403,
			"/ipfs/" + root + "/subx" + query(deep):                                     403,
			"/ipfs/" + r.file.String() + query(all):                                     403,
			"/ipfs/nonsense" + query(all):                                               403,
			"/ipfs/" + cid.NewCidV0(r.site.Hash()).String() + "/hello.txt" + query(all): 200, // the same DAG
		} {
			w := r.do("", method, target, "")
			if w.Code != want {
				t.Errorf("%s %s: %d, want %d: %.200s", method, target, w.Code, want, w.Body)
			}
			if want == 200 && !strings.HasPrefix(w.Header().Get("Cache-Control"), "private") {
				t.Errorf("%s: %v", target, w.Header())
			}
		}
	}
	if w := r.get(sub+"/a%20b.txt"+query(deep), "Range", "bytes=1-2"); w.Code != 206 || w.Body.String() != "el" {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	// It ends with the pin.
	delete(r.pinned, spec.Canonical(r.site))
	wantFailure(t, r.get("/ipfs/"+root+"/hello.txt"+query(all)), 404, "NOT_FOUND", "no such content")
	r.pinned[spec.Canonical(r.site)] = 2
	wantFailure(t, r.get("/ipfs/"+root+"/hello.txt"+query(all)), 404, "NOT_FOUND", "no such content")
	r.pinned[spec.Canonical(r.site)] = 1

	now = now.Add(59 * time.Second)
	if w := r.get("/ipfs/" + root + "/hello.txt" + query(all)); w.Code != 200 {
		t.Error(w.Code)
	}
	now = now.Add(time.Second)
	w := r.get("/ipfs/" + root + "/hello.txt" + query(all))
	wantFailure(t, w, 403, "FORBIDDEN", "has expired")
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("kept")
	}
}

func TestLinksEndWithTheirAccount(t *testing.T) {
	r := newReads(t, withGateway(private))
	link := r.link(t, `{"cid":"`+r.file.String()+`"}`)
	r.tokens.caller.State = auth.Suspended
	if w := r.get(link); w.Code != 200 {
		t.Errorf("a link of a suspended account: %d %s", w.Code, w.Body)
	}
	r.tokens.caller.State = auth.Closed
	wantFailure(t, r.get(link), 403, "FORBIDDEN", "has expired")
	r.tokens.err = errSecret
	wantFailure(t, r.get(link), 503, "SERVICE_UNAVAILABLE", "try again")
}

func TestChangedLinksOpenNothing(t *testing.T) {
	r := newReads(t, withGateway(private))
	link := r.link(t, `{"cid":"`+r.site.String()+`","path":"sub"}`)
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	u.Path += "/a b.txt"
	try := func(name string, change func(q url.Values)) {
		t.Helper()
		q := u.Query()
		change(q)
		w := r.get(u.EscapedPath() + "?" + q.Encode())
		if name == "nothing" {
			if w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return
		}
		wantFailure(t, w, 403, "FORBIDDEN", "the link is not one that was made here")
	}
	try("nothing", func(url.Values) {})
	signature := u.Query().Get("frostpin-signature")
	parts := strings.Split(signature, ".")
	expires := u.Query().Get("frostpin-expires")
	for i := range signature {
		for _, bit := range []byte{1, 2, 0x20} {
			b := []byte(signature)
			if b[i] ^= bit; string(b) != signature {
				try(string(b), func(q url.Values) { q.Set("frostpin-signature", string(b)) })
			}
		}
	}
	try("later", func(q url.Values) { q.Set("frostpin-expires", expires[:len(expires)-1]+"9x"[:1]+"0") })
	try("depth 0", func(q url.Values) { q.Set("frostpin-signature", "0."+parts[1]+"."+parts[2]) })
	try("depth 2", func(q url.Values) { q.Set("frostpin-signature", "2."+parts[1]+"."+parts[2]) })
	try("depth -1", func(q url.Values) { q.Set("frostpin-signature", "-1."+parts[1]+"."+parts[2]) })
	try("another account", func(q url.Values) { q.Set("frostpin-signature", parts[0]+".2."+parts[2]) })
	try("short", func(q url.Values) { q.Set("frostpin-signature", signature[:len(signature)-1]) })
	try("padded", func(q url.Values) { q.Set("frostpin-signature", signature+"=") })
	try("no mac", func(q url.Values) { q.Set("frostpin-signature", parts[0]+"."+parts[1]+".") })
	try("no signature", func(q url.Values) { q.Del("frostpin-signature") })
	try("no expiry", func(q url.Values) { q.Del("frostpin-expires") })
	try("two", func(q url.Values) { q.Add("frostpin-signature", signature) })
	try("two expiries", func(q url.Values) { q.Add("frostpin-expires", expires) })

	// Another key, and none.
	for _, key := range [][]byte{[]byte(strings.Repeat("l", 32)), nil} {
		other := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) { g.LinkKey = key }))
		wantFailure(t, other.get(link), 403, "FORBIDDEN", "not one that was made here")
	}
}

func TestLinksAreMadeByWhoPins(t *testing.T) {
	r := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) { g.URL = "https://gateway.example/" }))
	c := r.file.String()
	w := r.do(alice, "POST", "/api/v1/links", `{"cid":"`+c+`"}`)
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"https://gateway.example/ipfs/`+c+`?frostpin-expires=`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = r.do(alice, "POST", "/api/v1/links", `{"cid":"`+c+`","path":"a b/ü?#%.txt"}`)
	if !strings.Contains(w.Body.String(), "/a%20b/%C3%BC%3F%23%25.txt?frostpin") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantFailure(t, r.do(bob, "POST", "/api/v1/links", `{"cid":"`+c+`"}`), 404, "NOT_FOUND", "no pin of this account")
	wantFailure(t, r.do("", "POST", "/api/v1/links", `{"cid":"`+c+`"}`), 401, "UNAUTHORIZED", "access denied")
	for body, want := range map[string]string{
		``:                                     "body is empty",
		`{}`:                                   "cid is not",
		`{"cid":"x"}`:                          "cid is not",
		`{"cid":"` + c + `"}{}`:                "body has something",
		`{"cid":"` + c + `","x":1}`:            "body is not",
		`{"cid":"` + c + `","expires_in":0}`:   "expires_in must be",
		`{"cid":"` + c + `","expires_in":1e9}`: "body is not",
		`{"cid":"` + c + `","expires_in":99999999999}`:                   "expires_in must be",
		`{"cid":"` + c + `","path":"../` + r.dir.String() + `"}`:         "path is not",
		`{"cid":"` + c + `","path":"` + strings.Repeat("a", 5000) + `"}`: "path is too long",
		`{"cid":"` + c + `","path":"` + strings.Repeat("[", 5000) + `"}`: "path is too long",
		strings.Repeat("[", 5000):                                        "nested more than 32",
	} {
		wantFailure(t, r.do(alice, "POST", "/api/v1/links", body), 400, "BAD_REQUEST", want)
	}
	wantFailure(t, r.do(alice, "POST", "/api/v1/links", strings.Repeat(" ", 50000)), 413, "PAYLOAD_TOO_LARGE", "larger than 16 KiB")
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	w := newWorld()
	for _, change := range []func(*server.Gateway){
		func(g *server.Gateway) { g.Blocks = nil },
		func(g *server.Gateway) { g.Roots = nil },
		func(g *server.Gateway) { g.Access = "some" },
		func(g *server.Gateway) { g.Fetch = "some" },
		func(g *server.Gateway) { g.LinkKey = []byte("short") },
		func(g *server.Gateway) { g.URL = "gateway.example" },
		func(g *server.Gateway) { g.URL = "https://gateway.example?a=b" },
		func(g *server.Gateway) { g.Hostnames = []string{"https://gateway.example"} },
		func(g *server.Gateway) { g.Hostnames = []string{""} },
	} {
		g := server.Gateway{Blocks: w, Roots: w}
		change(&g)
		if _, err := server.New(server.Config{Gateway: &g}, &memory{}, &tokens{}, discard()); err == nil {
			t.Errorf("accepted: %+v", g)
		}
	}
}

// denying makes a denylist of a file that a test writes.
func denying(t testing.TB, rules ...string) (*deny.List, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "list.deny")
	if err := os.WriteFile(name, []byte(strings.Join(rules, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := deny.Open([]string{name}, discard())
	if err != nil {
		t.Fatal(err)
	}
	return l, name
}

func TestDeniedContentIsGone(t *testing.T) { // H21, trap 10
	probe := newReads(t)
	list, name := denying(t, "/ipfs/"+probe.text.String(), "/ipfs/"+probe.small.String()+" gateway_status=451",
		"/ipfs/"+probe.leaves[30].String(), "/ipfs/"+probe.site.String()+"/sub*")
	for _, cold := range []bool{false, true} {
		r := newReads(t, func(c *server.Config) { c.Denylist = list })
		s := over(t, r)
		if cold {
			r.chill(t, everything)
		}
		for _, query := range []string{"", "?format=raw", "?format=car", "?format=tar"} {
			for _, headers := range [][]string{nil, {"If-None-Match", "*"}, {"Cache-Control", "only-if-cached"}, {"Range", "bytes=0-0"}} {
				for target, want := range map[string]int{
					"/ipfs/" + r.text.String() + query:                                   410,
					"/ipfs/" + cid.NewCidV1(cid.DagCBOR, r.text.Hash()).String() + query: 410, // the same bytes
					"/ipfs/" + r.small.String() + query:                                  451,
					"/ipfs/" + r.site.String() + "/sub/" + query:                         410,
				} {
					w := r.get(target, headers...)
					wantError(t, w.Header(), w.Code, want, w.Body.String())
				}
			}
		}
		// Reached by a path of which only the end is denied.
		w := r.get("/ipfs/" + r.dir.String() + "/a%20b.txt")
		wantError(t, w.Header(), w.Code, 410, w.Body.String())
		w = r.get("/ipfs/" + r.hamt.String() + "/file-b")
		wantError(t, w.Header(), w.Code, 410, w.Body.String())
		// In the middle of a file.
		for _, query := range []string{"", "?format=car"} {
			a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String()+query)
			if a.err == nil || bytes.Contains(a.body, r.content[30<<16:31<<16]) {
				t.Errorf("%s: %v, %d bytes", query, a.err, len(a.body))
			}
		}
		if a := fetchAll(t, s, "GET", "/ipfs/"+r.file.String(), "Range", "bytes=0-999"); a.StatusCode != 206 || len(a.body) != 1000 {
			t.Errorf("what is not denied: %d", a.StatusCode)
		}
		s.Close() // its handlers have ended then
		for _, c := range r.fetched {
			if slices.ContainsFunc([]cid.Cid{r.text, r.small, r.leaves[30]}, func(d cid.Cid) bool { return bytes.Equal(d.Hash(), c.Hash()) }) {
				t.Errorf("%s was fetched", c)
			}
		}
		if !strings.Contains(r.log.String(), `"msg":"read failed"`) {
			t.Error("the operator learns nothing")
		}

		body := `{"cid":"` + r.text.String() + `"}`
		wantFailure(t, r.do(alice, "POST", "/psa/pins", body), 410, "CONTENT_BLOCKED", "denylist")
		id := r.mustAdd(t, alice, `{"cid":"`+r.file.String()+`"}`)
		w = r.do(alice, "POST", "/psa/pins/"+id, `{"cid":"`+r.small.String()+`"}`)
		wantFailure(t, w, 451, "CONTENT_BLOCKED", "denylist")
		loadContract(t).check(t, "POST", "/pins/{requestid}", w)
		if w := r.do(alice, "GET", "/psa/pins/"+id, ""); w.Code != 200 {
			t.Errorf("the pin that was to be replaced: %d", w.Code)
		}
	}
	// What is taken off the list is served again.
	r := newReads(t, func(c *server.Config) { c.Denylist = list })
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := list.Reload(); err != nil {
		t.Fatal(err)
	}
	if w := r.get("/ipfs/" + r.text.String()); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
}

func TestSubdomains(t *testing.T) {
	r := newReads(t, withGateway(func(g *server.Gateway) { g.Hostnames = []string{"gw.example"} }))
	on := func(host, method, path string, headers ...string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, "http://"+host+path, nil)
		req.RequestURI = path
		for i := 0; i < len(headers); i += 2 {
			req.Header.Add(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	site := r.site.String() + ".ipfs.gw.example"
	for _, c := range []struct {
		host, path string
		status     int
		to         string
	}{
		{"gw.example", "/ipfs/" + r.site.String() + "/hello.txt", 301, "http://" + site + "/hello.txt"},
		{"gw.example", "/ipfs/" + cid.NewCidV0(r.site.Hash()).String() + "/", 301, "http://" + site + "/"},
		{site, "/", 200, ""},
		{site, "/hello.txt", 200, ""},
		{site, "/sub", 301, "/sub/"},
		{site, "/sub/", 200, ""},
		{site, "/old/thing", 301, "/hello.txt"},
		{site, "/spa/anything", 200, ""},
		{site, "/none", 404, ""},
		{site, "/docs", 404, ""}, // nothing of ours
		{site, "/psa/pins", 404, ""},
		{site, "/metrics", 404, ""},
		{site + ":8080", "/hello.txt", 200, ""},
		{"x.ipns.gw.example", "/", 404, ""},
		{"gw.example", "/healthz", 200, ""},
		{"other.example", "/ipfs/" + r.site.String() + "/hello.txt", 200, ""},
		{"other.example", "/ipfs/" + r.site.String() + "/old/thing", 404, ""}, // no redirects where pages share an origin
	} {
		w := on(c.host, "GET", c.path)
		if w.Code != c.status || w.Header().Get("Location") != c.to {
			t.Errorf("%s%s: %d %q: %.100s", c.host, c.path, w.Code, w.Header().Get("Location"), w.Body)
		}
		if w.Code >= 400 && w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s%s: kept", c.host, c.path)
		}
	}
	w := on(site, "GET", "/")
	if w.Header().Get("Content-Security-Policy") != "" || !strings.HasPrefix(w.Body.String(), "<p>page") || w.Header().Get("X-Frostpin-Tier") != "hot" {
		t.Errorf("%v %.100s", w.Header(), w.Body)
	}
	if w := on(site, "POST", "/psa/pins"); w.Code != 405 {
		t.Errorf("%d", w.Code)
	}
	if w := on(site, "OPTIONS", "/"); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	private := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) { g.Hostnames = []string{"gw.example"} }))
	r = private
	if w := on(site, "GET", "/hello.txt"); w.Code != http.StatusUnauthorized {
		t.Errorf("%d", w.Code)
	}
	if w := on(site, "GET", "/hello.txt", "Authorization", "Bearer "+alice); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestReadersAreTurnedAwayWhenTheAccountHasSentEnough reads with a token.
func TestReadersAreTurnedAwayWhenTheAccountHasSentEnough(t *testing.T) {
	over := false
	r := newReads(t, func(c *server.Config) {
		c.Gateway.Access = server.AccessToken
		c.Gateway.MayRead = func(_ context.Context, account pins.Account) error {
			if over && account == 1 {
				return &pins.QuotaError{Problem: "1000 bytes were sent"}
			}
			return nil
		}
	})
	file := r.world.add(t, []byte("content"))
	r.pinned[spec.Canonical(file)] = 1
	if w := r.do(alice, "GET", "/ipfs/"+file.String(), ""); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	over = true
	wantFailure(t, r.do(alice, "GET", "/ipfs/"+file.String(), ""), http.StatusForbidden, "QUOTA_EXCEEDED", "1000 bytes")
}

// A read can take hours, and the server can die meanwhile.
func TestWhatIsSentCountsWhileItIsSent(t *testing.T) {
	var counted []int64
	r := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) {
		g.Sent = func(_ pins.Account, _ bool, bytes int64) { counted = append(counted, bytes) }
	}))
	content := bytes.Repeat([]byte("content "), 5<<20/16)
	file := r.world.add(t, content)
	r.pinned[spec.Canonical(file)] = 1
	if w := r.do(alice, "GET", "/ipfs/"+file.String(), ""); w.Code != http.StatusOK || w.Body.Len() != len(content) {
		t.Fatalf("%d, %d bytes", w.Code, w.Body.Len())
	}
	sum := int64(0)
	for _, n := range counted {
		sum += n
	}
	if sum != int64(len(content)) || len(counted) != 3 {
		t.Errorf("of %d bytes %v were counted", len(content), counted)
	}
}

func TestAdministratorsReadTheContentOfOthersAndAnswerForIt(t *testing.T) {
	var paid []pins.Account
	r := newReads(t, withGateway(private), withGateway(func(g *server.Gateway) {
		g.Sent = func(account pins.Account, _ bool, _ int64) { paid = append(paid, account) }
	}))
	r.tokens.caller.Scopes = auth.Admin
	mine, theirs := r.world.add(t, []byte("alice's")), r.world.add(t, []byte("bob's"))
	r.pinned[spec.Canonical(mine)], r.pinned[spec.Canonical(theirs)] = 1, 2
	read := func(token string, root cid.Cid, account string) *httptest.ResponseRecorder {
		return r.do(token, "GET", "/ipfs/"+root.String()+"?format=car", "", "X-Frostpin-Account", account)
	}
	if w := read(alice, theirs, "bob"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantFailure(t, read(alice, mine, "bob"), http.StatusNotFound, "NOT_FOUND", "no such content")
	wantFailure(t, read(alice, mine, ""), http.StatusBadRequest, "BAD_REQUEST", "X-Frostpin-Account names no account")
	wantFailure(t, read(bob, mine, "alice"), http.StatusForbidden, "INSUFFICIENT_SCOPE", "admin")
	if !slices.Equal(paid, []pins.Account{1}) {
		t.Errorf("accounts %v answer for what was sent, want the administrator's", paid)
	}
	r.tokens.caller.State = auth.Suspended
	wantFailure(t, read(alice, theirs, "bob"), http.StatusForbidden, "ACCOUNT_SUSPENDED", "suspended")
}
