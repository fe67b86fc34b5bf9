package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/filecoin-project/go-address"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
)

// coldPatience bounds each part of the examination that waits for somebody else.
const coldPatience = 30 * time.Second

// checkCold looks at everything that deals need: the node, the money, the address that providers use, the providers.
func (d *doctor) checkCold(ctx context.Context) {
	if !d.config.coldOffered() {
		d.ok("filecoin", "not used: lotus-url is not set")
		return
	}
	if d.config.Devnet {
		d.ok("filecoin", "a devnet inside the server; nothing real is stored")
	} else {
		d.checkNode(ctx)
		d.checkPieceURL(ctx)
	}
	if d.config.MaxPrice.IsZero() {
		d.warn("spending", "set max-price, max-deal-cost, max-day-cost and max-month-cost", "only free and verified deals are made: max-price is 0")
	} else {
		d.ok("spending", "at most %s a GiB and epoch, %s a deal, %s a day, %s a month", d.config.MaxPrice, d.config.MaxDealCost, d.config.MaxDayCost, d.config.MaxMonthCost)
	}
	d.checkProviders(ctx)
}

func (d *doctor) checkNode(ctx context.Context) {
	wallet, err := address.NewFromString(d.config.Wallet)
	if err != nil {
		d.fail("wallet", "name an address of the node's wallet", "%s: %v", d.config.Wallet, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, coldPatience)
	defer cancel()
	node, err := chain.Open(ctx, chain.Config{
		URL: d.config.LotusURL, Token: d.config.LotusToken.Reveal(), Network: d.config.FilecoinNetwork, Wallet: wallet,
	}, d.log)
	if err != nil {
		d.fail("filecoin", "correct the settings", "%v", err)
		return
	}
	defer node.Close()
	for _, f := range node.Check(ctx) {
		switch {
		case f.Err != nil:
			d.fail(f.What, f.Advice, "%s: %v", f.Detail, f.Err)
		case f.Advice != "":
			d.warn(f.What, f.Advice, "%s", f.Detail)
		default:
			d.ok(f.What, "%s", f.Detail)
		}
	}
}

// checkPieceURL sees whether the address that providers are given leads here, and is one that they accept.
func (d *doctor) checkPieceURL(ctx context.Context) {
	base := d.config.pieceURL("")
	if d.server != nil {
		base = d.config.pieceURL(d.server.Listening)
	}
	ctx, cancel := context.WithTimeout(ctx, coldPatience)
	defer cancel()
	u, err := url.Parse(base)
	if err != nil {
		d.fail("piece url", "correct piece-url", "%s: %v", base, err)
		return
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		d.fail("piece url", "correct piece-url, or the name server", "%s: %v", base, err)
		return
	}
	for _, a := range addrs {
		if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			d.warn("piece url", "set piece-url to a public address: real providers refuse private ones", "%s is at %s", base, a)
			return
		}
	}
	if d.server == nil {
		d.ok("piece url", "%s; start the server to see whether it leads there", base)
		return
	}
	status, err := statusOf(ctx, base+"/baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq")
	switch {
	case err != nil:
		d.fail("piece url", "see that the proxy passes /piece on to "+d.server.Listening, "%s: %v", base, err)
	case status != http.StatusUnauthorized:
		d.fail("piece url", "see that the proxy passes /piece on to "+d.server.Listening, "%s answers %d where this server answers 401", base, status)
	default:
		d.ok("piece url", "%s leads to this server", base)
	}
}

func statusOf(ctx context.Context, target string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// checkProviders reads the registry, where a running server keeps what the providers say.
func (d *doctor) checkProviders(ctx context.Context) {
	if !databaseExists(&d.config.Config) {
		d.warn("providers", "start the server once, then name some: frostpin providers add f01000", "there are none yet")
		return
	}
	db, err := database.Open(ctx, string(d.config.Database), d.log)
	if err != nil {
		return // the database has a finding of its own
	}
	registry := deals.NewRegistry(db, time.Now)
	list, err := registry.Providers(ctx)
	var copies []deals.Copy
	if err == nil {
		copies, err = copiesOf(ctx, registry, list)
	}
	if err = closedWith(err, db); err != nil {
		d.warn("providers", "run `frostpin serve` of this release once", "%v", err)
		return
	}
	d.checkCopies(ctx, copies)
	answering := 0
	for _, p := range list {
		switch {
		case p.Trust == deals.Denied:
		case p.ProbeError != "":
			d.warn("provider", "frostpin providers show "+p.ID.String(), "%s: %s", p.ID, p.ProbeError)
		case p.Ask != nil:
			answering++
		}
	}
	switch {
	case answering == 0:
		d.fail("providers", "name some: frostpin providers add f01000", "%d in the registry, none of which gives conditions", len(list))
	case answering < d.config.Replicas:
		d.warn("providers", "name more: frostpin providers add f01000", "%d give conditions, fewer than the %d copies of a pin", answering, d.config.Replicas)
	default:
		d.ok("providers", "%d of %d give conditions", answering, len(list))
	}
}

// copiesOf returns one cold copy for each provider that has any.
func copiesOf(ctx context.Context, r *deals.Registry, list []deals.Provider) (all []deals.Copy, err error) {
	for _, p := range list {
		one, found, err := r.Copy(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		if found {
			all = append(all, one)
		}
	}
	return all, nil
}

func closedWith(err error, db *database.DB) error {
	if closing := db.Close(); err == nil && closing != nil {
		return fmt.Errorf("closing the database: %w", closing)
	}
	return err
}
