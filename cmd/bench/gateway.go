package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipfs/kubo/core"

	"github.com/frostpin/frostpin/spec"
)

// A reading is one kind of request to a gateway.
type reading struct {
	what  string
	size  int64 // bytes in one answer
	path  func(i int64) string
	rng   func() string // Range header; nil for none
	count int64         // answers to read with each number of clients; 0: for a while
}

// gateway measures hot reads through our gateway beside those through Kubo's own, on the same repository: one
// has a copy of it, so that both run and are asked in turns. The first read of the large file is noted apart: a block that
// came otherwise than through the server is hashed when it is first read, by ours alone.
func (b *bench) gateway(ctx context.Context) error {
	s, err := b.fresh(ctx, "gateway")
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	repo := filepath.Join(s.dir, "ipfs")
	nd, _, err := b.node(ctx, repo, false)
	if err != nil {
		return err
	}
	var small []cid.Cid
	for i := range 200 {
		c, err := addUnixFS(ctx, nd, uint64(100+i), 1<<10)
		if err != nil {
			return err
		}
		small = append(small, c)
	}
	middle, err := addUnixFS(ctx, nd, 3, 1<<20)
	if err != nil {
		return err
	}
	big := int64(1<<30) / int64(b.scale)
	large, err := addUnixFS(ctx, nd, 4, big)
	if err != nil {
		return err
	}
	if err := nd.Close(); err != nil {
		return err
	}
	const stretch = 64 << 10
	readings := []reading{
		{what: "1 KiB files", size: 1 << 10, path: func(i int64) string { return "/ipfs/" + small[i%int64(len(small))].String() }},
		{what: "a 1 MiB file", size: 1 << 20, path: func(int64) string { return "/ipfs/" + middle.String() }},
		{what: "64 KiB ranges", size: stretch, path: func(int64) string { return "/ipfs/" + large.String() }, rng: func() string {
			at := rand.Int64N(big - stretch)
			return fmt.Sprintf("bytes=%d-%d", at, at+stretch-1)
		}},
		{what: "CARs of 1 MiB", size: 1 << 20, path: func(int64) string { return "/ipfs/" + middle.String() + "?format=car" }},
		{what: "a large file", size: big, path: func(int64) string { return "/ipfs/" + large.String() }, count: 1},
	}

	twin := filepath.Join(b.dir, "kubo")
	if err := os.CopyFS(twin, os.DirFS(repo)); err != nil {
		return err
	}
	if s, err = b.start(ctx, s.dir, s.token); err != nil {
		return err
	}
	for _, c := range append(small, middle, large) {
		if err := s.settled(ctx, c); err != nil {
			return err
		}
	}
	kubo, err := b.startKubo(ctx, twin)
	if err != nil {
		return err
	}
	for _, r := range readings {
		if !b.rows.MatchString(r.what) {
			continue
		}
		if r.count > 0 {
			ours, theirs, err := b.inTurns(ctx, s.origin(), kubo.base, r, 1, 1)
			if err != nil {
				return err
			}
			noted(r.what+", the first read, against Kubo's gateway", "MB/s", ours*float64(r.size)/1e6, theirs*float64(r.size)/1e6)
		}
		for _, clients := range []int{1, 16, 64} {
			each := turns
			if r.count > 0 && clients > 1 {
				each = 1 // it takes long enough
			}
			ours, theirs, err := b.inTurns(ctx, s.origin(), kubo.base, r, clients, each)
			if err != nil {
				return err
			}
			unit := "/s"
			if r.size > 1<<20 {
				unit, ours, theirs = "MB/s", ours*float64(r.size)/1e6, theirs*float64(r.size)/1e6
			}
			ratio(fmt.Sprintf("%s, %d clients, against Kubo's gateway", r.what, clients), unit, ours, theirs, atLeast(1))
		}
	}
	return errors.Join(s.stop(), kubo.stop())
}

