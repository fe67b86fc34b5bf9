package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
	"github.com/frostpin/frostpin/deals/mk12"
	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/retrieval"
	"github.com/frostpin/frostpin/server"
)

// coldOffered tells whether the settings name a Filecoin network to store on.
func (c *Config) coldOffered() bool { return c.Devnet || c.LotusURL != "" }

// Files and folders of the cold tier in the data directory.
func (c *Config) layoutDir() string  { return filepath.Join(c.DataDir, "pieces") }
func (c *Config) devnetDir() string  { return filepath.Join(c.DataDir, "devnet") }
func (c *Config) receiptKey() string { return filepath.Join(c.DataDir, "receipt.key") }
func (c *Config) bearerKey() string  { return filepath.Join(c.DataDir, "piece.key") } // of releases that did not share it

// What a devnet is run with where nobody has decided: its coins cost nothing, and its clock is fast.
const (
	devnetName     = "devnet"
	devnetEpoch    = 100 * time.Millisecond
	devnetReplicas = 3
)

// deriveCold fills the settings of the cold tier whose default depends on others.
func (c *Config) deriveCold(given func(name string) bool) {
	if !c.Devnet {
		return
	}
	if !given("replicas") {
		c.Replicas = devnetReplicas
	}
	set := func(name string, target *Amount, text string) {
		if !given(name) {
			*target, _ = parseAmount(text) // our own text
		}
	}
	if !given("filecoin-network") {
		c.FilecoinNetwork = devnetName
	}
	set("max-price", &c.MaxPrice, "1000000000")
	set("max-deal-cost", &c.MaxDealCost, "1FIL")
	set("max-day-cost", &c.MaxDayCost, "1000FIL")
	set("max-month-cost", &c.MaxMonthCost, "10000FIL")
	set("escrow-floor", &c.EscrowFloor, "1FIL")
	set("escrow-top-up", &c.EscrowTopUp, "10FIL")
	set("max-day-escrow", &c.MaxDayEscrow, "1000FIL")
}

// pieceURL is where storage providers fetch pieces. listening is where the server really listens.
func (c *Config) pieceURL(listening string) string {
	if c.PieceURL != "" {
		return strings.TrimRight(c.PieceURL, "/")
	}
	return c.origin(listening) + "/piece"
}

// defaultCopies are what a pin gets that does not say.
func (c *Config) defaultCopies() pins.ColdPolicy {
	return pins.ColdPolicy{Off: c.Replicas == 0, Terms: deals.Terms{Replicas: c.Replicas, Days: c.DealDays}}
}

// validateCold names what is wrong with the settings of the cold tier.
func (c *Config) validateCold(wrong problems) {
	wrong.check("max-replicas", c.MaxReplicas < 1, "it must be at least 1")
	wrong.check("replicas", c.Replicas < 0 || c.Replicas > c.MaxReplicas, "it must be from 0 to max-replicas")
	wrong.check("deal-days", c.DealDays < deals.MinDays || c.DealDays > deals.MaxDays, "it must be from 180 to 1278")
	wrong.check("deal-start-delay", c.DealStartDelay < 1, "it must be longer than 0")
	wrong.check("deal-renew-before", c.DealRenewBefore.Epochs() <= c.DealStartDelay.Epochs(),
		"it must be longer than deal-start-delay: a renewal that begins later leaves a gap")
	_, err := pins.ParsePinnedWhen(c.PinnedWhen)
	wrong.add("pinned-when", err)
	wrong.check("pinned-when", c.PinnedWhen != "hot" && !c.coldOffered(), "nothing is stored on Filecoin: set lotus-url, or hot")
	wrong.check("piece-transfers", c.PieceTransfers < 1, "it must be at least 1")
	wrong.check("piece-rate", c.PieceRate < 0, "it must not be negative")
	wrong.check("layout-space", c.LayoutSpace < 1<<20, "it must be at least 1MiB")
	wrong.check("max-piece", abi.PaddedPieceSize(max(c.MaxPiece, 0)).Validate() != nil, "it must be a power of two, such as 32GiB")
	wrong.check("deals-at-once", c.DealsAtOnce < 1, "it must be at least 1")
	wrong.check("deals-per-provider", c.DealsPerProvider < 1, "it must be at least 1")
	for name, limit := range map[string]Amount{"max-deal-cost": c.MaxDealCost, "max-day-cost": c.MaxDayCost, "max-month-cost": c.MaxMonthCost} {
		wrong.check(name, limit.IsZero() && !c.MaxPrice.IsZero(), "max-price is set: say how much may be spent in all")
	}
	wrong.check("max-day-escrow", c.MaxDayEscrow.IsZero() && !c.EscrowTopUp.IsZero(), "escrow-top-up is set: say how much may be moved in a day")
	if c.PieceURL != "" {
		wrong.add("piece-url", checkURL(c.PieceURL))
	}
	c.validateRetrieval(wrong)
	if c.LotusURL == "" {
		return
	}
	wrong.check("devnet", c.Devnet, "lotus-url is set too: a devnet is a network of its own")
	wrong.check("lotus-url", !isEndpoint(c.LotusURL), "it is not an address such as ws://127.0.0.1:1234/rpc/v1")
	wrong.check("lotus-token", strings.ContainsAny(c.LotusToken.Reveal(), "\r\n"), "it is more than one line")
	if c.Wallet == "" {
		wrong.check("wallet", true, "lotus-url is set: name the address that proposes and pays")
	} else {
		a, err := address.NewFromString(c.Wallet)
		wrong.check("wallet", err != nil || a.Protocol() != address.SECP256K1 && a.Protocol() != address.BLS && a.Protocol() != address.Delegated,
			"it is not a key address such as f1… or f3…")
	}
	public := c.FilecoinNetwork == "mainnet" || c.FilecoinNetwork == "calibrationnet"
	wrong.check("piece-url", public && !strings.HasPrefix(c.PieceURL, "https://"),
		"lotus-url is set: storage providers need a public https:// address")
}

