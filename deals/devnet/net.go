package devnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
)

// Config says which network to start. The zero value is a network in memory with a manual clock and no miners.
type Config struct {
	Dir     string        // where the chain is kept; "" = in memory only
	Listen  string        // of the JSON-RPC endpoint; "" = 127.0.0.1:0
	Epoch   time.Duration // time between tipsets; 0 = manual clock (Advance)
	Network string        // "" = devnet

	Miners        int              // storage providers, each with an owner and a worker key in the node's wallet
	SectorSize    abi.SectorSize   // of all of them; 0 = 32 GiB
	MinerBalance  abi.TokenAmount  // attoFIL of each owner and each worker; nil = 1,000 FIL
	ClientBalance abi.TokenAmount  // attoFIL of the client's wallet; nil = 1,000 FIL
	ClientDataCap abi.StoragePower // bytes; nil = not a verified client

	Finality       abi.ChainEpoch // 0 = 900, as on mainnet
	PreCommitDelay abi.ChainEpoch // epochs from a pre-commit to the first epoch after which it can be proven; 0 = 10 (mainnet 150)
	CronInterval   abi.ChainEpoch // a deal id has its turn once per so many epochs; 0 = 86,400, as on mainnet
	Inclusion      abi.ChainEpoch // epochs a message waits before it may be included; 0 = the next tipset

	CirculatingSupply abi.TokenAmount  // attoFIL, for collateral bounds; nil = 700 million FIL
	BaselinePower     abi.StoragePower // bytes, for collateral bounds; nil = 16 EiB
	ActorEvents       bool             // serve GetActorEventsRaw; off by default, as in Lotus

	Log *slog.Logger     // nil = discard
	Now func() time.Time // nil = time.Now; timestamps of blocks
}

func (c *Config) withDefaults() error {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:0")
	c.Network = cmp.Or(c.Network, "devnet")
	c.SectorSize = cmp.Or(c.SectorSize, 32<<30)
	c.Finality = cmp.Or(c.Finality, 900)
	c.PreCommitDelay = cmp.Or(c.PreCommitDelay, 10)
	c.CronInterval = cmp.Or(c.CronInterval, 86_400)
	fil := func(amount int64) abi.TokenAmount { return big.Mul(big.NewInt(amount), builtin.TokenPrecision) }
	orElse(&c.MinerBalance, fil(1_000))
	orElse(&c.ClientBalance, fil(1_000))
	orElse(&c.ClientDataCap, big.Zero())
	orElse(&c.CirculatingSupply, fil(700_000_000))
	orElse(&c.BaselinePower, big.Lsh(big.NewInt(1), 64))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Miners < 0 || c.Miners > maxMiners:
		return fmt.Errorf("%d miners: the devnet has 0 to %d", c.Miners, maxMiners)
	case windowProofs[c.SectorSize] == 0 && c.SectorSize != 2<<10:
		return fmt.Errorf("sector size %d: there is no proof type for it", c.SectorSize)
	case c.Finality < 0 || c.PreCommitDelay < 0 || c.CronInterval < 0 || c.Inclusion < 0:
		return errors.New("finality, delays and intervals must not be negative")
	}
	return nil
}

func orElse(amount *big.Int, value big.Int) {
	if amount.Nil() {
		*amount = value
	}
}

// Miner is a storage provider's actor: ID is an id address, Owner and Worker are key addresses in the node's wallet.
type Miner struct{ ID, Owner, Worker address.Address }

// Net is a running network of one node.
type Net struct {
	cfg      Config
	policy   policy
	log      *slog.Logger
	now      func() time.Time
	objects  *objects
	journal  *journal // nil = in memory only
	wallet   *wallet
	client   address.Address
	miners   []Miner
	secret   []byte // of the API tokens
	faults   faults
	control  controls
	reserved reservations

	mu        sync.RWMutex // chain and pool
	head      *entry
	genesis   *types.TipSet
	canon     []*entry // kept part of the canonical chain, ascending
	tipsets   map[types.TipSetKey]*entry
	pool      *pool
	chronicle chronicle
	seq       uint64
	moved     chan struct{} // closed when the head moves
	liveBytes int64         // of objects after the last collection

	node   *api.FullNodeStruct // in process, without faults
	rpc    *http.Server
	addr   net.Addr
	conns  *connections
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start opens or creates the network and serves its node. The clock stops when ctx ends; Close releases everything.
func Start(ctx context.Context, cfg Config) (*Net, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	n := &Net{
		cfg: cfg, log: cfg.Log, now: cfg.Now,
		policy: policy{
			cronInterval: cfg.CronInterval, preCommitDelay: cfg.PreCommitDelay,
			circulatingSupply: cfg.CirculatingSupply, baselinePower: cfg.BaselinePower,
		},
		objects: newObjects(), wallet: newWallet(), pool: newPool(),
		tipsets: map[types.TipSetKey]*entry{}, moved: make(chan struct{}),
	}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.journal.close())
	}
	if err := n.serve(ctx); err != nil {
		return nil, errors.Join(err, n.journal.close())
	}
	run, cancel := context.WithCancel(ctx)
	n.cancel = cancel
	if cfg.Epoch > 0 {
		n.done.Go(func() { n.tick(run) })
	}
	n.log.Info("devnet started", "network", cfg.Network, "rpc", n.RPCURL(), "height", n.Height(), "miners", len(n.miners))
	return n, nil
}

// open loads the chain from its journal, or makes a new one.
func (n *Net) open(ctx context.Context) error {
	if n.cfg.Dir != "" {
		j, err := openJournal(n.cfg.Dir)
		if err != nil {
			return fmt.Errorf("opening the chain in %s: %w", n.cfg.Dir, err)
		}
		n.journal = j
		found, err := n.replay(ctx)
		if err != nil {
			return fmt.Errorf("reading the chain in %s: %w", n.cfg.Dir, err)
		}
		if found {
			return nil
		}
	}
	if err := n.create(ctx); err != nil {
		return fmt.Errorf("creating a chain: %w", err)
	}
	return nil
}

// Close stops the clock and the node. The chain stays in its directory.
func (n *Net) Close() error {
	n.cancel()
	err := n.rpc.Close()
	n.conns.drop()
	n.done.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(err, n.journal.close())
}

// RPCURL is the websocket address of the node's v1 API.
func (n *Net) RPCURL() string { return "ws://" + n.addr.String() + "/rpc/v1" }

// API is the node in process: the same methods as over RPC, with every permission and without injected faults.
func (n *Net) API() *api.FullNodeStruct { return n.node }

// ClientAddress is the funded key address meant for Frostpin; the node's wallet holds its key.
func (n *Net) ClientAddress() address.Address { return n.client }

// Miners lists the storage providers' actors in the order of their ids.
func (n *Net) Miners() []Miner { return append([]Miner(nil), n.miners...) }

// Height is that of the head.
func (n *Net) Height() abi.ChainEpoch {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.head.height()
}