// addUnixFS adds a file as `ipfs add --cid-version=1` does, unpinned.
func addUnixFS(ctx context.Context, nd *core.IpfsNode, seed uint64, size int64) (cid.Cid, error) {
	dag := ipld.NewBufferedDAG(ctx, nd.DAG)
	params := helpers.DagBuilderParams{Maxlinks: pieceWidth, RawLeaves: true, CidBuilder: merkledag.V1CidPrefix(), Dagserv: dag}
	builder, err := params.New(chunk.NewSizeSplitter(io.LimitReader(pseudoRandom(seed), size), pieceChunk))
	if err != nil {
		return cid.Undef, err
	}
	root, err := balanced.Layout(builder)
	if err != nil {
		return cid.Undef, err
	}
	return root.Cid(), dag.Commit()
}

// origin is where the gateway is.
func (s *service) origin() string { return s.base[:len(s.base)-len("/psa")] }

// settled pins a DAG that is here, and waits until it is held.
func (s *service) settled(ctx context.Context, c cid.Cid) error {
	p, err := s.pin(ctx, spec.Pin{Cid: c.String()})
	for err == nil && p.Status != spec.Pinned {
		if err = pause(ctx, 50*time.Millisecond); err == nil {
			_, err = s.do(ctx, http.MethodGet, "/pins/"+p.Requestid, nil, &p)
		}
	}
	return err
}

// turns is how often each gateway is asked for a while before the figure is taken.
const turns = 3

// inTurns reads from two gateways in turns, so that both meet the same machine, and returns the answers per second of
// each.
func (b *bench) inTurns(ctx context.Context, ours, theirs string, r reading, clients, each int) (float64, float64, error) {
	client := newClient(128)
	defer client.CloseIdleConnections()
	origins, rates := []string{ours, theirs}, [2]float64{}
	for turn := range 2 * each {
		who := (turn + 1) / 2 % 2 // neither comes first more often
		perSecond, err := rate(ctx, clients, time.Second/time.Duration(b.scale), r.count*int64(clients), func(ctx context.Context, i int64) error {
			return readOnce(ctx, client, origins[who], r, i)
		})
		if err != nil {
			return 0, 0, err
		}
		rates[who] += perSecond / float64(each)
	}
	return rates[0], rates[1], nil
}

func readOnce(ctx context.Context, client *http.Client, origin string, r reading, i int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+r.path(i), nil)
	if err != nil {
		return err
	}
	if r.rng != nil {
		req.Header.Set("Range", r.rng())
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 || n < r.size {
		return fmt.Errorf("%s answered %d with %d bytes; want %d", req.URL, res.StatusCode, n, r.size)
	}
	return nil
}

var gatewayLine = regexp.MustCompile(`Gateway server listening on /ip4/127\.0\.0\.1/tcp/(\d+)`)

// startKubo runs the ipfs daemon of this module's Kubo on a repository, with its gateway and without a network.
func (b *bench) startKubo(ctx context.Context, repo string) (*service, error) {
	binary := filepath.Join(b.dir, "ipfs")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/ipfs/kubo/cmd/ipfs")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building ipfs: %w", err)
	}
	file := filepath.Join(repo, "config")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	addresses, _ := config["Addresses"].(map[string]any)
	if addresses == nil {
		return nil, errors.New("the repository's settings name no addresses")
	}
	addresses["API"], addresses["Gateway"] = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0"
	if text, err = json.Marshal(config); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "daemon", "--offline", "--migrate=false")
	cmd.Env = append(os.Environ(), "IPFS_PATH="+repo, "IPFS_TELEMETRY=off", "IPFS_CONTENT_BLOCKING_DISABLE=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	port, err := b.launch(cmd, gatewayLine)
	if err != nil {
		return nil, fmt.Errorf("starting ipfs: %w", err)
	}
	return &service{cmd: cmd, base: "http://127.0.0.1:" + port[1], http: newClient(1)}, nil
}
