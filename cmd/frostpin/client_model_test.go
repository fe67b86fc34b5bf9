package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/spec"
)

const modelToken = "secret"

// A model is a small pinning service with a gateway and uploads. Its faults make it the services that exist.
type model struct {
	*httptest.Server

	mu       sync.Mutex
	rows     []pinned // oldest first
	clock    time.Time
	tick     time.Duration // between two pins
	blocks   map[cid.Cid]blocks.Block
	uploads  map[string]pinned // by idempotency key
	receipts map[string]string
	requests map[string]int // by method and first part of the path

	maxLimit  int                                               // rows of a page, whatever is asked
	count     func(int) int                                     // what it claims
	upward    bool                                              // it lists the oldest first
	deaf      bool                                              // it ignores before and after
	vague     bool                                              // it ignores which CIDs and names are asked for
	intercept func(w http.ResponseWriter, r *http.Request) bool // answers in place of the service
	mangle    func(b blocks.Block) (blocks.Block, bool)         // what the gateway sends for a block
}

func newModel(t *testing.T) *model {
	t.Helper()
	m := &model{
		clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), tick: time.Millisecond, maxLimit: 1000,
		blocks: map[cid.Cid]blocks.Block{}, uploads: map[string]pinned{}, receipts: map[string]string{}, requests: map[string]int{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /psa/pins", m.list)
	mux.HandleFunc("POST /psa/pins", m.add)
	mux.HandleFunc("GET /api/v1/pins/{id}/receipt", m.receipt)
	mux.HandleFunc("POST /api/v1/upload", m.upload)
	mux.HandleFunc("GET /ipfs/{cid}", m.car)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.requests[r.Method+" "+strings.SplitN(r.URL.Path, "/", 3)[1]]++
		intercept := m.intercept
		m.mu.Unlock()
		switch {
		case intercept != nil && intercept(w, r):
		case r.Header.Get("Authorization") != "Bearer "+modelToken:
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

func refuse(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"reason": reason}})
}

func (m *model) list(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := r.URL.Query()
	before, _ := time.Parse(time.RFC3339Nano, q.Get("before"))
	after, _ := time.Parse(time.RFC3339Nano, q.Get("after"))
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		refuse(w, http.StatusBadRequest, "BAD_LIMIT")
		return
	}
	var found []pinned
	for _, row := range m.rows {
		at, _ := row.created()
		dag := func(text string) bool { return (wanted{CID: text}).same().dag == row.Pin.same().dag }
		switch {
		case !slices.Contains(strings.Split(q.Get("status"), ","), string(row.Status)):
		case !m.deaf && !before.IsZero() && !at.Before(before), !m.deaf && !after.IsZero() && !at.After(after):
		case m.vague:
			found = append(found, row)
		case q.Has("cid") && !slices.ContainsFunc(strings.Split(q.Get("cid"), ","), dag):
		case q.Has("name") && q.Get("name") != row.Pin.Name:
		default:
			found = append(found, row)
		}
	}
	if !m.upward {
		slices.Reverse(found)
	}
	count := len(found)
	if m.count != nil {
		count = m.count(count)
	}
	found = found[:min(len(found), limit, m.maxLimit)]
	_ = json.NewEncoder(w).Encode(map[string]any{"count": count, "results": found})
}

