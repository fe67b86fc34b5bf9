package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ipfs/boxo/path"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/coreapi"
	coreiface "github.com/ipfs/kubo/core/coreiface"
	"github.com/ipfs/kubo/core/node/libp2p"
	"github.com/ipfs/kubo/plugin/loader"
	"github.com/ipfs/kubo/repo/fsrepo"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// node opens a repository that a stopped server has made as a plain Kubo node.
func (b *bench) node(ctx context.Context, repoDir string, online bool) (*core.IpfsNode, coreiface.CoreAPI, error) {
	if err := b.loadPlugins(repoDir); err != nil {
		return nil, nil, err
	}
	repo, err := fsrepo.Open(repoDir)
	if err != nil {
		return nil, nil, err
	}
	nd, err := core.NewNode(ctx, &core.BuildCfg{Online: online, Permanent: true, Repo: repo, Routing: libp2p.NilRouterOption})
	if err != nil {
		return nil, nil, err
	}
	api, err := coreapi.NewCoreAPI(nd)
	return nd, api, err
}

// loadPlugins registers Kubo's datastores, which can be done once in a process.
func (b *bench) loadPlugins(repoDir string) error {
	if b.plugins {
		return nil
	}
	b.plugins = true
	plugins, err := loader.NewPluginLoader(repoDir)
	if err != nil {
		return err
	}
	return errors.Join(plugins.Initialize(), plugins.Inject())
}

// local measures how fast DAGs whose blocks are here become pinned, beside the node's own pins of such blocks.
func (b *bench) local(ctx context.Context) error {
	n := int64(6000 / b.scale)
	s, err := b.fresh(ctx, "local")
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	nd, api, err := b.node(ctx, filepath.Join(s.dir, "ipfs"), false)
	if err != nil {
		return err
	}
	leaf := func(i int64) blocks.Block { return pinstest.Raw(fmt.Sprint("local ", i)) }
	for i := range 4 * n {
		if err := nd.Blockstore.Put(ctx, leaf(i)); err != nil {
			return err
		}
	}
	best := 0.0
	for i, clients := range []int{1, 8, 32} {
		own, err := rate(ctx, clients, 0, n, func(ctx context.Context, k int64) error {
			return api.Pin().Add(ctx, path.FromCid(leaf(int64(i)*n+k).Cid()))
		})
		if err != nil {
			return err
		}
		best = max(best, own)
	}
	if err := nd.Close(); err != nil {
		return err
	}
	if s, err = b.start(ctx, s.dir, s.token); err != nil {
		return err
	}
	posts, err := rate(ctx, postClients, 0, n, func(ctx context.Context, k int64) error {
		p, err := s.pin(ctx, spec.Pin{Cid: leaf(3*n + k).Cid().String()})
		if err == nil && p.Status != spec.Pinned {
			err = fmt.Errorf("a dag that is here is %s", p.Status)
		}
		return err
	})
	if err != nil {
		return err
	}
	ratio("local DAGs pinned, 64 clients, against the node's own best", "/s", posts, best, atLeast(0.8))
	return s.stop()
}

// provider is a node that others can fetch from, and where it is.
func (b *bench) provider(ctx context.Context, name string) (*core.IpfsNode, []string, error) {
	maker, err := b.fresh(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if err := maker.stop(); err != nil {
		return nil, nil, err
	}
	nd, api, err := b.node(ctx, filepath.Join(maker.dir, "ipfs"), true)
	if err != nil {
		return nil, nil, err
	}
	origins, err := addresses(ctx, api)
	if err != nil {
		return nil, nil, errors.Join(err, nd.Close())
	}
	return nd, origins, nil
}

// unfindable measures what ten thousand pins of CIDs that nobody has do to memory and to another account.
func (b *bench) unfindable(ctx context.Context) error {
	nd, origins, err := b.provider(ctx, "provider")
	if err != nil {
		return err
	}
	defer nd.Close()
	s, err := b.fresh(ctx, "unfindable")
	if err != nil {
		return err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	before, err := rssMB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	_, err = rate(ctx, getClients, 0, int64(10_000/b.scale), func(ctx context.Context, i int64) error {
		_, err := s.pin(ctx, spec.Pin{Cid: pinstest.Leaf(fmt.Sprint("unfindable ", i)).Root.String()})
		return err
	})
	if err != nil {
		return err
	}
	other, err := b.another(ctx, s, "another", auth.Trusted)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range 100 / min(b.scale, 5) {
		block := pinstest.Raw(fmt.Sprint("findable ", i))
		if err := nd.Blockstore.Put(ctx, block); err != nil {
			return err
		}
		started := time.Now()
		p, err := other.pin(ctx, spec.Pin{Cid: block.Cid().String(), Origins: &origins})
		if err != nil {
			return err
		}
		for p.Status != spec.Pinned {
			if p.Status == spec.Failed {
				return fmt.Errorf("a findable pin failed: %v", p.Info)
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
			if _, err := other.do(ctx, "GET", "/pins/"+p.Requestid, nil, &p); err != nil {
				return err
			}
		}
		took = append(took, time.Since(started))
	}
	after, err := rssMB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	absolute("findable pin of another account among 10,000 unfindable ones (p50)", "ms", quantile(took, 0.5), atMost(1000))
	absolute("the same (p99)", "ms", quantile(took, 0.99), atMost(5000))
	absolute("memory that 10,000 unfindable pins take", "MB", after-before, atMost(200))
	return s.stop()
}

func addresses(ctx context.Context, api coreiface.CoreAPI) ([]string, error) {
	self, err := api.Key().Self(ctx)
	if err != nil {
		return nil, err
	}
	addrs, err := api.Swarm().LocalAddrs(ctx)
	if err != nil {
		return nil, err
	}
	full, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: self.ID(), Addrs: addrs})
	if err != nil {
		return nil, err
	}
	out := make([]string, len(full))
	for i, a := range full {
		out[i] = a.String()
	}
	return out, nil
}
