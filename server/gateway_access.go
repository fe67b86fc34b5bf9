package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// errNotHeld is the answer to a read of what this reader may not read, or what there is not: both look the same.
var errNotHeld = errors.New("no such content")

// An admission is what a reader may do.
type admission struct {
	root    cid.Cid      // of the path, as it was written; undefined when the path makes no sense, and boxo says why
	below   string       // the path below it, without slashes at its ends
	fetch   bool         // what is not hot may be fetched
	private bool         // no shared cache may keep the answer
	account pins.Account // who answers for what is sent
	owner   pins.Account // who pins it
}

// admit decides who may read what.
func (g *gatewayHandler) admit(r *http.Request) (admission, error) {
	a := admission{private: g.cfg.Access == AccessToken}
	asked, err := path.NewPath(r.URL.Path) // as boxo does, which resolves dots: what is admitted must be what is read
	if err == nil && asked.Namespace() == path.IPFSNamespace {
		segments := asked.Segments()
		if a.root, err = cid.Decode(segments[1]); err != nil {
			a.root = cid.Undef
		}
		a.below = strings.Join(segments[2:], "/")
	}
	if a.private {
		if a.account, a.owner, err = g.reader(r, a); err != nil {
			return a, err
		}
		if g.cfg.MayRead != nil {
			if err := g.cfg.MayRead(r.Context(), a.account); err != nil {
				return a, err
			}
		}
	}
	if !a.root.Defined() {
		return a, nil
	}
	if g.denied != nil {
		if err := g.denied.DeniedPath(asked); err != nil {
			return a, err
		}
	}
	if inTheCID(a.root) {
		return a, nil // nobody gave it to us, and nobody needs to
	}
	a.fetch, err = g.mayFetch(r.Context(), a)
	return a, err
}

// inTheCID tells whether a CID holds all of its DAG. One with links in it leads to what others have given us.
func inTheCID(c cid.Cid) bool {
	block, err := inlinedBlock(c)
	if block == nil || err != nil {
		return false
	}
	switch c.Type() {
	case cid.Raw:
		return true
	case cid.DagProtobuf:
		node, err := merkledag.DecodeProtobuf(block.RawData())
		return err == nil && len(node.Links()) == 0
	}
	return false
}

// mayFetch reports whether blocks below a root may come from afar.
func (g *gatewayHandler) mayFetch(ctx context.Context, a admission) (bool, error) {
	root := spec.Canonical(a.root)
	if g.cfg.Access == AccessToken {
		switch mine, err := g.cfg.Roots.KnownTo(ctx, a.owner, root); {
		case err != nil:
			return false, fmt.Errorf("looking for a pin of the account: %w", err)
		case !mine:
			return false, errNotHeld
		}
		return true, nil
	}
	if g.cfg.Fetch == FetchAny {
		return true, nil
	}
	known, err := g.roots.known(ctx, root)
	switch {
	case err != nil:
		return false, fmt.Errorf("looking for a pin: %w", err)
	case !known && g.cfg.Fetch == FetchOnly:
		return false, errNotHeld
	}
	return known, nil
}

// reader finds out who reads, and whose pins. A signed link stands for the account that made it.
func (g *gatewayHandler) reader(r *http.Request, a admission) (account, owner pins.Account, err error) {
	if q := r.URL.Query(); q.Has(linkSignature) || q.Has(linkExpires) {
		account, err := g.links.check(q, a.root, a.below, g.cfg.Now())
		if err != nil {
			return 0, 0, err
		}
		return account, account, g.gate.open(r.Context(), account)
	}
	caller, err := g.gate.pass(r, readNeed)
	return pins.Account(caller.Account), pins.Account(caller.Reads()), err
}