func (m *model) add(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	request, err := spec.DecodePin(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	name := ""
	if request.Name != nil {
		name = *request.Name
	}
	row := m.pin(wanted{CID: request.CID, Name: name, Meta: request.Meta, Origins: request.Origins}, spec.Queued)
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(row)
}

func (m *model) pin(w wanted, status spec.Status) pinned {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock = m.clock.Add(m.tick)
	row := pinned{
		ID: fmt.Sprintf("r%06d", len(m.rows)), Status: status, Created: m.clock.Format(time.RFC3339Nano), Pin: w,
		Delegates: []string{"/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWCNkewzfJaGCB99PSHekqp1VeqqopTypG9v3zGPM4FmmE"},
	}
	m.rows = append(m.rows, row)
	return row
}

func (m *model) receipt(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.receipts[r.PathValue("id")]
	if !ok {
		refuse(w, http.StatusNotFound, "NO_DEAL_YET")
		return
	}
	_, _ = io.WriteString(w, text)
}

// upload checks every block, as the real one does, and is repeatable by key. What is no CAR becomes one raw block.
func (m *model) upload(w http.ResponseWriter, r *http.Request) {
	label, err := unlabelled(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	root, got, err := received(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	key := r.Header.Get("Idempotency-Key")
	m.mu.Lock()
	row, again := m.uploads[key]
	maps.Copy(m.blocks, got)
	m.mu.Unlock()
	if !again {
		meta := map[string]string{}
		for k, v := range r.URL.Query() {
			if k, ok := strings.CutPrefix(k, "meta["); ok {
				meta[strings.TrimSuffix(k, "]")] = v[0]
			}
		}
		if label != nil {
			meta = label.Meta
		}
		name := r.URL.Query().Get("name")
		if label != nil {
			name = label.Name
		}
		row = m.pin(wanted{CID: root.String(), Name: name, Meta: meta}, spec.Pinned)
		m.mu.Lock()
		m.uploads[key] = row
		m.mu.Unlock()
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]any{"pins": []pinned{row}})
}

// unlabelled reads the first of two parts, and makes the request one of the second.
func unlabelled(r *http.Request) (*wanted, error) {
	kind, details, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		return nil, err
	}
	parts := multipart.NewReader(r.Body, details["boundary"])
	first, err := parts.NextRawPart()
	if err != nil {
		return nil, err
	}
	label := &wanted{}
	if err := json.NewDecoder(first).Decode(label); err != nil {
		return nil, err
	}
	second, err := parts.NextRawPart()
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", second.Header.Get("Content-Type"))
	r.Body = second
	return label, nil
}

func received(r *http.Request) (root cid.Cid, got map[cid.Cid]blocks.Block, err error) {
	got = map[cid.Cid]blocks.Block{}
	if r.Header.Get("Content-Type") != carType {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return cid.Undef, nil, err
		}
		b := raw(data)
		got[b.Cid()] = b
		return b.Cid(), got, nil
	}
	reader, err := car.NewBlockReader(r.Body)
	if err != nil || len(reader.Roots) != 1 {
		return cid.Undef, nil, errors.New("NO_CAR")
	}
	for {
		b, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return reader.Roots[0], got, nil
		}
		if err != nil {
			return cid.Undef, nil, errors.New("BAD_CAR")
		}
		got[b.Cid()] = b
	}
}

// raw is a block without links.
func raw(data []byte) blocks.Block {
	c, _ := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: -1}.Sum(data)
	b, _ := blocks.NewBlockWithCid(data, c)
	return b
}

func (m *model) car(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	root, err := cid.Decode(r.PathValue("cid"))
	if _, ok := m.blocks[root]; err != nil || !ok {
		refuse(w, http.StatusNotFound, "NOT_FOUND")
		return
	}
	w.Header().Set("Content-Type", carType+"; version=1; order=dfs; dups=n")
	out, err := storage.NewWritable(w, []cid.Cid{root}, car.WriteAsCarV1(true))
	if err != nil {
		panic(err)
	}
	seen := map[cid.Cid]bool{}
	var walk func(c cid.Cid)
	walk = func(c cid.Cid) {
		b, ok := m.blocks[c]
		if !ok || seen[c] {
			return
		}
		seen[c] = true
		sent, ok := b, true
		if m.mangle != nil {
			sent, ok = m.mangle(b)
		}
		if ok {
			_ = out.Put(r.Context(), sent.Cid().KeyString(), sent.RawData())
		}
		if node, err := merkledag.DecodeProtobufBlock(b); c.Type() == cid.DagProtobuf && err == nil {
			for _, link := range node.Links() {
				walk(link.Cid)
			}
		}
	}
	walk(root)
}

// mangles changes what the gateway sends from the next request on.
func (m *model) mangles(mangle func(b blocks.Block) (blocks.Block, bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mangle = mangle
}

// dag puts a small tree with shared leaves into the model.
func (m *model) dag(name string, leaves int) cid.Cid {
	m.mu.Lock()
	defer m.mu.Unlock()
	prefix := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: -1}
	root := &merkledag.ProtoNode{}
	_ = root.SetCidBuilder(cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256})
	for i := range leaves {
		data := []byte(fmt.Sprintf("%s leaf %d", name, i))
		c, _ := prefix.Sum(data)
		b, _ := blocks.NewBlockWithCid(data, c)
		m.blocks[c] = b
		_ = root.AddRawLink(strconv.Itoa(i), &format.Link{Name: strconv.Itoa(i), Size: uint64(len(data)), Cid: c})
	}
	b, _ := blocks.NewBlockWithCid(root.RawData(), root.Cid())
	m.blocks[b.Cid()] = b
	return b.Cid()
}

// names are the pins of a model, sorted, as cid and name.
func (m *model) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, row := range m.rows {
		names = append(names, row.Pin.CID+" "+row.Pin.Name)
	}
	slices.Sort(names)
	return names
}

// identity is a CID for a number; nothing has to be stored for it.
func identity(n int) string {
	hash, _ := multihash.Sum([]byte(strconv.Itoa(n)), multihash.IDENTITY, -1)
	return cid.NewCidV1(cid.Raw, hash).String()
}

func testAPI(t *testing.T, m *model) *api {
	t.Helper()
	a, err := newAPI(m.URL, modelToken, operatorsClient)
	if err != nil {
		t.Fatal(err)
	}
	a.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return a
}
