package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/devnet"
	"github.com/frostpin/frostpin/deals/devnet/sp"
)

const (
	crowdEpoch    = time.Second // a tipset, and so a round, as often: on Filecoin it is 30 s, and a round an hour
	crowdFinality = 5           // epochs
	crowdPrice    = 1_000_000   // attoFIL per GiB and epoch
	crowdSector   = 16          // deals in one
)

// A crowd is a devnet in a process of its own, so that what its node costs can be told from what we cost. It has three
// providers, and with each of them one deal of each of many roots.
type crowd struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser

	URL       string          `json:"url"`
	Token     string          `json:"token"`
	Wallet    address.Address `json:"wallet"`
	First     abi.DealID      `json:"first"` // of the deals, which are numbered by root and then by copy
	Providers []crowdProvider `json:"providers"`
}

type crowdProvider struct {
	Miner address.Address `json:"miner"`
	HTTP  string          `json:"http"`
}

func (p crowdProvider) id() (deals.ProviderID, error) { return deals.ParseProvider(p.Miner.String()) }

// startCrowd returns when all deals are final and all providers are there.
func startCrowd(ctx context.Context, roots int, dir string) (*crowd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &crowd{cmd: exec.CommandContext(ctx, self, "-crowd", fmt.Sprintf("%d,%s", roots, dir))}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewDecoder(out).Decode(c); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a devnet: %w", err), c.stop())
	}
	return c, nil
}

// settle makes the state of so many deals, far from each other, change in each epoch from now on.
func (c *crowd) settle(deals int) error {
	_, err := fmt.Fprintln(c.stdin, deals)
	return err
}

// settleOnce makes the state of so many deals change, and returns when that is final. They may be settled twice, and the
// second time they are their neighbours.
func (c *crowd) settleOnce(ctx context.Context, deals int) error {
	for _, step := range []struct {
		deals  int
		epochs time.Duration
	}{{deals, 1}, {0, crowdFinality + 3}} {
		if err := errors.Join(c.settle(step.deals), pause(ctx, step.epochs*crowdEpoch)); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) stop() error { return errors.Join(c.stdin.Close(), c.cmd.Wait()) }

// crowdDeal is the proposal of one copy of a root.
func crowdDeal(root int, client, provider address.Address) (market.DealProposal, error) {
	p, err := crowdPiece(root)
	if err != nil {
		return market.DealProposal{}, err
	}
	label, err := market.NewLabelFromString(crowdRoot(root).String())
	return market.DealProposal{
		PieceCID: p.CIDv1, PieceSize: p.Size, Client: client, Provider: provider, Label: label,
		StartEpoch: 1, EndEpoch: 1 + crowdDays*deals.EpochsPerDay,
		StoragePricePerEpoch: deals.EpochPrice(abi.NewTokenAmount(crowdPrice), p.Size),
		ProviderCollateral:   abi.NewTokenAmount(1e12), ClientCollateral: big.Zero(),
	}, err
}

// serveCrowd is that process. what is the number of roots and a directory.
func serveCrowd(ctx context.Context, what string) (err error) {
	number, dir, _ := strings.Cut(what, ",")
	roots, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("cannot serve %q: %w", what, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	net, err := devnet.Start(ctx, devnet.Config{Miners: crowdCopies, Epoch: crowdEpoch, Finality: crowdFinality, ActorEvents: true, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	seeds := make([]devnet.SeedDeal, 0, roots*crowdCopies)
	for root := range roots {
		for _, miner := range net.Miners() {
			p, err := crowdDeal(root, net.ClientAddress(), miner.ID)
			if err != nil {
				return err
			}
			seeds = append(seeds, devnet.SeedDeal{Proposal: p, Sector: abi.SectorNumber(len(seeds) / crowdSector), Activated: 1})
		}
	}
	ids, err := net.Seed(ctx, seeds)
	if err != nil {
		return err
	}
	if err := net.Advance(2 * crowdFinality); err != nil {
		return err
	}
	fleet := sp.FleetConfig{Config: sp.Config{Node: net.API(), Dir: dir, Ask: sp.Ask{Price: abi.NewTokenAmount(crowdPrice)}, Log: log}}
	for _, m := range net.Miners() {
		fleet.Members = append(fleet.Members, sp.Member{Miner: m.ID, Worker: m.Worker})
	}
	providers, err := sp.StartFleet(ctx, fleet)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, providers.Close()) }()
	for !providers.Settled() {
		if err := pause(ctx, crowdEpoch); err != nil {
			return err
		}
	}
	c := crowd{URL: net.RPCURL(), Token: net.Token("read", "write", "sign"), Wallet: net.ClientAddress(), First: ids[0]}
	for _, p := range providers {
		c.Providers = append(c.Providers, crowdProvider{p.Miner(), p.HTTPURL()})
	}
	if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
		return err
	}
	return settleOnDemand(ctx, net, ids)
}

// settleOnDemand settles as many deals in each epoch as the last line of the standard input says, until its end.
func settleOnDemand(ctx context.Context, net *devnet.Net, ids []abi.DealID) error {
	var wanted atomic.Int64
	ctx, stop := context.WithCancel(ctx)
	go func() {
		defer stop()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				wanted.Store(int64(n))
			}
		}
	}()
	for turn := 0; pause(ctx, crowdEpoch) == nil; turn++ {
		n := min(int(wanted.Load()), len(ids))
		if n == 0 {
			continue
		}
		some := make([]uint64, n)
		for i := range some {
			some[i] = uint64(ids[(i*(len(ids)/n)+turn)%len(ids)])
		}
		var params bytes.Buffer
		set := bitfield.NewFromSet(some)
		if err := set.MarshalCBOR(&params); err != nil {
			return err
		}
		_, err := net.API().MpoolPushMessage(ctx, &types.Message{
			To: builtin.StorageMarketActorAddr, From: net.Miners()[0].Owner, Value: big.Zero(),
			Method: builtin.MethodsMarket.SettleDealPaymentsExported, Params: params.Bytes(),
		}, nil)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("settling deals: %w", err)
		}
	}
	return nil
}

// cpu is the processor time that a process has used, in seconds, where the system tells: in steps of 10 ms.
func cpu(pid int) (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything; user and system time are the 12th and 13th fields after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("no times for process %d", pid)
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100, errors.Join(err1, err2)
}