// isEndpoint wants the address of a JSON-RPC API.
func isEndpoint(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
		return true
	}
	return false
}

// dealPolicy is how promises are kept, in the time of the network that is used.
func (c *Config) dealPolicy() deals.Policy {
	p := deals.Defaults()
	p.StartDelay, p.RenewBefore = c.DealStartDelay.Epochs(), c.DealRenewBefore.Epochs()
	if c.FilecoinNetwork != devnetName {
		return p
	}
	// A devnet's epochs pass 300 times faster than Filecoin's, and so must everything that waits for them.
	p.EpochTime = devnetEpoch
	p.Poll, p.PollSlow = time.Second, 5*time.Second
	p.RetryFirst, p.RetryMax, p.CoolDown = 2*time.Second, 30*time.Second, 30*time.Second
	p.Stuck, p.UnknownFor = time.Minute, 5*time.Second
	return p
}

// A coldTier is what stores on Filecoin, and what that needs.
type coldTier struct {
	*deals.Service
	notary  *deals.Notary
	lotus   *chain.Lotus
	host    host.Host
	layouts *piece.Store
	devnet  *devnetwork // nil: the network is elsewhere
}

// openCold makes the cold tier that the settings describe; nil when they describe none. listening is where the server
// really listens, because providers must find it.
func (p *program) openCold(ctx context.Context, c *Config, db *database.DB, blocks piece.Blocks, instance, listening string, log *slog.Logger) (t *coldTier, err error) {
	if !c.coldOffered() {
		return nil, nil
	}
	t = &coldTier{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	node := chain.Config{URL: c.LotusURL, Token: c.LotusToken.Reveal(), Network: c.FilecoinNetwork, Now: p.now}
	if c.Devnet {
		if t.devnet, err = p.joinDevnet(ctx, c, db, log); err != nil {
			return t, err
		}
		node.URL, node.Token, node.Wallet = t.devnet.net.RPCURL(), t.devnet.token(), t.devnet.net.ClientAddress()
	} else if node.Wallet, err = address.NewFromString(c.Wallet); err != nil {
		return t, fmt.Errorf("reading the wallet's address: %w", err)
	}
	if t.lotus, err = chain.Open(ctx, node, log); err != nil {
		return t, err
	}
	private := c.FilecoinNetwork == devnetName
	if t.host, err = mk12.NewHost(mk12.Config{AllowPrivate: private}); err != nil {
		return t, err
	}
	if t.layouts, err = piece.OpenStore(c.layoutDir(), int64(c.LayoutSpace)); err != nil {
		return t, err
	}
	bearer, err := pieceKey(ctx, db, c.bearerKey(), log)
	if err != nil {
		return t, err
	}
	receipts, err := deals.OpenNotaryKey(c.receiptKey())
	if err != nil {
		return t, err
	}
	t.notary = deals.NewNotary(c.Endpoint(listening), receipts, p.now)
	t.Service, err = deals.New(c.dealsConfig(instance, c.pieceURL(listening), bearer), db, deals.Parts{
		Chain:   t.lotus,
		Market:  mk12.New(t.host, mk12.Config{AllowPrivate: private}),
		Blocks:  blocks,
		Layouts: t.layouts,
	}, log, p.now)
	return t, err
}

// pieceKey is the key of the tokens with which providers fetch pieces, the same on every server of a database. Releases
// that did not share it kept it in the file at path: the first server that starts brings its own, for the deals under way.
func pieceKey(ctx context.Context, db *database.DB, path string, log *slog.Logger) ([]byte, error) {
	own, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the key of piece tokens: %w", err)
	}
	key, err := deals.TokenKey(ctx, db, own)
	if err != nil {
		return nil, fmt.Errorf("reading the key of piece tokens: %w", err)
	}
	if len(own) > 0 && !bytes.Equal(own, key) {
		log.Warn("the servers of this database share another key of piece tokens: this file is of no use any more, and providers cannot fetch "+
			"for deals that were proposed with it", "file", path)
	}
	return key, nil
}

