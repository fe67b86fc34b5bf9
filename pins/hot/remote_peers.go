package hot

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

const (
	askTime  = 2 * time.Second  // for the daemon's addresses, while a client waits
	askAgain = 10 * time.Second // its addresses are news for so long
	names    = 3                // a name may lead to a name, so often
)

// Connect implements pins.HotTier.
func (r *Remote) Connect(ctx context.Context, origins []peer.AddrInfo) (release func()) {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return func() {}
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	usable := r.policy.usable(origins, "")
	if !r.policy.private {
		usable = r.policy.usable(resolve(ctx, usable), "")
	}
	kept := r.peer(ctx, usable)
	var dials sync.WaitGroup
	for _, origin := range usable {
		dials.Go(func() {
			addrs, err := peer.AddrInfoToP2pAddrs(&origin)
			if err == nil {
				err = r.daemon.Request("swarm/connect", spell(addrs)...).Exec(ctx, nil)
			}
			if err != nil {
				r.log.Debug("could not connect to a peer", "peer", origin.ID, "err", err)
			}
		})
	}
	dials.Wait()
	return sync.OnceFunc(func() { r.unpeer(kept) })
}

// resolve looks names up here: what filters the daemon has we do not know, and a name may lead to its own network.
func resolve(ctx context.Context, origins []peer.AddrInfo) []peer.AddrInfo {
	out := slices.Clone(origins)
	var group sync.WaitGroup
	for i := range out {
		group.Go(func() {
			addrs := out[i].Addrs
			for range names {
				var next []ma.Multiaddr
				for _, addr := range addrs {
					if !madns.Matches(addr) {
						next = append(next, addr)
					} else if found, err := madns.Resolve(ctx, addr); err == nil {
						next = append(next, found...)
					}
				}
				addrs = next
			}
			var own []ma.Multiaddr
			for _, addr := range addrs {
				transport, id := peer.SplitAddr(addr)
				if !madns.Matches(addr) && (id == "" || id == out[i].ID) {
					own = append(own, transport)
				}
			}
			out[i].Addrs = own
		})
	}
	group.Wait()
	return out
}

func spell(addrs []ma.Multiaddr) []string {
	out := make([]string, len(addrs))
	for i, addr := range addrs {
		out[i] = addr.String()
	}
	return out
}

// peer asks the daemon to stay connected to these peers, except those it does already: they are the operator's. It
// returns whom to let go of later.
func (r *Remote) peer(ctx context.Context, peers []peer.AddrInfo) (kept []string) {
	if len(peers) == 0 {
		return nil
	}
	var already struct{ Peers []struct{ ID string } }
	if err := r.daemon.Request("swarm/peering/ls").Exec(ctx, &already); err != nil {
		r.log.Debug("could not ask for the daemon's peerings", "err", err)
		return nil
	}
	r.peerMu.Lock()
	defer r.peerMu.Unlock()
	for _, p := range peers {
		id := p.ID.String()
		theirs := slices.ContainsFunc(already.Peers, func(q struct{ ID string }) bool { return q.ID == id })
		if theirs && r.peerings[id] == 0 {
			continue
		}
		addrs, err := peer.AddrInfoToP2pAddrs(&p)
		if err == nil {
			err = r.daemon.Request("swarm/peering/add", spell(addrs)...).Exec(ctx, nil)
		}
		if err != nil {
			r.log.Debug("could not peer with an origin", "peer", p.ID, "err", err)
			continue
		}
		r.peerings[id]++
		kept = append(kept, id)
	}
	return kept
}

// unpeer lets go of those peers that no one else uses.
func (r *Remote) unpeer(kept []string) {
	r.peerMu.Lock()
	defer r.peerMu.Unlock()
	var gone []string
	for _, id := range kept {
		if r.peerings[id]--; r.peerings[id] == 0 {
			delete(r.peerings, id)
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return
	}
	// The context of the fetch may have ended, and this must be done nevertheless.
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	if err := r.daemon.Request("swarm/peering/rm", gone...).Exec(ctx, nil); err != nil {
		r.log.Debug("could not end peerings", "err", err)
	}
}

// Delegates implements pins.HotTier. Clients wait for it, so the daemon is asked rarely, and not for long.
func (r *Remote) Delegates(ctx context.Context) ([]string, error) {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return r.delegates.last()
	}
	defer done()
	if known, fresh := r.delegates.fresh(askAgain); fresh {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var out struct {
		ID        string
		Addresses []string
	}
	if err := r.daemon.Request("id").Exec(ctx, &out); err != nil {
		r.log.Debug("could not ask the daemon for its addresses", "err", err)
		return r.delegates.next(named(r.config.Announce))
	}
	id, err := peer.Decode(out.ID)
	if err != nil {
		return r.delegates.last()
	}
	return r.delegates.next(delegates(r.config.Announce, parse(out.Addresses), id))
}

// named returns the addresses that tell the peer id themselves.
func named(announce []string) []string {
	var out []string
	for _, addr := range parse(announce) {
		if _, id := peer.SplitAddr(addr); id != "" && len(out) < maxDelegates {
			out = append(out, addr.String())
		}
	}
	return out
}

func parse(addrs []string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, s := range addrs {
		if addr, err := ma.NewMultiaddr(s); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