// joinDevnet starts a devnet in this process and puts its providers into the registry.
func (p *program) joinDevnet(ctx context.Context, c *Config, db *database.DB, log *slog.Logger) (*devnetwork, error) {
	d, err := openDevnet(ctx, defaultDevnet(c.devnetDir()), log)
	if err != nil {
		return nil, err
	}
	// A provider whose address is not on chain yet would only be asked again later.
	err = during(log, "waiting for the devnet's providers", func() error { return d.settled(ctx) })
	var list []deals.Decision
	if err == nil {
		list, err = d.decisions()
	}
	if err == nil {
		_, err = deals.NewRegistry(db, p.now).Apply(ctx, list, false)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("entering the devnet's providers: %w", err), d.close())
	}
	return d, nil
}

// check is what /readyz asks: whether the chain can be seen.
func (t *coldTier) check(ctx context.Context) error {
	_, err := t.lotus.Heads(ctx)
	return err
}

// close takes the parts down, the service having ended.
func (t *coldTier) close() error {
	var errs []error
	if t.layouts != nil {
		errs = append(errs, t.layouts.Close()) // before the blocks that it reads
	}
	if t.lotus != nil {
		t.lotus.Close()
	}
	if t.host != nil {
		errs = append(errs, t.host.Close())
	}
	if t.devnet != nil {
		errs = append(errs, t.devnet.close())
	}
	return errors.Join(errs...)
}

func (c *Config) dealsConfig(instance, pieceURL string, bearer []byte) deals.Config {
	return deals.Config{
		Policy: c.dealPolicy(),
		Caps:   c.dealCaps(),
		Funding: deals.Funding{
			Floor: c.EscrowFloor.Tokens(), TopUp: c.EscrowTopUp.Tokens(), PerDay: c.MaxDayEscrow.Tokens(),
		},
		PublicURL:   pieceURL,
		Secret:      bearer,
		Global:      c.DealsAtOnce,
		PerProvider: c.DealsPerProvider,
		MaxPiece:    abi.PaddedPieceSize(c.MaxPiece),
		MaxReplicas: c.MaxReplicas,
		Verified:    c.VerifiedDeals,
		Instance:    instance,
		At:          failpoint(),
	}
}

func (c *Config) dealCaps() deals.Caps {
	return deals.Caps{
		PerGiBEpoch: c.MaxPrice.Tokens(), PerDeal: c.MaxDealCost.Tokens(), PerDay: c.MaxDayCost.Tokens(), PerMonth: c.MaxMonthCost.Tokens(),
	}
}

// What the server asks of the cold tier, in its own words.

type pieceSource struct{ *deals.Service }

func (s pieceSource) OpenPiece(ctx context.Context, root cid.Cid, bearer string) (server.PieceFile, error) {
	return s.Service.OpenPiece(ctx, root, bearer)
}

// coldCopies tells about deals, and about what was read back from them.
type coldCopies struct {
	*coldTier
	reading *retrieval.Service
}

var _ server.Cold = coldCopies{}

// ReadBack tells when a copy of a root was last read back.
func (c coldCopies) ReadBack(ctx context.Context, root cid.Cid) (time.Time, error) {
	return c.reading.Proven(ctx, root)
}

// Receipt is the signed receipt of a wish.
func (t *coldTier) Receipt(ctx context.Context, w deals.Wish) ([]byte, error) {
	r, err := t.Service.Receipt(ctx, w, t.notary)
	if err != nil {
		return nil, err
	}
	return r.Bytes()
}

// ReceiptKey is the key that signs receipts.
func (t *coldTier) ReceiptKey() string { return t.notary.Key() }
